// grad[i, j] += scale · Σ_piece sums[piece, i, j] in order, sums [pieces, p, stride(q)], grad [p, stride(q)].
//
// One thread a vec4 of grad.
@group(0) @binding(2) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> grad: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let n4 = params.p * params.q_blocks * 2u;
    if (global_id.x >= n4) {
        return;
    }
    let n_pieces = (n_rows(params.rows) + params.piece_rows - 1u) / params.piece_rows;
    var sum = vec4<f32>(0.0);
    for (var piece = 0u; piece < n_pieces; piece += 1u) {
        sum += sums[piece * n4 + global_id.x];
    }
    grad[global_id.x] += params.scale * sum;
}
