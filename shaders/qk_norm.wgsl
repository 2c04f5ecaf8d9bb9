// Every head of the queries and keys of a row normalised and turned, in place: n[i] = x[i] · rstd · weight[i] with
// rstd = 1 / sqrt(mean_i x[i]² + eps) over the head, then the pairs of n as in rope.wgsl. The heads as they were are kept
// for the backward pass. transformers' q_norm and k_norm, then `apply_rotary_pos_emb`.
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
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// cos and sin, [n_positions, half].
@group(0) @binding(3) var<storage, read> table: array<vec2<f32>>;
// [2, head_dim]: of queries, of keys.
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> x: array<f32>;
// [n_tokens, n_heads + n_kv_heads, head_dim]
@group(0) @binding(6) var<storage, read_write> raw: array<f32>;

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
    var sum = 0.0;
    for (var i = 0u; i < head_dim; i += 1u) {
        let v = x[at + i];
        raw[raw_at + i] = v;
        sum += v * v;
    }
    let rstd = 1.0 / sqrt(sum / f32(head_dim) + params.eps);
    for (var i = 0u; i < params.half; i += 1u) {
        let angle = table[tokens[row].position * params.half + i];
        let a = x[at + i] * rstd * weight[w + i];
        let b = x[at + params.half + i] * rstd * weight[w + params.half + i];
        x[at + i] = a * angle.x - b * angle.y;
        x[at + params.half + i] = b * angle.x + a * angle.y;
    }
}
