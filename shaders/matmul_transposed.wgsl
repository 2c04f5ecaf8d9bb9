// y[t, k] = Σ_j x[t, first + j] w[j, k] + scale · Σ_r tail_x[t, r] tail_w[r, k],  j < n; or y += that.
//
// The way back through a frozen weight: x is dy [rows, ..], w [n, k] in any weight format, tail_x and tail_w are LoRA's
// d(x Aᵀ) [rows, r] and A [r, k], or nothing. f32 sums. One thread computes TALL × WIDE blocks of ROWS rows × 8 columns.

// Eight columns of the product, four terms of each.
struct Weights {
    left: mat4x4<f32>,
    right: mat4x4<f32>,
}

// Rows of w past the last meet columns of x that are zero.
fn weights(j: u32, k8: u32) -> Weights {
    let last = params.n - 1u;
    let w0 = weight_pair(j, k8); let w1 = weight_pair(min(j + 1u, last), k8);
    let w2 = weight_pair(min(j + 2u, last), k8); let w3 = weight_pair(min(j + 3u, last), k8);
    return Weights(
        transpose(mat4x4<f32>(w0.lo, w1.lo, w2.lo, w3.lo)), transpose(mat4x4<f32>(w0.hi, w1.hi, w2.hi, w3.hi)),
    );
}

// Four columns of the low-rank term.
fn tail_weights(r: u32, k4: u32) -> mat4x4<f32> {
    let last = params.tail_rank - 1u;
    return (params.tail_scale * step.strength) * transpose(mat4x4<f32>(
        tail_weight(r, k4), tail_weight(min(r + 1u, last), k4),
        tail_weight(min(r + 2u, last), k4), tail_weight(min(r + 3u, last), k4),
    ));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread,
) {
    let at = block_at(global_id, workgroup_id);
    let row = at.x;
    let is_real = at.y / 8u < params.k8;
    if (nobody(!is_real || row >= n_rows(params.rows))) {
        return;
    }
    let k8 = min(at.y / 8u, params.k8 - 1u);
    // The second block of columns, where there is one.
    let next8 = min(k8 + 1u, params.k8 - 1u);
    let rows0 = rows_at(thread, row); let rows1 = rows_at(thread, row + ROWS);
    let rows2 = rows_at(thread, row + 2u * ROWS); let rows3 = rows_at(thread, row + 3u * ROWS);
    var b00: Block; var b01: Block; var b10: Block; var b11: Block; var b20: Block; var b30: Block;
    for (var j = 0u; j < params.n; j += 4u) {
        let w0 = weights(j, k8);
        let x4 = (params.first + j) / 4u;
        let x0 = x_rows(rows0, x4);
        add_products(&b00, x0, w0.left, w0.right);
        if (TALL > 1u) {
            let x1 = x_rows(rows1, x4);
            add_products(&b10, x1, w0.left, w0.right);
            if (WIDE == 2u) {
                let w1 = weights(j, next8);
                add_products(&b01, x0, w1.left, w1.right);
                add_products(&b11, x1, w1.left, w1.right);
            }
        }
        if (TALL == 4u) {
            add_products(&b20, x_rows(rows2, x4), w0.left, w0.right);
            add_products(&b30, x_rows(rows3, x4), w0.left, w0.right);
        }
    }
    for (var r = 0u; r < params.tail_rank; r += 4u) {
        let a0 = tail_weights(r, 2u * k8); let b0 = tail_weights(r, 2u * k8 + 1u);
        let x0 = tail_rows(rows0, r / 4u, 0u);
        add_products(&b00, x0, a0, b0);
        if (TALL > 1u) {
            let x1 = tail_rows(rows1, r / 4u, 0u);
            add_products(&b10, x1, a0, b0);
            if (WIDE == 2u) {
                let a1 = tail_weights(r, 2u * next8); let b1 = tail_weights(r, 2u * next8 + 1u);
                add_products(&b01, x0, a1, b1);
                add_products(&b11, x1, a1, b1);
            }
        }
        if (TALL == 4u) {
            add_products(&b20, tail_rows(rows2, r / 4u, 0u), a0, b0);
            add_products(&b30, tail_rows(rows3, r / 4u, 0u), a0, b0);
        }
    }
    if (!is_real) {
        return;
    }
    let end = 8u * params.k8;
    store_block(b00, row, 8u * k8, end);
    if (TALL > 1u) {
        store_block(b10, row + ROWS, 8u * k8, end);
        if (WIDE == 2u && next8 > k8) {
            store_block(b01, row, 8u * next8, end);
            store_block(b11, row + ROWS, 8u * next8, end);
        }
    }
    if (TALL == 4u) {
        store_block(b20, row + 2u * ROWS, 8u * k8, end);
        store_block(b30, row + 3u * ROWS, 8u * k8, end);
    }
}
