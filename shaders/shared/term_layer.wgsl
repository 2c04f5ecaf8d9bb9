// The gradient of the weight of layer_norm.wgsl.
@group(0) @binding(4) var<storage, read> x: array<f32>;
// (mean, rstd) of each row.
@group(0) @binding(5) var<storage, read> moments: array<vec2<f32>>;

fn term(row: u32, at: u32) -> f32 {
    return dy[at] * ((x[at] - moments[row].x) * moments[row].y);
}
