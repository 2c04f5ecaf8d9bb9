// (d·s, -dmin·m) of 32 columns, of Q4_K and Q5_K. Five u32 for 256 columns: d and -dmin as f16, then s and m, a byte
// each, for each 32. These products and those with q are exact in f32: 11 bits of an f16, 6 of s, 5 of q.
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

fn scale_and_minimum(at: u32) -> vec2<f32> {
    let block = (at >> 3u) * 5u;
    let dm = unpack2x16float(w_scales[block]);
    let sm = w_scales[block + 1u + ((at >> 1u) & 3u)] >> ((at & 1u) * 16u);
    return dm * vec2<f32>(vec2<u32>(sm & 255u, (sm >> 8u) & 255u));
}
