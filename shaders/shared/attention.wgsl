// What the attention kernels share. Constants from the host: HEAD_DIM, GROUP (query heads a key head), N_KV_HEADS,
// BLOCKS (see `block_of`).
//
// A "query" is a row of the batch and one of the GROUP query heads that share a key head; query u of a key head is row
// u / GROUP, head u % GROUP, so that queries of one row lie side by side. A thread works on a block of four.
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

// Where a vector of a query or key head starts, in values.
fn query_at(row: u32, head: u32) -> u32 {
    return row * Q_STRIDE + head * HEAD_DIM;
}
fn key_at(row: u32, kv_head: u32) -> u32 {
    return row * KV_STRIDE + kv_head * HEAD_DIM;
}

fn exp4(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
}
