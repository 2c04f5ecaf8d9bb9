// attention.wgsl for a batch of one row on a GPU, as in generating token by token: a workgroup takes a head. Of THREADS
// keys at a time, each thread takes the score of one, and then four values of the output over every PARTS-th of them.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// [1, .. N_HEADS * HEAD_DIM ..]
@group(0) @binding(3) var<storage, read> q: array<vec4<f32>>;
// [key rows, .. N_KV_HEADS * HEAD_DIM ..]
@group(0) @binding(4) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
// [1, N_HEADS * HEAD_DIM]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
// (lse, 0), [1, N_HEADS]
@group(0) @binding(7) var<storage, read_write> lse_delta: array<vec2<f32>>;

const PARTS: u32 = THREADS / HEAD_VEC4S;

var<workgroup> scores: array<f32, THREADS>;
// exp(score - maximum)
var<workgroup> shares: array<f32, THREADS>;
// A thread's values and the sum of their shares.
var<workgroup> sums: array<vec4<f32>, THREADS>;
var<workgroup> totals: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = workgroup_id.x;
    let k_at = K_FIRST + head / GROUP * HEAD_DIM;
    let v_at = V_FIRST + head / GROUP * HEAD_DIM;
    let last = tokens[0].start + tokens[0].position;
    let first = last - min(tokens[0].position, params.window - 1u);

    var sum = vec4<f32>(0.0);
    var total = 0.0;
    var maximum = MASKED;
    for (var key = first; key <= last; key += THREADS) {
        var score = MASKED;
        if (key + thread <= last) {
            score = 0.0;
            for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
                score += dot(load_q(Q_FIRST + head * HEAD_DIM, d), load_k((key + thread) * KV_STRIDE + k_at, d));
            }
            score *= params.scale;
        }
        scores[thread] = score;
        workgroupBarrier();
        let before = maximum;
        for (var i = 0u; i < THREADS; i += 1u) {
            maximum = max(maximum, scores[i]);
        }
        shares[thread] = select(0.0, exp_f32(score - maximum), score > MASKED);
        workgroupBarrier();
        let shrink = exp_f32(before - maximum);
        sum *= shrink;
        total *= shrink;
        for (var i = thread / HEAD_VEC4S; i < min(THREADS, last + 1u - key); i += PARTS) {
            sum += shares[i] * load_v((key + i) * KV_STRIDE + v_at, thread % HEAD_VEC4S);
            total += shares[i];
        }
    }

    sums[thread] = sum;
    totals[thread] = total;
    workgroupBarrier();
    if (thread >= HEAD_VEC4S) {
        return;
    }
    for (var part = 1u; part < PARTS; part += 1u) {
        sum += sums[part * HEAD_VEC4S + thread];
        total += totals[part * HEAD_VEC4S + thread];
    }
    store_out(head * HEAD_DIM, thread, sum / total);
    if (thread == 0u) {
        lse_delta[head] = vec2<f32>(maximum + log_f32(total), 0.0);
        if (head == N_HEADS - 1u) {
            store_pad_out(0u, N_HEADS * HEAD_DIM, OUT_STRIDE);
        }
    }
}
