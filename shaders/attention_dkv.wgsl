// dv[j] = Σ_q p_q d_out[q],  dk[j] = scale · Σ_q ds_q q[q]  over the queries q of all heads that share key head j's
// and of all rows that see row j; p and ds as in attention_dq.wgsl.   arXiv 2205.14135, algorithm 4.
//
// Then dk is turned back through the rotary embedding.
//
// Key rows are the rows of the batch. Queries, keys and values lie in one matrix, and their gradients in another like it.
// A thread takes four keys through all their queries, sixteen at a time (see
// shared/attention.wgsl), in order of rows and then heads. A workgroup covers 4 * BLOCKS rows, workgroups along z are slices of the head.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// One matrix, [n_tokens, Q_STRIDE].
@group(0) @binding(3) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
// [n_tokens, N_HEADS]
@group(0) @binding(6) var<storage, read> lse_delta: array<vec2<f32>>;
// [n_tokens, N_HEADS * HEAD_DIM]
@group(0) @binding(7) var<storage, read> d_out: array<vec4<f32>>;
// cos and sin, [n_positions, HEAD_DIM / 2].
@group(0) @binding(8) var<storage, read> table: array<vec2<f32>>;
// As q, k and v.
@group(0) @binding(9) var<storage, read_write> d_qkv: array<f32>;

const SLICE_VEC4S: u32 = HEAD_VEC4S / N_SLICES;

// Four queries, the last repeated past the end: where they start in rows of `stride`, and their lse and delta.
fn query_starts(u: vec4<u32>, kv_head: u32, stride: u32) -> vec4<u32> {
    return u / GROUP * stride + (kv_head * GROUP + u % GROUP) * HEAD_DIM;
}

fn deltas_of(u: vec4<u32>, kv_head: u32) -> array<vec2<f32>, 4> {
    let i = u / GROUP * N_HEADS + kv_head * GROUP + u % GROUP;
    return array<vec2<f32>, 4>(lse_delta[i.x], lse_delta[i.y], lse_delta[i.z], lse_delta[i.w]);
}

// A thread has the columns of one of N_SLICES slices of a head, so that its sums stay few: the d-th vec4 of slice `slice`.
// A slice is a part of the first half of the head and the same of the second, which turn_back() turns together.
fn in_slice(slice: u32, d: u32) -> u32 {
    let part = SLICE_VEC4S / 2u;
    if (N_SLICES == 1u || d < part) {
        return slice * part + d;
    }
    return slice * part + d + HEAD_VEC4S / 2u - part;
}

// In these, rows are keys and columns are queries.
fn query_weights(scores: mat4x4<f32>, deltas: array<vec2<f32>, 4>) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(scores[0], deltas[0].xxxx),
        weight(scores[1], deltas[1].xxxx),
        weight(scores[2], deltas[2].xxxx),
        weight(scores[3], deltas[3].xxxx),
    );
}

fn score_gradients(p: mat4x4<f32>, dp: mat4x4<f32>, deltas: array<vec2<f32>, 4>) -> mat4x4<f32> {
    return mat4x4<f32>(
        p[0] * (dp[0] - deltas[0].y),
        p[1] * (dp[1] - deltas[1].y),
        p[2] * (dp[2] - deltas[2].y),
        p[3] * (dp[3] - deltas[3].y),
    );
}

