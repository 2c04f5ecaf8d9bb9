// y[t, first + j] = Σ_k x[t, k] w[j, k] + scale · Σ_r tail_x[t, r] tail_w[first + j, r],  j < n; or y += that.
//
// x [rows, k], w [n, k] in any weight format; tail_x and tail_w are LoRA's x Aᵀ [rows, r] (of each
// segment) and B [.., r], or nothing.
// f32 sums. One thread computes ROWS rows × 8 columns.

fn tail_tile(c0: u32, c1: u32, c2: u32, c3: u32, k4: u32) -> mat4x4<f32> {
    let f = params.first;
    return (params.tail_scale * step.strength)
        * mat4x4<f32>(tail_weight(f + c0, k4), tail_weight(f + c1, k4), tail_weight(f + c2, k4), tail_weight(f + c3, k4));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>) {
    let at = block_at(global_id, workgroup_id);
    let row = at.x;
    let col = at.y;
    if (col >= params.n || row >= n_rows(params.rows)) {
        return;
    }
    let last = params.n - 1u;
    let c1 = min(col + 1u, last); let c2 = min(col + 2u, last); let c3 = min(col + 3u, last); let c4 = min(col + 4u, last);
    let c5 = min(col + 5u, last); let c6 = min(col + 6u, last); let c7 = min(col + 7u, last);
    var block: Block;
    for (var k8 = 0u; k8 < params.k8; k8 += 1u) {
        let w0 = weight_pair(col, k8); let w1 = weight_pair(c1, k8); let w2 = weight_pair(c2, k8); let w3 = weight_pair(c3, k8);
        let w4 = weight_pair(c4, k8); let w5 = weight_pair(c5, k8); let w6 = weight_pair(c6, k8); let w7 = weight_pair(c7, k8);
        add_products(&block, x_rows(row, 2u * k8), mat4x4<f32>(w0.lo, w1.lo, w2.lo, w3.lo), mat4x4<f32>(w4.lo, w5.lo, w6.lo, w7.lo));
        add_products(&block, x_rows(row, 2u * k8 + 1u), mat4x4<f32>(w0.hi, w1.hi, w2.hi, w3.hi), mat4x4<f32>(w4.hi, w5.hi, w6.hi, w7.hi));
    }
    let segment = segment_of(params.first + col, params.segments.ends, INTERLEAVED);
    for (var k4 = 0u; k4 * 4u < params.tail_rank; k4 += 1u) {
        let lo = tail_tile(col, c1, c2, c3, k4);
        let hi = tail_tile(c4, c5, c6, c7, k4);
        let rows = tail_rows(row, k4, segment);
        if (INTERLEAVED == 1u) {
            add_products_apart(&block, rows, tail_rows(row, k4, 1u), lo, hi);
        } else {
            add_products(&block, rows, lo, hi);
        }
    }
    store_block(block, row, params.first + col, params.first + params.n);
}
