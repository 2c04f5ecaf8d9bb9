// The gradient through the norm of qk_norm.wgsl, in place: d holds the gradient on the normalised heads (turned back
// already) and gets that on the heads as they were. With g = d · weight:
// d[i] ← rstd · (g[i] - x[i] · rstd² · mean_i(g[i] · x[i]))
//
// Thread (h, t) has head h of row t: the query heads, then the key heads.
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
// [2, head_dim]: of queries, of keys.
@group(0) @binding(2) var<storage, read> weight: array<f32>;
// [n_tokens, n_heads + n_kv_heads, head_dim]
@group(0) @binding(3) var<storage, read> raw: array<f32>;
@group(0) @binding(4) var<storage, read_write> d: array<f32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let head = global_id.x;
    let row = global_id.y;
    let n = params.n_heads + params.n_kv_heads;
    if (head >= n || row >= n_rows(params.rows)) {
        return;
    }
    let head_dim = 2u * params.half;
    let is_key = u32(head >= params.n_heads);
    let at = row * params.stride + head * head_dim + is_key * (params.k_first - params.n_heads * head_dim);
    let raw_at = (row * n + head) * head_dim;
    let w = is_key * head_dim;
    var squares = 0.0;
    var products = 0.0;
    for (var i = 0u; i < head_dim; i += 1u) {
        let v = raw[raw_at + i];
        squares += v * v;
        products += d[at + i] * weight[w + i] * v;
    }
    let rstd = 1.0 / sqrt(squares / f32(head_dim) + params.eps);
    let along_x = rstd * rstd * products / f32(head_dim);
    for (var i = 0u; i < head_dim; i += 1u) {
        d[at + i] = rstd * (d[at + i] * weight[w + i] - raw[raw_at + i] * along_x);
    }
}
