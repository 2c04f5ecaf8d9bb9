// What qk_norm.wgsl and qk_norm_backward.wgsl share: thread (h, t) has head h of row t, the query heads, then the key
// heads.
struct Params {
    rows: Rows,
    n_heads: u32,
    n_kv_heads: u32,
    // Pairs a head, half of head_dim.
    half: u32,
    // Columns from one row to the next, and the first column of the keys.
    stride: u32,
    k_first: u32,
    eps: f32,
    _pad0: u32,
    _pad1: u32,
}
@group(0) @binding(1) var<uniform> params: Params;

// Where a thread's head lies: in the matrix, among the heads as they were, and its weight.
struct Head {
    at: u32,
    raw_at: u32,
    weight_at: u32,
}

fn n_of_row() -> u32 {
    return params.n_heads + params.n_kv_heads;
}

fn head_at(head: u32, row: u32) -> Head {
    let head_dim = 2u * params.half;
    let is_key = u32(head >= params.n_heads);
    let at = row * params.stride + head * head_dim + is_key * (params.k_first - params.n_heads * head_dim);
    return Head(at, (row * n_of_row() + head) * head_dim, is_key * head_dim);
}
