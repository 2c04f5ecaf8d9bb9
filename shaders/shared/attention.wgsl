// What the attention kernels share. Constants from the host: HEAD_DIM, GROUP (query heads a key head), N_KV_HEADS, the
// THREADS of a workgroup and the ROWS that they cover, and where queries, keys and values lie: the columns from one row to
// the next, Q_STRIDE and KV_STRIDE, and the first column of each, Q_FIRST, K_FIRST and V_FIRST.
//
// A "query" is a row of the batch and one of the GROUP query heads that share a key head; query u of a key head is row
// u / GROUP, head u % GROUP of the group, so that queries of one row lie side by side.
//
// Everything is done in blocks of 4 x 4 (a mat4x4 for four queries and four keys, or for four values of four of them), and
// AT_ONCE keys (or queries), 16 or 32, at a time: every value loaded then serves 4 or as many products. A workgroup is of
// one key head, and its threads go through the same keys together, in eights: see eight_*.wgsl.
const HEAD_VEC4S: u32 = (HEAD_DIM + 3u) / 4u;
const N_HEADS: u32 = N_KV_HEADS * GROUP;
// Columns from one row of the result to the next.
const OUT_STRIDE: u32 = (N_HEADS * HEAD_DIM + 7u) / 8u * 8u;
// What a score is that must not count: below any real one, yet finite.
const MASKED: f32 = -1e30;

struct Params {
    rows: Rows,
    scale: f32,
    // Keys a query sees at most, itself included.
    window: u32,
    // HEAD_VEC4S and HEAD_DIM / 2, for loops that compilers should leave loops: unrolled they take minutes to compile.
    head_vec4s: u32,
    half: u32,
}

// Four queries of a key head, and the first and last key row that each sees.
struct Queries {
    rows: vec4<u32>,
    heads: vec4<u32>,
    // Where they start in q and in the result.
    at: vec4<u32>,
    out_at: vec4<u32>,
    // False for those that only fill the last block up; they repeat the last query.
    is_real: vec4<bool>,
    first: vec4<u32>,
    last: vec4<u32>,
}

// Queries start .. start + 4, of those before `end`.
fn queries_from(start: u32, end: u32, kv_head: u32) -> Queries {
    let u = min(four_from(start), vec4<u32>(end - 1u));
    var queries: Queries;
    queries.rows = u / GROUP;
    queries.heads = kv_head * GROUP + u % GROUP;
    queries.at = queries.rows * Q_STRIDE + Q_FIRST + queries.heads * HEAD_DIM;
    queries.out_at = queries.rows * OUT_STRIDE + queries.heads * HEAD_DIM;
    queries.is_real = four_from(start) < vec4<u32>(end);
    for (var i = 0u; i < 4u; i += 1u) {
        let token = tokens[queries.rows[i]];
        queries.last[i] = token.start + token.position;
        queries.first[i] = queries.last[i] - min(token.position, params.window - 1u);
    }
    return queries;
}

// Where eight keys start, and their values.
fn keys_from(thread: Thread, start: u32, last: u32, kv_head: u32) -> Eight {
    return eight_at(thread, start, last, Place(1u, KV_STRIDE, 0u, K_FIRST + kv_head * HEAD_DIM));
}

fn values_from(thread: Thread, start: u32, last: u32, kv_head: u32) -> Eight {
    return eight_at(thread, start, last, Place(1u, KV_STRIDE, 0u, V_FIRST + kv_head * HEAD_DIM));
}

fn four_from(start: u32) -> vec4<u32> {
    return vec4<u32>(start) + vec4<u32>(0u, 1u, 2u, 3u);
}

fn min_of(v: vec4<u32>) -> u32 {
    return min(min(v.x, v.y), min(v.z, v.w));
}

fn max_of(v: vec4<u32>) -> u32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// The columns of a block are numbered from `column`; scores outside first ..= last of their row become MASKED.
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

// exp(score - offset), 0 where the score was masked.
fn weight(score: vec4<f32>, offset: vec4<f32>) -> vec4<f32> {
    let x = score - offset;
    let e = vec4<f32>(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
    return select(vec4<f32>(0.0), e, score > vec4<f32>(MASKED));
}

// The same with one offset a row.
fn weights(scores: mat4x4<f32>, offset: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(scores[0], offset), weight(scores[1], offset), weight(scores[2], offset), weight(scores[3], offset));
}

// Each column multiplied by one factor.
fn scale_columns(m: mat4x4<f32>, by: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(m[0] * by.x, m[1] * by.y, m[2] * by.z, m[3] * by.w);
}

// Scores of four queries and eight keys, or of four keys and eight queries: a little more of their sums. The fours lie in
// columns of their values' terms.
fn add_scores(scores: ptr<function, EightVec4s>, four: mat4x4<f32>, eight: EightVec4s) {
    (*scores).lo += four * eight.lo;
    (*scores).hi += four * eight.hi;
}

// Scaled and masked.
fn finished(scores: EightVec4s, column: u32, first: vec4<u32>, last: vec4<u32>) -> EightVec4s {
    return EightVec4s(
        mask(scores.lo * params.scale, column, first, last), mask(scores.hi * params.scale, column + 4u, first, last));
}

fn turned(m: EightVec4s) -> EightVec4s {
    return EightVec4s(transpose(m.lo), transpose(m.hi));
}

// Four values of eight, weighted for each of four.
fn weighted(values: EightVec4s, by: EightVec4s) -> mat4x4<f32> {
    return values.lo * by.lo + values.hi * by.hi;
}
