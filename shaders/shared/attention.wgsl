// What the attention kernels share. Constants from the host: HEAD_DIM, GROUP (query heads a key head), N_KV_HEADS.
//
// A "query" is a row of the batch and one of the GROUP query heads that share a key head: query u of a key head is row
// u / GROUP, head u % GROUP of the group, so that queries of one row lie side by side.
//
// Everything is done in blocks of 4 x 4 (a mat4x4 for four queries and four keys, or for four values of four of them),
// four such blocks at a time: every value loaded then serves 4 or 16 products, which is what software GPUs need most.
const HEAD_VEC4S: u32 = (HEAD_DIM + 3u) / 4u;
const N_HEADS: u32 = N_KV_HEADS * GROUP;
// Columns from one row to the next.
const Q_STRIDE: u32 = (N_HEADS * HEAD_DIM + 7u) / 8u * 8u;
const KV_STRIDE: u32 = (N_KV_HEADS * HEAD_DIM + 7u) / 8u * 8u;
// What a score is that must not count: below any real one, yet finite.
const MASKED: f32 = -1e30;

struct Params {
    rows: Rows,
    scale: f32,
    // Keys a query sees at most, itself included.
    window: u32,
    _pad0: u32,
    _pad1: u32,
}

// start, start + 1, start + 2, start + 3
fn four_from(start: u32) -> vec4<u32> {
    return vec4<u32>(start) + vec4<u32>(0u, 1u, 2u, 3u);
}

// Scores that lie outside first ..= last (of each of the four that share a row) become MASKED; `column` numbers the
// first column.
fn mask(scores: mat4x4<f32>, column: u32, first: vec4<u32>, last: vec4<u32>) -> mat4x4<f32> {
    let at = four_from(column);
    let masked = vec4<f32>(MASKED);
    return mat4x4<f32>(
        select(masked, scores[0], (first <= at.xxxx) & (at.xxxx <= last)),
        select(masked, scores[1], (first <= at.yyyy) & (at.yyyy <= last)),
        select(masked, scores[2], (first <= at.zzzz) & (at.zzzz <= last)),
        select(masked, scores[3], (first <= at.wwww) & (at.wwww <= last)),
    );
}

// exp(score), 0 where that was masked; `shifted` is the score less something that keeps this small.
fn weight(score: vec4<f32>, shifted: vec4<f32>) -> vec4<f32> {
    let e = vec4<f32>(exp_f32(shifted.x), exp_f32(shifted.y), exp_f32(shifted.z), exp_f32(shifted.w));
    return select(vec4<f32>(0.0), e, score > vec4<f32>(MASKED));
}
