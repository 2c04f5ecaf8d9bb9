// y[t, first + j] = Σ_k x[t, k] w[j, k] + scale · Σ_r tail_x[t, r] tail_w[first + j, r],  j < n; or y += that.
//
// x [rows, k], w [n, k] in any weight format; tail_x and tail_w are LoRA's x Aᵀ [rows, r]
// (of each segment) and B [.., r], or nothing.
// f32 sums. One thread computes TALL × WIDE blocks of ROWS rows × 8 columns.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread,
) {
    let at = block_at(global_id, workgroup_id);
    let row = at.x;
    let col = at.y;
    if (nobody(col >= params.n || row >= n_rows(params.rows))) {
        return;
    }
    let rows0 = rows_at(thread, row);
    let rows1 = rows_at(thread, row + ROWS);
    var b00: Block; var b01: Block; var b10: Block; var b11: Block;
    for (var k8 = 0u; k8 < params.k8; k8 += 1u) {
        let w0 = weights(col, k8);
        let x0_lo = x_rows(rows0, 2u * k8); let x0_hi = x_rows(rows0, 2u * k8 + 1u);
        add_products(&b00, x0_lo, w0.lo_left, w0.lo_right); add_products(&b00, x0_hi, w0.hi_left, w0.hi_right);
        if (TALL == 2u) {
            let x1_lo = x_rows(rows1, 2u * k8); let x1_hi = x_rows(rows1, 2u * k8 + 1u);
            add_products(&b10, x1_lo, w0.lo_left, w0.lo_right); add_products(&b10, x1_hi, w0.hi_left, w0.hi_right);
            if (WIDE == 2u) {
                let w1 = weights(col + 8u, k8);
                add_products(&b01, x0_lo, w1.lo_left, w1.lo_right); add_products(&b01, x0_hi, w1.hi_left, w1.hi_right);
                add_products(&b11, x1_lo, w1.lo_left, w1.lo_right); add_products(&b11, x1_hi, w1.hi_left, w1.hi_right);
            }
        }
    }
    for (var k4 = 0u; k4 * 4u < params.tail_rank; k4 += 1u) {
        let a0 = tail_weights(col, k4); let b0 = tail_weights(col + 4u, k4);
        add_tail(&b00, rows0, col, k4, a0, b0);
        if (TALL == 2u) {
            add_tail(&b10, rows1, col, k4, a0, b0);
            if (WIDE == 2u) {
                let a1 = tail_weights(col + 8u, k4); let b1 = tail_weights(col + 12u, k4);
                add_tail(&b01, rows0, col + 8u, k4, a1, b1);
                add_tail(&b11, rows1, col + 8u, k4, a1, b1);
            }
        }
    }
    if (col >= params.n) {
        return;
    }
    let end = params.first + params.n;
    store_block(b00, row, params.first + col, end);
    if (TALL == 2u) {
        store_block(b10, row + ROWS, params.first + col, end);
        if (WIDE == 2u && col + 8u < params.n) {
            store_block(b01, row, params.first + col + 8u, end);
            store_block(b11, row + ROWS, params.first + col + 8u, end);
        }
    }
}
