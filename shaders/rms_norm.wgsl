// y[t, c] = x[t, c] · rstd[t] · weight[c],  rstd[t] = 1 / sqrt(mean_c x[t, c]² + eps).   arXiv 1910.07467
// xa[t, i] = factor · Σ_c y[t, c] a[i, c]: with LoRA, the low-rank values of the linears that read y. A norm after a block adds
// the residual instead.
//
// One thread a row; f32 sums, four interleaved partial sums a row. Workgroups along y: the first writes y and rstd, each
// further one eight columns of xa, for which it takes the sum of squares again rather than wait.
struct Params {
    rows: Rows,
    width: u32,
    // vec4s from one row to the next.
    stride4: u32,
    eps: f32,
    xa_stride4: u32,
    // Blocks of eight columns in a slot of xa, and the factor of each slot.
    slot8: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
    factors: vec4<f32>,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> rstd: array<f32>;

fn rstd_of(squares: vec4<f32>) -> f32 {
    let sum = squares.x + squares.y + squares.z + squares.w;
    return 1.0 / sqrt(sum / f32(params.width) + params.eps);
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread,
) {
    let row = global_id.x;
    let is_real = row < n_rows(params.rows);
    if (nobody(!is_real)) {
        return;
    }
    if (workgroup_id.y > 0u) {
        project(thread, row, workgroup_id.y - 1u, is_real);
        return;
    }
    if (!is_real) {
        return;
    }
    let start = row * params.stride4;
    var squares = vec4<f32>(0.0);
    for (var c = 0u; c < params.stride4; c += 1u) {
        let v = x[start + c];
        squares += v * v;
    }
    let r = rstd_of(squares);
    rstd[row] = r;
    for (var c = 0u; c < params.stride4; c += 1u) {
        y[start + c] = residual_at(start + c) + x[start + c] * r * weight[c];
    }
}
