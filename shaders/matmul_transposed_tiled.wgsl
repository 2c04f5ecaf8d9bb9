// matmul_transposed.wgsl through workgroup memory: how shared/tiles.wgsl gets columns of w [n, k], whose rows are terms.

fn n_terms() -> u32 {
    return params.n;
}

fn n_columns() -> u32 {
    return 8u * params.k8;
}

fn x_column() -> u32 {
    return params.first;
}

fn y_column() -> u32 {
    return 0u;
}

// Columns past the last repeat the last eight; nobody stores them.
fn load_weights(thread: u32, col: u32, j: u32) {
    let k8 = min(col / 8u + thread % 8u, params.k8 - 1u);
    for (var i = thread / 8u; i < TERMS; i += 8u) {
        var w = Pair();
        if (j + i < params.n) {
            w = weight_pair(j + i, k8);
        }
        let at = 16u * i + thread % 8u * 2u;
        w_tile[at] = vec4<Value>(w.lo);
        w_tile[at + 1u] = vec4<Value>(w.hi);
    }
}

fn load_tail(thread: u32, col: u32, r: u32, segment: u32) {
    let scale = params.tail_scale * step.strength;
    let k4 = min(col / 4u + thread % 16u, 2u * params.k8 - 1u);
    for (var i = thread / 16u; i < min(TERMS, params.tail_rank - r); i += 4u) {
        w_tile[16u * i + thread % 16u] = vec4<Value>(scale * tail_weight(r + i, k4));
    }
}
