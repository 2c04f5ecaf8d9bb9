// One step of AdamW as in torch.optim.AdamW (arXiv 1711.05101, algorithm 2), with g the clipped gradient:
//   p *= 1 - lr · weight_decay
//   m = beta1 · m + (1 - beta1) · g,  v = beta2 · v + (1 - beta2) · g²
//   p -= lr / bias_correction1 · m / (sqrt(v) / sqrt(bias_correction2) + eps)
// or nothing at all when loss or gradients are not finite.
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
    let g = grads[i] * metrics[2];
    let m = exp_avg[i] + (1.0 - step.beta1) * (g - exp_avg[i]);
    let v = step.beta2 * exp_avg_sq[i] + (1.0 - step.beta2) * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    let denom = sqrt(v) / sqrt(step.bias_correction2) + step.eps;
    let decayed = weights[i] * (1.0 - step.learning_rate * step.weight_decay);
    weights[i] = decayed - (step.learning_rate / step.bias_correction1) * (m / denom);
}
