// out[t, h] = Σ_j p_j v[j],  p = softmax_j(scale · q[t, h] · k[j])  over the keys j that row t sees, and
// lse[t, h] = ln Σ_j exp(scale · q[t, h] · k[j]).   Online softmax: arXiv 2205.14135, algorithm 1.
//
// A thread takes four queries of a key head (see shared/attention.wgsl) through all their keys, KEYS at a time, so that
// a load of a key or value serves four queries and a load of a query serves KEYS keys. No two threads share memory.
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

const KEYS: u32 = 8u;

@compute @workgroup_size(BLOCKS * N_HEADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) local_index: u32) {
    let n = n_rows(params.rows);
    let kv_head = local_index % N_KV_HEADS;
    let u = (workgroup_id.x * BLOCKS * GROUP + local_index / N_KV_HEADS) * 4u;
    if (u / GROUP >= n) {
        return;
    }
    // The last block repeats its last row.
    let rows = min((vec4<u32>(u) + vec4<u32>(0u, 1u, 2u, 3u)) / GROUP, vec4<u32>(n - 1u));
    let heads = kv_head * GROUP + (vec4<u32>(u) + vec4<u32>(0u, 1u, 2u, 3u)) % GROUP;
    let q_at = rows * Q_STRIDE + heads * HEAD_DIM;
    var first: vec4<u32>;
    var last: vec4<u32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let token = tokens[rows[i]];
        last[i] = token.start + token.position;
        first[i] = last[i] - min(token.position, params.window - 1u);
    }
    let lo = min(min(first.x, first.y), min(first.z, first.w));
    let hi = max(max(last.x, last.y), max(last.z, last.w));

    var acc: array<mat4x4<f32>, HEAD_VEC4S>;
    for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
        acc[d] = mat4x4<f32>();
    }
    var maximum = vec4<f32>(MASKED);
    var sum = vec4<f32>(0.0);
    for (var key = lo; key <= hi; key += KEYS) {
        // s[j] holds the scores, then the weights, of key j for the four queries.
        var s: array<vec4<f32>, KEYS>;
        for (var j = 0u; j < KEYS; j += 1u) {
            s[j] = vec4<f32>(0.0);
        }
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let queries = mat4x4<f32>(load_q(q_at.x, d), load_q(q_at.y, d), load_q(q_at.z, d), load_q(q_at.w, d));
            for (var j = 0u; j < KEYS; j += 1u) {
                s[j] += load_k(key_at(min(key + j, hi), kv_head), d) * queries;
            }
        }
        var new_maximum = maximum;
        for (var j = 0u; j < KEYS; j += 1u) {
            let at = vec4<u32>(key + j);
            s[j] = select(vec4<f32>(MASKED), s[j] * params.scale, (at >= first) & (at <= last));
            new_maximum = max(new_maximum, s[j]);
        }
        let shrink = exp4(maximum - new_maximum);
        maximum = new_maximum;
        sum *= shrink;
        for (var j = 0u; j < KEYS; j += 1u) {
            s[j] = select(vec4<f32>(0.0), exp4(s[j] - maximum), s[j] > vec4<f32>(MASKED));
            sum += s[j];
        }
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            var o = acc[d];
            o[0] *= shrink.x;
            o[1] *= shrink.y;
            o[2] *= shrink.z;
            o[3] *= shrink.w;
            for (var j = 0u; j < KEYS; j += 1u) {
                let value = load_v(key_at(min(key + j, hi), kv_head), d);
                o[0] += value * s[j].x;
                o[1] += value * s[j].y;
                o[2] += value * s[j].z;
                o[3] += value * s[j].w;
            }
            acc[d] = o;
        }
    }

    for (var i = 0u; i < 4u; i += 1u) {
        if ((u + i) / GROUP >= n) {
            return;
        }
        lse[rows[i] * N_HEADS + heads[i]] = maximum[i] + log_f32(sum[i]);
        for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
            let o = acc[d][i] / sum[i];
            for (var c = 0u; c < min(4u, HEAD_DIM - 4u * d); c += 1u) {
                out[q_at[i] + 4u * d + c] = o[c];
            }
        }
        if (heads[i] == N_HEADS - 1u) {
            for (var c = N_HEADS * HEAD_DIM; c < Q_STRIDE; c += 1u) {
                out[rows[i] * Q_STRIDE + c] = 0.0;
            }
        }
    }
}
