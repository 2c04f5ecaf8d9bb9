// dv[j] = Σ_q p_q d_out[q],  dk[j] = scale · Σ_q ds_q q[q]  over the queries q of all heads that share key head j's
// and of all rows that see row j; p and ds as in attention_dq.wgsl.   arXiv 2205.14135, algorithm 4.
//
// Then dk is turned back through the rotary embedding.
//
// Key rows are the rows of the batch. Queries, keys and values lie in one matrix, and their gradients in another like it.
// A thread takes four keys through all their queries, AT_ONCE at a time (see shared/attention.wgsl), in order of rows and
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

// In these, rows are keys and columns are queries, each with its lse and its delta; of the results, columns are keys.
fn query_weights(scores: EightVec4s, of_queries: EightVec4s) -> EightVec4s {
    return EightVec4s(four_weights(scores.lo, of_queries.lo), four_weights(scores.hi, of_queries.hi));
}

fn four_weights(scores: mat4x4<f32>, of_queries: mat4x4<f32>) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(
        weight(scores[0], of_queries[0].xxxx),
        weight(scores[1], of_queries[1].xxxx),
        weight(scores[2], of_queries[2].xxxx),
        weight(scores[3], of_queries[3].xxxx),
    ));
}

// From weights and gradients of weights, as far as they are sums.
fn gradients(p: EightVec4s, dp: EightVec4s, of_queries: EightVec4s) -> EightVec4s {
    return EightVec4s(four_gradients(p.lo, dp.lo, of_queries.lo), four_gradients(p.hi, dp.hi, of_queries.hi));
}

fn four_gradients(p: mat4x4<f32>, dp: mat4x4<f32>, of_queries: mat4x4<f32>) -> mat4x4<f32> {
    let deltas = vec4<f32>(of_queries[0].y, of_queries[1].y, of_queries[2].y, of_queries[3].y);
    let dp_t = transpose(dp);
    return mat4x4<f32>(
        p[0] * (dp_t[0] - deltas), p[1] * (dp_t[1] - deltas), p[2] * (dp_t[2] - deltas), p[3] * (dp_t[3] - deltas));
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
    for (var u = least(first.x); u <= end; u += AT_ONCE) {
        let q0 = eight_at(thread, u, end, q_place); let o0 = eight_at(thread, u, end, out_place);
        let q1 = eight_at(thread, u + 8u, end, q_place); let o1 = eight_at(thread, u + 8u, end, out_place);
        let q2 = eight_at(thread, u + 16u, end, q_place); let o2 = eight_at(thread, u + 16u, end, out_place);
        let q3 = eight_at(thread, u + 24u, end, q_place); let o3 = eight_at(thread, u + 24u, end, out_place);
        // Scores and then weights, and gradients of weights.
        var p0 = EightVec4s(); var p1 = EightVec4s(); var p2 = EightVec4s(); var p3 = EightVec4s();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_k(at, d));
            add_scores(&p0, four, load_eight_q(q0, d));
            add_scores(&p1, four, load_eight_q(q1, d));
            if (AT_ONCE == 32u) {
                add_scores(&p2, four, load_eight_q(q2, d));
                add_scores(&p3, four, load_eight_q(q3, d));
            }
        }
        var g0 = EightVec4s(); var g1 = EightVec4s(); var g2 = EightVec4s(); var g3 = EightVec4s();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_v(v_at, d));
            add_scores(&g0, four, load_eight_d_out(o0, d));
            add_scores(&g1, four, load_eight_d_out(o1, d));
            if (AT_ONCE == 32u) {
                add_scores(&g2, four, load_eight_d_out(o2, d));
                add_scores(&g3, four, load_eight_d_out(o3, d));
            }
        }
        let n0 = load_eight_lse_delta(eight_at(thread, u, end, lse_place), 0u);
        let n1 = load_eight_lse_delta(eight_at(thread, u + 8u, end, lse_place), 0u);
        p0 = query_weights(finished(p0, u, first, last), n0);
        p1 = query_weights(finished(p1, u + 8u, first, last), n1);
        g0 = gradients(p0, g0, n0);
        g1 = gradients(p1, g1, n1);
        if (AT_ONCE == 32u) {
            let n2 = load_eight_lse_delta(eight_at(thread, u + 16u, end, lse_place), 0u);
            let n3 = load_eight_lse_delta(eight_at(thread, u + 24u, end, lse_place), 0u);
            p2 = query_weights(finished(p2, u + 16u, first, last), n2);
            p3 = query_weights(finished(p3, u + 24u, first, last), n3);
            g2 = gradients(p2, g2, n2);
            g3 = gradients(p3, g3, n3);
        }
        for (var d = 0u; d < SLICE_VEC4S; d += 1u) {
            let c = in_slice(slice, d);
            var dv = weighted(load_eight_d_out(o0, c), p0) + weighted(load_eight_d_out(o1, c), p1);
            var dk = weighted(load_eight_q(q0, c), g0) + weighted(load_eight_q(q1, c), g1);
            if (AT_ONCE == 32u) {
                dv += weighted(load_eight_d_out(o2, c), p2) + weighted(load_eight_d_out(o3, c), p3);
                dk += weighted(load_eight_q(q2, c), g2) + weighted(load_eight_q(q3, c), g3);
            }
            dv_sums[d] += dv;
            dk_sums[d] += dk;
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
