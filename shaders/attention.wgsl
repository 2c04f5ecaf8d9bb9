// out[t, h] = Σ_j p_j v[j],  p = softmax_j(scale · q[t, h] · k[j])  over the keys j that row t sees, and
// lse[t, h] = ln Σ_j exp(scale · q[t, h] · k[j]), beside it a place for the backward pass's delta.   Online softmax: arXiv 2205.14135, algorithm 1.
//
// A thread takes four queries of a key head through all their keys, AT_ONCE at a time (see shared/attention.wgsl).
// Workgroups along y are key heads.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// [n_tokens, .. N_HEADS * HEAD_DIM ..]
@group(0) @binding(3) var<storage, read> q: array<vec4<f32>>;
// [key rows, .. N_KV_HEADS * HEAD_DIM ..]
@group(0) @binding(4) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
// [n_tokens, N_HEADS * HEAD_DIM]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
// [n_tokens, N_HEADS]
@group(0) @binding(7) var<storage, read_write> lse_delta: array<vec2<f32>>;

fn max4(m: mat4x4<f32>) -> vec4<f32> {
    return max(max(m[0], m[1]), max(m[2], m[3]));
}

fn max8(m: EightVec4s) -> vec4<f32> {
    return max(max4(m.lo), max4(m.hi));
}

fn sum4(m: mat4x4<f32>) -> vec4<f32> {
    return (m[0] + m[1]) + (m[2] + m[3]);
}

fn sum8(m: EightVec4s) -> vec4<f32> {
    return sum4(m.lo) + sum4(m.hi);
}

fn weights8(scores: EightVec4s, offset: vec4<f32>) -> EightVec4s {
    return EightVec4s(weights(scores.lo, offset), weights(scores.hi, offset));
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

    // Columns are queries: weighted values so far, relative to the maximum so far.
    var sums: array<mat4x4<f32>, HEAD_VEC4S>;
    var maximum = vec4<f32>(MASKED);
    var total = vec4<f32>(0.0);
    for (var key = first; key <= last; key += AT_ONCE) {
        let k0 = keys_from(thread, key, last, kv_head); let v0 = values_from(thread, key, last, kv_head);
        let k1 = keys_from(thread, key + 8u, last, kv_head); let v1 = values_from(thread, key + 8u, last, kv_head);
        let k2 = keys_from(thread, key + 16u, last, kv_head); let v2 = values_from(thread, key + 16u, last, kv_head);
        let k3 = keys_from(thread, key + 24u, last, kv_head); let v3 = values_from(thread, key + 24u, last, kv_head);
        // Columns are keys, rows are queries.
        var s0 = EightVec4s(); var s1 = EightVec4s(); var s2 = EightVec4s(); var s3 = EightVec4s();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_q(queries.at, d));
            add_scores(&s0, four, load_eight_k(k0, d));
            add_scores(&s1, four, load_eight_k(k1, d));
            if (AT_ONCE == 32u) {
                add_scores(&s2, four, load_eight_k(k2, d));
                add_scores(&s3, four, load_eight_k(k3, d));
            }
        }
        s0 = finished(s0, key, queries.first, queries.last);
        s1 = finished(s1, key + 8u, queries.first, queries.last);
        var greatest = max(max8(s0), max8(s1));
        if (AT_ONCE == 32u) {
            s2 = finished(s2, key + 16u, queries.first, queries.last);
            s3 = finished(s3, key + 24u, queries.first, queries.last);
            greatest = max(greatest, max(max8(s2), max8(s3)));
        }

        let before = maximum;
        maximum = max(maximum, greatest);
        let shrink = weight(before, maximum);
        s0 = weights8(s0, maximum);
        s1 = weights8(s1, maximum);
        total = total * shrink + (sum8(s0) + sum8(s1));
        // Columns are queries from here on.
        s0 = turned(s0);
        s1 = turned(s1);
        if (AT_ONCE == 32u) {
            s2 = weights8(s2, maximum);
            s3 = weights8(s3, maximum);
            total += sum8(s2) + sum8(s3);
            s2 = turned(s2);
            s3 = turned(s3);
        }
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            var more = weighted(load_eight_v(v0, d), s0) + weighted(load_eight_v(v1, d), s1);
            if (AT_ONCE == 32u) {
                more += weighted(load_eight_v(v2, d), s2) + weighted(load_eight_v(v3, d), s3);
            }
            sums[d] = scale_columns(sums[d], shrink) + more;
        }
    }

    for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
        store_four_out(queries.out_at, d, scale_columns(sums[d], 1.0 / total), queries.is_real);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if (queries.is_real[i]) {
            lse_delta[queries.rows[i] * N_HEADS + queries.heads[i]] = vec2<f32>(maximum[i] + log_f32(total[i]), 0.0);
            if (queries.heads[i] == N_HEADS - 1u) {
                store_pad_out(queries.rows[i] * OUT_STRIDE, N_HEADS * HEAD_DIM, OUT_STRIDE);
            }
        }
    }
}
