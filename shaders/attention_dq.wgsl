// dq[t, h] = scale · Σ_j ds_j k[j],  ds_j = p_j (d_out[t, h] · v[j] - delta[t, h]),  p_j = exp(scale · q · k[j] - lse),
// delta[t, h] = d_out[t, h] · out[t, h].   arXiv 2205.14135, algorithm 4. Then turned back through the rotary embedding.
//
// A thread takes four queries of a key head through all their keys, AT_ONCE at a time (see shared/attention.wgsl).
// Workgroups along y are key heads. Queries, keys and values lie in one matrix, and their gradients in another like it.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// [n_tokens, Q_STRIDE]
@group(0) @binding(3) var<storage, read> qkv: array<vec4<f32>>;
// [n_tokens, N_HEADS * HEAD_DIM]
@group(0) @binding(4) var<storage, read> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> d_out: array<vec4<f32>>;
// (lse, delta), [n_tokens, N_HEADS]: lse is given, delta made here for attention_dkv.
@group(0) @binding(6) var<storage, read_write> lse_delta: array<vec2<f32>>;
// cos and sin, [n_positions, HEAD_DIM / 2].
@group(0) @binding(7) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(8) var<storage, read_write> d_qkv: array<f32>;

// Columns are keys, rows are queries; of the result, columns are queries.
fn score_gradients(p: mat4x4<f32>, dp: mat4x4<f32>, deltas: vec4<f32>) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(
        p[0] * (dp[0] - deltas), p[1] * (dp[1] - deltas), p[2] * (dp[2] - deltas), p[3] * (dp[3] - deltas)));
}

// From scores and gradients of weights, as far as they are sums.
fn gradients(
    scores: EightVec4s, dp: EightVec4s, key: u32, queries: Queries, lses: vec4<f32>, deltas: vec4<f32>,
) -> EightVec4s {
    let s = finished(scores, key, queries.first, queries.last);
    return EightVec4s(
        score_gradients(weights(s.lo, lses), dp.lo, deltas), score_gradients(weights(s.hi, lses), dp.hi, deltas));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread) {
    let kv_head = workgroup_id.y;
    let n = n_rows(params.rows);
    // Last rows first: as a rule they see most, and what takes longest had better not begin last.
    let start = (n - 1u) / ROWS * ROWS - workgroup_id.x * ROWS;
    let u = start * GROUP + thread.index * 4u;
    let end = min(start + ROWS, n) * GROUP;
    if (nobody(u >= end)) {
        return;
    }
    let queries = queries_from(u, end, kv_head);
    let first = least(min_of(queries.first));
    let last = most(max_of(queries.last));
    var lses: vec4<f32>;
    var deltas: vec4<f32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let at = queries.rows[i] * N_HEADS + queries.heads[i];
        var sum = 0.0;
        for (var d = 0u; d < params.head_vec4s; d += 1u) {
            sum += dot(load_out(queries.out_at[i], d), load_d_out(queries.out_at[i], d));
        }
        lses[i] = lse_delta[at].x;
        deltas[i] = sum;
        if (queries.is_real[i]) {
            lse_delta[at].y = sum;
        }
    }

    // Columns are queries.
    var sums: array<mat4x4<f32>, HEAD_VEC4S>;
    for (var key = first; key <= last; key += AT_ONCE) {
        let k0 = keys_from(thread, key, last, kv_head); let v0 = values_from(thread, key, last, kv_head);
        let k1 = keys_from(thread, key + 8u, last, kv_head); let v1 = values_from(thread, key + 8u, last, kv_head);
        let k2 = keys_from(thread, key + 16u, last, kv_head); let v2 = values_from(thread, key + 16u, last, kv_head);
        let k3 = keys_from(thread, key + 24u, last, kv_head); let v3 = values_from(thread, key + 24u, last, kv_head);
        // Scores, and gradients of weights; columns are keys, rows are queries.
        var s0 = EightVec4s(); var s1 = EightVec4s(); var s2 = EightVec4s(); var s3 = EightVec4s();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_qkv(queries.at, d));
            add_scores(&s0, four, load_eight_qkv(k0, d));
            add_scores(&s1, four, load_eight_qkv(k1, d));
            if (AT_ONCE == 32u) {
                add_scores(&s2, four, load_eight_qkv(k2, d));
                add_scores(&s3, four, load_eight_qkv(k3, d));
            }
        }
        var g0 = EightVec4s(); var g1 = EightVec4s(); var g2 = EightVec4s(); var g3 = EightVec4s();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_d_out(queries.out_at, d));
            add_scores(&g0, four, load_eight_qkv(v0, d));
            add_scores(&g1, four, load_eight_qkv(v1, d));
            if (AT_ONCE == 32u) {
                add_scores(&g2, four, load_eight_qkv(v2, d));
                add_scores(&g3, four, load_eight_qkv(v3, d));
            }
        }
        g0 = gradients(s0, g0, key, queries, lses, deltas);
        g1 = gradients(s1, g1, key + 8u, queries, lses, deltas);
        if (AT_ONCE == 32u) {
            g2 = gradients(s2, g2, key + 16u, queries, lses, deltas);
            g3 = gradients(s3, g3, key + 24u, queries, lses, deltas);
        }
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            var more = weighted(load_eight_qkv(k0, d), g0) + weighted(load_eight_qkv(k1, d), g1);
            if (AT_ONCE == 32u) {
                more += weighted(load_eight_qkv(k2, d), g2) + weighted(load_eight_qkv(k3, d), g3);
            }
            sums[d] += more;
        }
    }

    for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
        store_four_d_qkv(queries.at, d, sums[d] * params.scale, queries.is_real);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if (queries.is_real[i]) {
            turn_back(queries.at[i], tokens[queries.rows[i]].position, 0u, params.half);
            if (queries.heads[i] == N_HEADS - 1u) {
                store_pad_d_qkv(queries.rows[i] * Q_STRIDE, Q_FIRST + N_HEADS * HEAD_DIM, K_FIRST);
            }
        }
    }
}
