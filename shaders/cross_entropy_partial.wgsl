// One thread a lane of a row: the vec4s lane, lane + LANES, … give their maximum and Σ exp(logit - maximum).
@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>;
// (maximum, sum) [capacity, LANES]; then, with LABEL_SMOOTHING, (sum of logits, unused) [capacity, LANES].
@group(0) @binding(3) var<storage, read_write> partials: array<vec2<f32>>;

// Below all logits, and far enough for its exponential to vanish in any sum.
const LOWEST = vec4<f32>(-1e30);

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let lane = global_id.x;
    let row = global_id.y;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let start = row * params.stride4;
    var largest4 = LOWEST;
    for (var c = lane; c < params.stride4; c += LANES) {
        largest4 = max(largest4, select(logits[start + c], LOWEST, is_pad(c)));
    }
    let largest = max(max(largest4.x, largest4.y), max(largest4.z, largest4.w));
    var sum4 = vec4<f32>(0.0);
    var all4 = vec4<f32>(0.0);
    for (var c = lane; c < params.stride4; c += LANES) {
        if (LABEL_SMOOTHING == 1u) {
            all4 += select(logits[start + c], vec4<f32>(0.0), is_pad(c));
        }
        sum4 += exp_vec4(select(logits[start + c], LOWEST, is_pad(c)) - largest);
    }
    partials[row * LANES + lane] = vec2<f32>(largest, (sum4.x + sum4.y) + (sum4.z + sum4.w));
    if (LABEL_SMOOTHING == 1u) {
        partials[(params.capacity + row) * LANES + lane] = vec2<f32>((all4.x + all4.y) + (all4.z + all4.w), 0.0);
    }
}
