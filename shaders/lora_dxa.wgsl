// y[t, slot + i] = factor · Σ_j x[t, j] w[j, i]  over the columns j of the segment with that slot: LoRA's gradient d(x Aᵀ) without
// its scale, from x = dy [rows, ..] and w = B [.., r] of linears that lie in one matrix.
//
// f32 sums. One thread computes ROWS rows × 8 columns, workgroups along y are blocks of eight columns of y.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread,
) {
    let row = global_id.x * ROWS;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let slot = workgroup_id.y / params.k8 * params.k8 * 2u;
    let k8 = workgroup_id.y % params.k8;
    var segment = 0u;
    for (var i = 1u; i < N_SEGMENTS; i += 1u) {
        segment = select(segment, i, params.segments.slots[i] == slot);
    }
    var j = 0u;
    var end = params.n;
    var step_columns = 4u;
    if (INTERLEAVED == 1u) {
        j = 4u * segment;
        step_columns = 8u;
    } else if (N_SEGMENTS > 1u) {
        end = min(end, params.segments.ends[segment]);
        if (segment > 0u) {
            j = params.segments.ends[segment - 1u];
        }
    }
    let factor = params.segments.factors[workgroup_id.y / params.k8];
    let rows = rows_at(thread, row);
    var block: Block;
    let last = params.n - 1u;
    for (; j < end; j += step_columns) {
        let w0 = weight_pair(j, k8);
        let w1 = weight_pair(min(j + 1u, last), k8);
        let w2 = weight_pair(min(j + 2u, last), k8);
        let w3 = weight_pair(min(j + 3u, last), k8);
        let lo = transpose(mat4x4<f32>(w0.lo, w1.lo, w2.lo, w3.lo));
        let hi = transpose(mat4x4<f32>(w0.hi, w1.hi, w2.hi, w3.hi));
        add_products(&block, x_rows(rows, j / 4u), factor * lo, factor * hi);
    }
    let column = 8u * workgroup_id.y;
    store_block(block, row, column, column + 8u);
}
