// The product is dh, the gradient on h = act(gate) · up; y becomes that on gate and up, by turns of four columns:
// d_up = dh · act(gate),  d_gate = dh · up · act'(gate).
//
// Where the sum has parts, those before the last wait in the places of d_gate.
@group(0) @binding(8) var<storage, read> gate_up: array<vec4<f32>>;

fn store_four(at: u32, product: vec4<f32>) {
    var dh = product;
    if (params.accumulate == 1u) {
        dh += y[at];
    }
    if (params.finish == 0u) {
        y[at] = dh;
        return;
    }
    let gate = gate_up[at];
    let s = sigmoid_vec4(inner(gate));
    let d = dh * s;
    y[at] = d * gate_up[at + 1u] * (1.0 + gate * (1.0 - s) * inner_slope(gate));
    y[at + 1u] = d * gate;
}

fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 2u;
    store_four(at, lo);
    store_four(at + 2u, hi);
}
