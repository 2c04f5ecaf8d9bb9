// out[t, h] = Σ_j p_j v[j],  p = softmax_j(scale · q[t, h] · k[j])  over the keys j that row t sees, and
// lse[t, h] = ln Σ_j exp(scale · q[t, h] · k[j]), beside it a place for the backward pass's delta.   Online softmax: arXiv 2205.14135, algorithm 1.
//
// A thread takes four queries of a key head through all their keys, sixteen at a time (see shared/attention.wgsl).
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

fn sum4(m: mat4x4<f32>) -> vec4<f32> {
    return (m[0] + m[1]) + (m[2] + m[3]);
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

    // Columns are queries: weighted values so far, relative to the maximum so far.
    var sums: array<mat4x4<f32>, HEAD_VEC4S>;
    var maximum = vec4<f32>(MASKED);
    var total = vec4<f32>(0.0);
    for (var key = first; key <= last; key += 16u) {
        let k0 = keys_from(thread, key, last, kv_head); let v0 = values_from(thread, key, last, kv_head);
        let k1 = keys_from(thread, key + 8u, last, kv_head); let v1 = values_from(thread, key + 8u, last, kv_head);
        // Columns are keys, rows are queries.
        var s0 = mat4x4<f32>();
        var s1 = mat4x4<f32>();
        var s2 = mat4x4<f32>();
        var s3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let four = transpose(load_four_q(queries.at, d));
            let near = load_eight_k(k0, d);
            let far = load_eight_k(k1, d);
            s0 += four * near.lo;
            s1 += four * near.hi;
            s2 += four * far.lo;
            s3 += four * far.hi;
        }
        s0 = mask(s0 * params.scale, key, queries.first, queries.last);
        s1 = mask(s1 * params.scale, key + 4u, queries.first, queries.last);
        s2 = mask(s2 * params.scale, key + 8u, queries.first, queries.last);
        s3 = mask(s3 * params.scale, key + 12u, queries.first, queries.last);

        let before = maximum;
        maximum = max(maximum, max(max(max4(s0), max4(s1)), max(max4(s2), max4(s3))));
        let shrink = weight(before, maximum);
        s0 = weights(s0, maximum);
        s1 = weights(s1, maximum);
        s2 = weights(s2, maximum);
        s3 = weights(s3, maximum);
        total = total * shrink + (sum4(s0) + sum4(s1)) + (sum4(s2) + sum4(s3));
        // Columns are queries from here on.
        s0 = transpose(s0);
        s1 = transpose(s1);
        s2 = transpose(s2);
        s3 = transpose(s3);
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let near = load_eight_v(v0, d);
            let far = load_eight_v(v1, d);
            sums[d] = scale_columns(sums[d], shrink) + near.lo * s0 + near.hi * s1 + far.lo * s2 + far.hi * s3;
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
