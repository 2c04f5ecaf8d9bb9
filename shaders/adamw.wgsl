// AdamW (shared/adamw.wgsl) with both moments in f32.
//
// One thread a vec4.
struct Params {
    n4: u32,
    // Threads in a row of the grid.
    row_threads: u32,
    _pad0: u32,
    _pad1: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
// As grad_norm leaves them: loss, norm, clip factor, 1 if finite.
@group(0) @binding(3) var<storage, read> metrics: array<f32>;
@group(0) @binding(4) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> exp_avg: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> exp_avg_sq: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let i = global_id.y * params.row_threads + global_id.x;
    if (i >= params.n4 || metrics[3] == 0.0) {
        return;
    }
    let after = moved(Moments(exp_avg[i], exp_avg_sq[i]), grads[i] * metrics[2]);
    exp_avg[i] = after.m;
    exp_avg_sq[i] = after.v;
    weights[i] = updated(weights[i], after, learning_rate(i), weight_decay(i));
}
