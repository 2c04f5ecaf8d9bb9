// h[t, c] = silu(gate[t, c]) · up[t, c],  silu(x) = x · sigmoid(x).   arXiv 2002.05202
//
// One thread a vec4: x along columns, y along token rows. Zero pad columns give zero.
struct Params {
    // vec4s from one row to the next, the same in all matrices.
    stride4: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> h: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    if (global_id.x >= params.stride4 || global_id.y >= step.n_tokens) {
        return;
    }
    let at = global_id.y * params.stride4 + global_id.x;
    let g = gate[at];
    h[at] = g * sigmoid_vec4(g) * up[at];
}
