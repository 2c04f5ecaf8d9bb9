// The gradient through the norm of qk_norm.wgsl, in place: d holds the gradient on the normalised heads (turned back
// already) and gets that on the heads as they were. With g = d · weight:
// d[i] ← rstd · (g[i] - x[i] · rstd² · mean_i(g[i] · x[i]))
//
// Thread (h, t) has head h of row t: the query heads, then the key heads.
// [2, head_dim]: of queries, of keys.
@group(0) @binding(2) var<storage, read> weight: array<f32>;
// [n_tokens, n_heads + n_kv_heads, head_dim]
@group(0) @binding(3) var<storage, read> raw: array<f32>;
@group(0) @binding(4) var<storage, read_write> d: array<f32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let head = global_id.x;
    let row = global_id.y;
    if (head >= n_of_row() || row >= n_rows(params.rows)) {
        return;
    }
    let head_dim = 2u * params.half;
    let place = head_at(head, row);
    let at = place.at;
    let raw_at = place.raw_at;
    let w = place.weight_at;
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
