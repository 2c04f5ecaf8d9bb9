// One thread a row: 1.0 where no token is likelier than the target.
@group(0) @binding(2) var<storage, read> logits: array<f32>;
// All targets; this window's begin at params.rows.start.
@group(0) @binding(3) var<storage, read> targets: array<u32>;
// (maximum, 1 / Σ exp(logit - maximum)) [rows].
@group(0) @binding(4) var<storage, read> totals: array<vec2<f32>>;
// As targets.
@group(0) @binding(5) var<storage, read_write> hits: array<f32>;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let row = global_id.x;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let at = params.rows.start + row;
    hits[at] = f32(logits[row * params.stride4 * 4u + targets[at]] >= totals[row].x);
}
