// One thread a vec4 of a row: the gradient of a target's cross-entropy becomes that of the loss.
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> d: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let c = global_id.x;
    let row = global_id.y;
    if (c >= params.stride4 || row >= n_rows(params.rows)) {
        return;
    }
    d[row * params.stride4 + c] *= weights[params.rows.start + row];
}
