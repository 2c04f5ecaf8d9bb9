// delta[t, h] = (lse[t, h], d_out[t, h] · out[t, h]): what the other backward kernels need to know of a query. A pair,
// as those have no binding to spare.   arXiv 2205.14135, algorithm 4.
//
// One thread for each row and head.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>;
// [n_tokens, N_HEADS * HEAD_DIM]
@group(0) @binding(3) var<storage, read> out: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> d_out: array<vec4<f32>>;
// [n_tokens, N_HEADS]
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read_write> delta: array<vec2<f32>>;

@compute @workgroup_size(N_HEADS, BLOCKS)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let row = global_id.y;
    let head = global_id.x;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let at = row * Q_STRIDE + head * HEAD_DIM;
    var sum = 0.0;
    for (var d = 0u; d < HEAD_VEC4S; d += 1u) {
        sum += dot(load_out(at, d), load_d_out(at, d));
    }
    let i = row * N_HEADS + head;
    delta[i] = vec2<f32>(lse[i], sum);
}
