// The low-rank continuation of a product: more terms to its sum, f32.
@group(0) @binding(6) var<storage, read> tail_x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> tail_w: array<vec4<f32>>;

fn tail_value(at: u32) -> vec4<f32> {
    return tail_x[at];
}

fn tail_weight(row: u32, k4: u32) -> vec4<f32> {
    return tail_w[row * params.tail_w_stride4 + k4];
}
