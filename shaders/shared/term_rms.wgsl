// The gradient of the weight of rms_norm.wgsl.
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read> rstd: array<f32>;

fn term(row: u32, at: u32) -> f32 {
    return dy[at] * (x[at] * rstd[row]);
}
