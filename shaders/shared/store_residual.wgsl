// y = residual + the product; the residual lies as y does.
@group(0) @binding(8) var<storage, read> residual: array<vec4<f32>>;

fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 4u;
    y[at] = residual[at] + zero_from(column, end, lo);
    y[at + 1u] = residual[at + 1u] + zero_from(column + 4u, end, hi);
}
