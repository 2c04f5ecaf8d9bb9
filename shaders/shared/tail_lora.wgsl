// The low-rank continuation of a matmul: more terms to its sum, f32.
@group(0) @binding(6) var<storage, read> tail_x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> tail_w: array<vec4<f32>>;

fn tail_rows(row: u32, k4: u32) -> Rows8 {
    let s = params.tail_x_stride4;
    let at = row * s + k4;
    return Rows8(array<vec4<f32>, 8>(
        tail_x[at], tail_x[at + s], tail_x[at + 2u * s], tail_x[at + 3u * s],
        tail_x[at + 4u * s], tail_x[at + 5u * s], tail_x[at + 6u * s], tail_x[at + 7u * s],
    ));
}

fn tail_weight(row: u32, k4: u32) -> vec4<f32> {
    return tail_w[row * params.tail_w_stride4 + k4];
}
