// dq[t, h] = scale · Σ_j ds_j k[j],  ds_j = p_j (d_out[t, h] · v[j] - delta[t, h]),  p_j = exp(scale · q · k[j] - lse),
// delta[t, h] = d_out[t, h] · out[t, h].   arXiv 2205.14135, algorithm 4. Then turned back through the rotary embedding.
//
// A thread takes four queries of a key head through all their keys, sixteen at a time (see shared/attention.wgsl).
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

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread) {
    let kv_head = workgroup_id.y;
    let u = workgroup_id.x * ROWS * GROUP + thread.index * 4u;
    let end = min((workgroup_id.x + 1u) * ROWS, n_rows(params.rows)) * GROUP;
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
    for (var key = first; key <= last; key += 16u) {
        let k0 = keys_from(thread, key, last, kv_head); let v0 = values_from(thread, key, last, kv_head);
        let k1 = keys_from(thread, key + 8u, last, kv_head); let v1 = values_from(thread, key + 8u, last, kv_head);
        // Scores and then weights; columns are keys, rows are queries.
        var p0 = mat4x4<f32>();
        var p1 = mat4x4<f32>();
        var p2 = mat4x4<f32>();
        var p3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_qkv(queries.at, d));
            let near = load_eight_qkv(k0, d);
            let far = load_eight_qkv(k1, d);
            p0 += four * near.lo;
            p1 += four * near.hi;
            p2 += four * far.lo;
            p3 += four * far.hi;
        }
        p0 = weights(mask(p0 * params.scale, key, queries.first, queries.last), lses);
        p1 = weights(mask(p1 * params.scale, key + 4u, queries.first, queries.last), lses);
        p2 = weights(mask(p2 * params.scale, key + 8u, queries.first, queries.last), lses);
        p3 = weights(mask(p3 * params.scale, key + 12u, queries.first, queries.last), lses);
        // Gradients of weights.
        var g0 = mat4x4<f32>();
        var g1 = mat4x4<f32>();
        var g2 = mat4x4<f32>();
        var g3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_d_out(queries.out_at, d));
            let near = load_eight_qkv(v0, d);
            let far = load_eight_qkv(v1, d);
            g0 += four * near.lo;
            g1 += four * near.hi;
            g2 += four * far.lo;
            g3 += four * far.hi;
        }
        g0 = score_gradients(p0, g0, deltas);
        g1 = score_gradients(p1, g1, deltas);
        g2 = score_gradients(p2, g2, deltas);
        g3 = score_gradients(p3, g3, deltas);
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let near = load_eight_qkv(k0, d);
            let far = load_eight_qkv(k1, d);
            sums[d] += near.lo * g0 + near.hi * g1 + far.lo * g2 + far.hi * g3;
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
