// (d, m) of 32 columns as two f16 in a u32: Q4_0 has m = -8 d, Q5_0 m = -16 d, Q4_1 and Q5_1 have it in the file.
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

fn scale_and_minimum(at: u32) -> vec2<f32> {
    return unpack2x16float(w_scales[at]);
}
