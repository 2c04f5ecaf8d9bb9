// y[t, k] = Σ_j x[t, first + j] w[j, k] + scale · Σ_r tail_x[t, r] tail_w[r, k],  j < n; or y += that.
//
// The way back through a frozen weight: x is dy [rows, ..], w [n, k] in any weight format, tail_x and tail_w are LoRA's
// d(x Aᵀ) [rows, r] and A [r, k], or nothing. f32 sums. One thread computes ROWS rows × 8 columns.

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>) {
    let at = block_at(global_id, workgroup_id);
    let row = at.x;
    let k8 = at.y / 8u;
    if (k8 >= params.k8 || row >= n_rows(params.rows)) {
        return;
    }
    var block: Block;
    // Rows of w past the last meet columns of x that are zero.
    let last = params.n - 1u;
    for (var j = 0u; j < params.n; j += 4u) {
        let w0 = weight_pair(j, k8);
        let w1 = weight_pair(min(j + 1u, last), k8);
        let w2 = weight_pair(min(j + 2u, last), k8);
        let w3 = weight_pair(min(j + 3u, last), k8);
        let lo = transpose(mat4x4<f32>(w0.lo, w1.lo, w2.lo, w3.lo));
        let hi = transpose(mat4x4<f32>(w0.hi, w1.hi, w2.hi, w3.hi));
        add_products(&block, x_rows(row, (params.first + j) / 4u), lo, hi);
    }
    let scale = params.tail_scale * step.strength;
    for (var r = 0u; r < params.tail_rank; r += 4u) {
        let r1 = min(r + 1u, params.tail_rank - 1u);
        let r2 = min(r + 2u, params.tail_rank - 1u);
        let r3 = min(r + 3u, params.tail_rank - 1u);
        let k4 = 2u * k8;
        let lo = mat4x4<f32>(tail_weight(r, k4), tail_weight(r1, k4), tail_weight(r2, k4), tail_weight(r3, k4));
        let hi = mat4x4<f32>(tail_weight(r, k4 + 1u), tail_weight(r1, k4 + 1u), tail_weight(r2, k4 + 1u), tail_weight(r3, k4 + 1u));
        add_products(&block, tail_rows(row, r / 4u, 0u), scale * transpose(lo), scale * transpose(hi));
    }
    store_block(block, row, 8u * k8, 8u * params.k8);
}