@compute @workgroup_size(KEY_THREADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) local_index: u32) {
    let n = n_rows(params.rows);
    let kv_head = local_index % N_KV_HEADS;
    let slice = workgroup_id.z;
    let keys = four_from((workgroup_id.x * BLOCKS + local_index / N_KV_HEADS) * 4u);
    if (keys.x >= n || local_index >= BLOCKS * N_KV_HEADS) {
        return;
    }
    // The last block repeats its last row.
    let rows = min(keys, vec4<u32>(n - 1u));
    let at = rows * KV_STRIDE + K_FIRST + kv_head * HEAD_DIM;
    // First and last query that sees each key.
    let first = rows * GROUP;
    var last: vec4<u32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let after = min(tokens[rows[i]].end, n) - 1u - rows[i];
        last[i] = (rows[i] + min(after, params.window - 1u)) * GROUP + GROUP - 1u;
    }
    let end = vec4<u32>(max_of(last));

    // Columns are keys.
    var dk_sums: array<mat4x4<f32>, SLICE_VEC4S>;
    var dv_sums: array<mat4x4<f32>, SLICE_VEC4S>;
    for (var u = first.x; u <= end.x; u += 16u) {
        let u0 = min(four_from(u), end);
        let u1 = min(four_from(u + 4u), end);
        let u2 = min(four_from(u + 8u), end);
        let u3 = min(four_from(u + 12u), end);
        let q0 = query_starts(u0, kv_head, Q_STRIDE) + Q_FIRST;
        let o0 = query_starts(u0, kv_head, OUT_STRIDE);
        let q1 = query_starts(u1, kv_head, Q_STRIDE) + Q_FIRST;
        let o1 = query_starts(u1, kv_head, OUT_STRIDE);
        let q2 = query_starts(u2, kv_head, Q_STRIDE) + Q_FIRST;
        let o2 = query_starts(u2, kv_head, OUT_STRIDE);
        let q3 = query_starts(u3, kv_head, Q_STRIDE) + Q_FIRST;
        let o3 = query_starts(u3, kv_head, OUT_STRIDE);
        // Scores and then weights, and gradients of weights; columns are queries, rows are keys.
        var p0 = mat4x4<f32>();
        var p1 = mat4x4<f32>();
        var p2 = mat4x4<f32>();
        var p3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_k(at, d));
            p0 += four * load_four_q(q0, d);
            p1 += four * load_four_q(q1, d);
            p2 += four * load_four_q(q2, d);
            p3 += four * load_four_q(q3, d);
        }
        var g0 = mat4x4<f32>();
        var g1 = mat4x4<f32>();
        var g2 = mat4x4<f32>();
        var g3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_v(at + V_AFTER_K, d));
            g0 += four * load_four_d_out(o0, d);
            g1 += four * load_four_d_out(o1, d);
            g2 += four * load_four_d_out(o2, d);
            g3 += four * load_four_d_out(o3, d);
        }
        let deltas0 = deltas_of(u0, kv_head);
        let deltas1 = deltas_of(u1, kv_head);
        let deltas2 = deltas_of(u2, kv_head);
        let deltas3 = deltas_of(u3, kv_head);
        p0 = query_weights(mask(p0 * params.scale, u, first, last), deltas0);
        p1 = query_weights(mask(p1 * params.scale, u + 4u, first, last), deltas1);
        p2 = query_weights(mask(p2 * params.scale, u + 8u, first, last), deltas2);
        p3 = query_weights(mask(p3 * params.scale, u + 12u, first, last), deltas3);
        // Columns are keys from here on.
        g0 = transpose(score_gradients(p0, g0, deltas0));
        g1 = transpose(score_gradients(p1, g1, deltas1));
        g2 = transpose(score_gradients(p2, g2, deltas2));
        g3 = transpose(score_gradients(p3, g3, deltas3));
        p0 = transpose(p0);
        p1 = transpose(p1);
        p2 = transpose(p2);
        p3 = transpose(p3);
        for (var d = 0u; d < SLICE_VEC4S; d += 1u) {
            let c = in_slice(slice, d);
            dv_sums[d] += load_four_d_out(o0, c) * p0
                + load_four_d_out(o1, c) * p1
                + load_four_d_out(o2, c) * p2
                + load_four_d_out(o3, c) * p3;
            dk_sums[d] += load_four_q(q0, c) * g0
                + load_four_q(q1, c) * g1
                + load_four_q(q2, c) * g2
                + load_four_q(q3, c) * g3;
        }
    }

    let is_real = keys < vec4<u32>(n);
    for (var d = 0u; d < SLICE_VEC4S; d += 1u) {
        let c = in_slice(slice, d);
        store_four_d_qkv(at, c, dk_sums[d] * params.scale, is_real);
        store_four_d_qkv(at + V_AFTER_K, c, dv_sums[d], is_real);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if (is_real[i]) {
            turn_back(at[i], tokens[rows[i]].position, slice * (params.half / N_SLICES), params.half / N_SLICES);
            if (kv_head == N_KV_HEADS - 1u && slice == 0u) {
                let row_at = rows[i] * KV_STRIDE;
                store_pad_d_qkv(row_at, K_FIRST + N_KV_HEADS * HEAD_DIM, V_FIRST);
                store_pad_d_qkv(row_at, V_FIRST + N_KV_HEADS * HEAD_DIM, KV_STRIDE);
            }
        }
    }
}
