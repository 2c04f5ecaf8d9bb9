// dv[j] = Σ_q p_q d_out[q],  dk[j] = scale · Σ_q ds_q q[q]  over the queries q of all heads that share key head j's
// and of all rows that see row j; p and ds as in attention_dq.wgsl.   arXiv 2205.14135, algorithm 4.
//
// Then dk is turned back through the rotary embedding.
//
// Key rows are the rows of the batch. Queries, keys and values lie in one matrix, and their gradients in another like it.
// A thread takes four keys through all their queries, sixteen at a time (see shared/attention.wgsl), in order of rows and
// then heads. Workgroups along y are key heads, along z slices of a head.
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

fn load_lse_delta(at: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(lse_delta[at], 0.0, 0.0);
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

// In these, rows are keys and columns are queries, each with its lse and its delta.
fn query_weights(scores: mat4x4<f32>, of_queries: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(scores[0], of_queries[0].xxxx),
        weight(scores[1], of_queries[1].xxxx),
        weight(scores[2], of_queries[2].xxxx),
        weight(scores[3], of_queries[3].xxxx),
    );
}

fn score_gradients(p: mat4x4<f32>, dp: mat4x4<f32>, of_queries: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        p[0] * (dp[0] - of_queries[0].y),
        p[1] * (dp[1] - of_queries[1].y),
        p[2] * (dp[2] - of_queries[2].y),
        p[3] * (dp[3] - of_queries[3].y),
    );
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread) {
    let n = n_rows(params.rows);
    let kv_head = workgroup_id.y;
    let slice = workgroup_id.z;
    let keys = four_from(workgroup_id.x * ROWS + thread.index * 4u);
    if (nobody(keys.x >= n)) {
        return;
    }
    // The last block repeats its last row.
    let rows = min(keys, vec4<u32>(n - 1u));
    let at = rows * KV_STRIDE + K_FIRST + kv_head * HEAD_DIM;
    let v_at = rows * KV_STRIDE + V_FIRST + kv_head * HEAD_DIM;
    // First and last query that sees each key.
    let first = rows * GROUP;
    var last: vec4<u32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let after = min(tokens[rows[i]].end, n) - 1u - rows[i];
        last[i] = (rows[i] + min(after, params.window - 1u)) * GROUP + GROUP - 1u;
    }
    let end = most(max_of(last));
    let head = kv_head * GROUP;
    let q_place = Place(GROUP, Q_STRIDE, HEAD_DIM, Q_FIRST + head * HEAD_DIM);
    let out_place = Place(GROUP, OUT_STRIDE, HEAD_DIM, head * HEAD_DIM);
    let lse_place = Place(GROUP, N_HEADS, 1u, head);

    // Columns are keys.
    var dk_sums: array<mat4x4<f32>, SLICE_VEC4S>;
    var dv_sums: array<mat4x4<f32>, SLICE_VEC4S>;
    for (var u = least(first.x); u <= end; u += 16u) {
        let q0 = eight_at(thread, u, end, q_place); let q1 = eight_at(thread, u + 8u, end, q_place);
        let o0 = eight_at(thread, u, end, out_place); let o1 = eight_at(thread, u + 8u, end, out_place);
        let n0 = load_eight_lse_delta(eight_at(thread, u, end, lse_place), 0u);
        let n1 = load_eight_lse_delta(eight_at(thread, u + 8u, end, lse_place), 0u);
        // Scores and then weights, and gradients of weights; columns are queries, rows are keys.
        var p0 = mat4x4<f32>();
        var p1 = mat4x4<f32>();
        var p2 = mat4x4<f32>();
        var p3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_k(at, d));
            let near = load_eight_q(q0, d);
            let far = load_eight_q(q1, d);
            p0 += four * near.lo;
            p1 += four * near.hi;
            p2 += four * far.lo;
            p3 += four * far.hi;
        }
        var g0 = mat4x4<f32>();
        var g1 = mat4x4<f32>();
        var g2 = mat4x4<f32>();
        var g3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_v(v_at, d));
            let near = load_eight_d_out(o0, d);
            let far = load_eight_d_out(o1, d);
            g0 += four * near.lo;
            g1 += four * near.hi;
            g2 += four * far.lo;
            g3 += four * far.hi;
        }
        p0 = query_weights(mask(p0 * params.scale, u, first, last), n0.lo);
        p1 = query_weights(mask(p1 * params.scale, u + 4u, first, last), n0.hi);
        p2 = query_weights(mask(p2 * params.scale, u + 8u, first, last), n1.lo);
        p3 = query_weights(mask(p3 * params.scale, u + 12u, first, last), n1.hi);
        // Columns are keys from here on.
        g0 = transpose(score_gradients(p0, g0, n0.lo));
        g1 = transpose(score_gradients(p1, g1, n0.hi));
        g2 = transpose(score_gradients(p2, g2, n1.lo));
        g3 = transpose(score_gradients(p3, g3, n1.hi));
        p0 = transpose(p0);
        p1 = transpose(p1);
        p2 = transpose(p2);
        p3 = transpose(p3);
        for (var d = 0u; d < SLICE_VEC4S; d += 1u) {
            let c = in_slice(slice, d);
            let near_out = load_eight_d_out(o0, c);
            let far_out = load_eight_d_out(o1, c);
            dv_sums[d] += near_out.lo * p0 + near_out.hi * p1 + far_out.lo * p2 + far_out.hi * p3;
            let near = load_eight_q(q0, c);
            let far = load_eight_q(q1, c);
            dk_sums[d] += near.lo * g0 + near.hi * g1 + far.lo * g2 + far.hi * g3;
        }
    }

    let is_real = keys < vec4<u32>(n);
    for (var d = 0u; d < SLICE_VEC4S; d += 1u) {
        let c = in_slice(slice, d);
        store_four_d_qkv(at, c, dk_sums[d] * params.scale, is_real);
        store_four_d_qkv(v_at, c, dv_sums[d], is_real);
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
