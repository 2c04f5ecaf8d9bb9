// The product is dh, the gradient on h = act(x); y becomes that on x: dh · act'(x).
//
// Where the sum has parts, those before the last wait in their places.
@group(0) @binding(8) var<storage, read> before: array<vec4<f32>>;

fn store_four(at: u32, product: vec4<f32>) {
    var dh = product;
    if (params.accumulate == 1u) {
        dh += y[at];
    }
    if (params.finish == 1u) {
        let x = before[at];
        let s = sigmoid_vec4(inner(x));
        dh = dh * s * (1.0 + x * (1.0 - s) * inner_slope(x));
    }
    y[at] = dh;
}

fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 4u;
    store_four(at, zero_from(column, end, lo));
    store_four(at + 1u, zero_from(column + 4u, end, hi));
}
