// sums[c] += Σ_t term(t, c) over the columns of a run: the gradient of a bias, whose terms are those of dy, or of a norm's
// weight (shared/term_*.wgsl).
//
// A workgroup has COLUMNS columns and LANES threads for each: thread l takes the rows l, l + LANES, … in order, and the first
// adds up what all of them came to, in order.
struct Params {
    rows: Rows,
    // Columns from one row to the next.
    stride: u32,
    // Number i of the run is column first + ⌊i / 4⌋ · 4 · step + i mod 4.
    first: u32,
    len: u32,
    step: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;

var<workgroup> sh_sums: array<array<f32, LANES>, COLUMNS>;

@compute @workgroup_size(COLUMNS, LANES)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>, @builtin(local_invocation_id) local_id: vec3<u32>) {
    let i = global_id.x;
    let column = params.first + i / 4u * 4u * params.step + i % 4u;
    var sum = 0.0;
    if (i < params.len) {
        for (var t = local_id.y; t < n_rows(params.rows); t += LANES) {
            sum += term(t, t * params.stride + column);
        }
    }
    sh_sums[local_id.x][local_id.y] = sum;
    workgroupBarrier();
    if (local_id.y > 0u || i >= params.len) {
        return;
    }
    for (var lane = 1u; lane < LANES; lane += 1u) {
        sum += sh_sums[local_id.x][lane];
    }
    sums[column] += sum;
}
