// Of h = silu(gate) · up, with s = sigmoid(gate):
// d_up = dh · gate · s,  d_gate = dh · up · s · (1 + gate · (1 - s)).   arXiv 2002.05202
//
// One thread a vec4: x along columns, y along token rows. Zero pad columns of dh give zero.
struct Params {
    // vec4s from one row to the next, the same in all matrices.
    stride4: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dh: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> d_gate: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> d_up: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    if (global_id.x >= params.stride4 || global_id.y >= step.n_tokens) {
        return;
    }
    let at = global_id.y * params.stride4 + global_id.x;
    let g = gate[at];
    let s = sigmoid_vec4(g);
    let d = dh[at] * s;
    d_up[at] = d * g;
    d_gate[at] = d * up[at] * (1.0 + g * (1.0 - s));
}
