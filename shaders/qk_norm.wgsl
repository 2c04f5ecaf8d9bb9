// Every head of the queries and keys of a row normalised and turned, in place: n[i] = x[i] · rstd · weight[i] with
// rstd = 1 / sqrt(mean_i x[i]² + eps) over the head, then the pairs of n as in rope.wgsl. The heads as they were are kept
// for the backward pass. transformers' q_norm and k_norm, then `apply_rotary_pos_emb`.
//
// Thread (h, t) has head h of row t: the query heads, then the key heads.
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
    if (head >= n_of_row() || row >= n_rows(params.rows)) {
        return;
    }
    let head_dim = 2u * params.half;
    let place = head_at(head, row);
    let at = place.at;
    let raw_at = place.raw_at;
    let w = place.weight_at;
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
