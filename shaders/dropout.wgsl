// y[t, c] = scale · kept(t, c) · x[t, c]: dropout on the input of LoRA's branch, and on the gradient that comes back through it;
// or (REST) what dropout takes away, with 1 - kept for kept.
//
// One thread a vec4: columns along x, rows along y.
struct Params {
    rows: Rows,
    // vec4s from one row to the next.
    stride4: u32,
    y_stride4: u32,
    // From one vec4 of y to the next: 2 where the columns of another matrix lie between.
    y_step: u32,
    // 1: times LoRA's scale at the step's strength.
    scaled: u32,
    scale: f32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
    dropout: Dropout,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let c = global_id.x;
    let row = global_id.y;
    if (c >= params.stride4 || row >= n_rows(params.rows)) {
        return;
    }
    let scale = select(1.0, params.scale * step.strength, params.scaled == 1u);
    let k = kept(params.dropout, row, c);
    let factor = select(k, 1.0 - k, REST == 1u);
    y[row * params.y_stride4 + c * params.y_step] = scale * factor * x[row * params.stride4 + c];
}
