// out[t, h] = Σ_j p_j v[j],  p = softmax_j(scale · q[t, h] · k[j])  over the keys j that row t sees, and
// lse[t, h] = ln Σ_j exp(scale · q[t, h] · k[j]).   Online softmax: arXiv 2205.14135, algorithm 1.
//
// A thread takes four queries of a key head through all their keys, sixteen at a time (see shared/attention.wgsl).
// A workgroup covers 4 * BLOCKS rows, so that no two share a row.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// [n_tokens, N_HEADS * HEAD_DIM]
@group(0) @binding(3) var<storage, read> q: array<vec4<f32>>;
// [key rows, N_KV_HEADS * HEAD_DIM]
@group(0) @binding(4) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
// As q; scalars, as two heads may meet within four columns.
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
// [n_tokens, N_HEADS]
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;

// max over the columns
fn max4(m: mat4x4<f32>) -> vec4<f32> {
    return max(max(m[0], m[1]), max(m[2], m[3]));
}

fn sum4(m: mat4x4<f32>) -> vec4<f32> {
    return (m[0] + m[1]) + (m[2] + m[3]);
}

fn weights(scores: mat4x4<f32>, maximum: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(scores[0], scores[0] - maximum),
        weight(scores[1], scores[1] - maximum),
        weight(scores[2], scores[2] - maximum),
        weight(scores[3], scores[3] - maximum),
    );
}

@compute @workgroup_size(BLOCKS * N_HEADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) local_index: u32) {
    let n = n_rows(params.rows);
    let kv_head = local_index % N_KV_HEADS;
    let u = four_from((workgroup_id.x * BLOCKS * GROUP + local_index / N_KV_HEADS) * 4u);
    if (u.x / GROUP >= n) {
        return;
    }
    // The last block repeats its last row.
    let rows = min(u / GROUP, vec4<u32>(n - 1u));
    let heads = kv_head * GROUP + u % GROUP;
    let q_at = rows * Q_STRIDE + heads * HEAD_DIM;
    var first: vec4<u32>;
    var last: vec4<u32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let token = tokens[rows[i]];
        last[i] = token.start + token.position;
        first[i] = last[i] - min(token.position, params.window - 1u);
    }
    let low = min(min(first.x, first.y), min(first.z, first.w));
    let high = vec4<u32>(max(max(last.x, last.y), max(last.z, last.w)));

    // Columns are queries: the sum of weights and values so far, relative to the maximum so far.
    var sums: array<mat4x4<f32>, HEAD_VEC4S>;
    for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
        sums[d] = mat4x4<f32>();
    }
    var maximum = vec4<f32>(MASKED);
    var total = vec4<f32>(0.0);
    for (var key = low; key <= high.x; key += 16u) {
        // Keys past the last repeat it, masked.
        let k0 = min(four_from(key), high) * KV_STRIDE + kv_head * HEAD_DIM;
        let k1 = min(four_from(key + 4u), high) * KV_STRIDE + kv_head * HEAD_DIM;
        let k2 = min(four_from(key + 8u), high) * KV_STRIDE + kv_head * HEAD_DIM;
        let k3 = min(four_from(key + 12u), high) * KV_STRIDE + kv_head * HEAD_DIM;
        // Columns are keys, rows are queries.
        var s0 = mat4x4<f32>();
        var s1 = mat4x4<f32>();
        var s2 = mat4x4<f32>();
        var s3 = mat4x4<f32>();
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let queries = transpose(load_four_q(q_at, d));
            s0 += queries * load_four_k(k0, d);
            s1 += queries * load_four_k(k1, d);
            s2 += queries * load_four_k(k2, d);
            s3 += queries * load_four_k(k3, d);
        }
        s0 = mask(s0 * params.scale, key, first, last);
        s1 = mask(s1 * params.scale, key + 4u, first, last);
        s2 = mask(s2 * params.scale, key + 8u, first, last);
        s3 = mask(s3 * params.scale, key + 12u, first, last);

        let before = maximum;
        maximum = max(maximum, max(max(max4(s0), max4(s1)), max(max4(s2), max4(s3))));
        let shrink = weight(vec4<f32>(0.0), before - maximum);
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
            let so_far = sums[d];
            sums[d] = mat4x4<f32>(
                so_far[0] * shrink.x, so_far[1] * shrink.y, so_far[2] * shrink.z, so_far[3] * shrink.w)
                + load_four_v(k0, d) * s0
                + load_four_v(k1, d) * s1
                + load_four_v(k2, d) * s2
                + load_four_v(k3, d) * s3;
        }
    }

    for (var i = 0u; i < 4u; i += 1u) {
        if (u[i] / GROUP >= n) {
            return;
        }
        lse[rows[i] * N_HEADS + heads[i]] = maximum[i] + log_f32(total[i]);
        for (var c = 0u; c < HEAD_DIM; c += 1u) {
            out[q_at[i] + c] = sums[c / 4u][i][c % 4u] / total[i];
        }
        if (heads[i] == N_HEADS - 1u) {
            for (var c = N_HEADS * HEAD_DIM; c < Q_STRIDE; c += 1u) {
                out[rows[i] * Q_STRIDE + c] = 0.0;
            }
        }
    }
}
