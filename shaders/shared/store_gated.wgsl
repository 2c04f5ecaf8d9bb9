// y = the product (and earlier terms of it), whose columns are gate and up by turns of four, and h = act(gate) · up.   arXiv 2002.05202
// Pads are zero of themselves, as the weight's rows there are.
@group(0) @binding(8) var<storage, read_write> h: array<vec4<f32>>;

fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 4u;
    var gate = lo;
    var up = hi;
    if (params.accumulate == 1u) {
        gate += y[at];
        up += y[at + 1u];
    }
    y[at] = gate;
    y[at + 1u] = up;
    h[row * params.other_stride4 + column / 8u] = gate * sigmoid_vec4(inner(gate)) * up;
}
