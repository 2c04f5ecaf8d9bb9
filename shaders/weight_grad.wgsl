// sums[piece, i, j] = Σ_t a[t, i] · b[t, j] over the piece's rows in order: a [t, p], b [t, q], sums [pieces, p, stride(q)].
// LoRA's dA (a narrow, b wide) and dB (a wide, b narrow); weight_grad_total adds up the pieces.
//
// One thread a block of 8 x 8 of a piece in registers: x over blocks, neighbours along the wider of a and b, y over pieces;
// f32 sums. Rows of a and b are padded to whole blocks with zeros, and so the pad columns of sums are zero.
@group(0) @binding(2) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sums: array<vec4<f32>>;

fn store_row(piece: u32, i: u32, j_block: u32, low: vec4<f32>, high: vec4<f32>) {
    if (i < params.p) {
        let at = ((piece * params.p + i) * params.q_blocks + j_block) * 2u;
        sums[at] = low;
        sums[at + 1u] = high;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    if (global_id.x >= params.p_blocks * params.q_blocks) {
        return;
    }
    let across = params.p_blocks <= params.q_blocks;
    let n_blocks = max(params.p_blocks, params.q_blocks);
    let long_block = global_id.x % n_blocks;
    let short_block = global_id.x / n_blocks;
    let i_block = select(long_block, short_block, across);
    let j_block = select(short_block, long_block, across);
    // s<i><half>: row i of the block, its columns 0..4 (l) and 4..8 (h).
    var s0l = vec4<f32>(0.0);
    var s0h = vec4<f32>(0.0);
    var s1l = vec4<f32>(0.0);
    var s1h = vec4<f32>(0.0);
    var s2l = vec4<f32>(0.0);
    var s2h = vec4<f32>(0.0);
    var s3l = vec4<f32>(0.0);
    var s3h = vec4<f32>(0.0);
    var s4l = vec4<f32>(0.0);
    var s4h = vec4<f32>(0.0);
    var s5l = vec4<f32>(0.0);
    var s5h = vec4<f32>(0.0);
    var s6l = vec4<f32>(0.0);
    var s6h = vec4<f32>(0.0);
    var s7l = vec4<f32>(0.0);
    var s7h = vec4<f32>(0.0);
    let piece = global_id.y;
    let t_start = piece * params.piece_rows;
    let t_end = min(t_start + params.piece_rows, n_rows(params.rows));
    let a_stride = params.p_blocks * 2u;
    let b_stride = params.q_blocks * 2u;
    var a_at = t_start * a_stride + i_block * 2u;
    var b_at = t_start * b_stride + j_block * 2u;
    for (var t = t_start; t < t_end; t += 1u) {
        let al = a[a_at];
        let ah = a[a_at + 1u];
        let bl = b[b_at];
        let bh = b[b_at + 1u];
        s0l += al.x * bl;
        s0h += al.x * bh;
        s1l += al.y * bl;
        s1h += al.y * bh;
        s2l += al.z * bl;
        s2h += al.z * bh;
        s3l += al.w * bl;
        s3h += al.w * bh;
        s4l += ah.x * bl;
        s4h += ah.x * bh;
        s5l += ah.y * bl;
        s5h += ah.y * bh;
        s6l += ah.z * bl;
        s6h += ah.z * bh;
        s7l += ah.w * bl;
        s7h += ah.w * bh;
        a_at += a_stride;
        b_at += b_stride;
    }
    let i = i_block * 8u;
    store_row(piece, i, j_block, s0l, s0h);
    store_row(piece, i + 1u, j_block, s1l, s1h);
    store_row(piece, i + 2u, j_block, s2l, s2h);
    store_row(piece, i + 3u, j_block, s3l, s3h);
    store_row(piece, i + 4u, j_block, s4l, s4h);
    store_row(piece, i + 5u, j_block, s5l, s5h);
    store_row(piece, i + 6u, j_block, s6l, s6h);
    store_row(piece, i + 7u, j_block, s7l, s7h);
}
