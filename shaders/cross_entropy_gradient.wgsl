// One thread a vec4 of a row: the gradient takes the logits' place.
@group(0) @binding(2) var<storage, read> targets: array<u32>;
// (maximum, 1 / Σ exp(logit - maximum)) [rows].
@group(0) @binding(3) var<storage, read> totals: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> logits: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let c = global_id.x;
    let row = global_id.y;
    if (c >= params.stride4 || row >= n_rows(params.rows)) {
        return;
    }
    let total = totals[row];
    let target_c = targets[params.rows.start + row];
    let at = row * params.stride4 + c;
    let probability = exp_vec4(logits[at] - total.x) * total.y;
    let is_target = c * 4u + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(target_c);
    var aim = select(vec4<f32>(0.0), vec4<f32>(1.0), is_target);
    if (LABEL_SMOOTHING == 1u) {
        aim = (1.0 - step.label_smoothing) * aim + step.label_smoothing / f32(params.width);
    }
    logits[at] = select((probability - aim) * step.loss_scale, vec4<f32>(0.0), is_pad(c));
}
