// One thread a row: its lanes' partial sums brought to one maximum, and the loss.
@group(0) @binding(2) var<storage, read> logits: array<f32>;
// All targets; this window's begin at params.rows.start.
@group(0) @binding(3) var<storage, read> targets: array<u32>;
// (maximum, sum) of two lanes in each, [capacity, LANES / 2]; then sums of logits.
@group(0) @binding(4) var<storage, read> partials: array<vec4<f32>>;
// All losses, as targets.
@group(0) @binding(5) var<storage, read_write> losses: array<f32>;
// (maximum, 1 / Σ exp(logit - maximum)) [rows].
@group(0) @binding(6) var<storage, read_write> totals: array<vec2<f32>>;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let row = global_id.x;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let start = row * LANES / 2u;
    var largest2 = partials[start].xz;
    for (var i = 1u; i < LANES / 2u; i += 1u) {
        largest2 = max(largest2, partials[start + i].xz);
    }
    let largest = max(largest2.x, largest2.y);
    var sum2 = vec2<f32>(0.0);
    for (var i = 0u; i < LANES / 2u; i += 1u) {
        let v = partials[start + i];
        sum2 += vec2<f32>(exp_f32(v.x - largest), exp_f32(v.z - largest)) * v.yw;
    }
    let sum = sum2.x + sum2.y;
    let at = params.rows.start + row;
    // In this order nothing cancels when the target is the likeliest and the loss close to 0.
    let target_logit = logits[row * params.stride4 * 4u + targets[at]];
    losses[at] = log_f32(sum) + (largest - target_logit);
    if (LABEL_SMOOTHING == 1u) {
        let all_start = params.capacity * LANES / 2u + start;
        var all2 = vec2<f32>(0.0);
        for (var i = 0u; i < LANES / 2u; i += 1u) {
            all2 += partials[all_start + i].xz;
        }
        losses[at] += step.label_smoothing * (target_logit - (all2.x + all2.y) / f32(params.width));
    }
    totals[row] = vec2<f32>(largest, 1.0 / sum);
}
