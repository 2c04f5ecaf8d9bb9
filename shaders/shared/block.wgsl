// An 8×8 block of a product in registers: eight rows of x against two 4×4 tiles of a weight at a time.
// Straight-line code with constant indices: software GPUs do not unroll loops, and an indexed array is memory there.
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

struct Params {
    rows: Rows,
    // Rows of the weight.
    n: u32,
    // Groups of eight columns in a row of the weight.
    k8: u32,
    // Column of the weight's first row in the wider matrix, where the weight is a part of a taller one; a multiple of 8.
    first: u32,
    x_stride4: u32,
    y_stride4: u32,
    tail_rank: u32,
    tail_x_stride4: u32,
    tail_w_stride4: u32,
    // Times step.strength.
    tail_scale: f32,
    accumulate: u32,
    _pad0: u32,
    _pad1: u32,
}

struct Rows8 {
    r: array<vec4<f32>, 8>,
}

// acc[2 i], acc[2 i + 1]: columns 0-3 and 4-7 of row i.
struct Block {
    acc: array<vec4<f32>, 16>,
}

fn x_rows(row: u32, k4: u32) -> Rows8 {
    let s = params.x_stride4;
    let at = row * s + k4;
    return Rows8(array<vec4<f32>, 8>(
        x[at], x[at + s], x[at + 2u * s], x[at + 3u * s], x[at + 4u * s], x[at + 5u * s], x[at + 6u * s], x[at + 7u * s],
    ));
}

// acc += x_i · a, x_i · b, with the four terms of each sum down the columns of a and b.
fn add_products(block: ptr<function, Block>, x: Rows8, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).acc[0] += x.r[0] * a; (*block).acc[1] += x.r[0] * b;
    (*block).acc[2] += x.r[1] * a; (*block).acc[3] += x.r[1] * b;
    (*block).acc[4] += x.r[2] * a; (*block).acc[5] += x.r[2] * b;
    (*block).acc[6] += x.r[3] * a; (*block).acc[7] += x.r[3] * b;
    (*block).acc[8] += x.r[4] * a; (*block).acc[9] += x.r[4] * b;
    (*block).acc[10] += x.r[5] * a; (*block).acc[11] += x.r[5] * b;
    (*block).acc[12] += x.r[6] * a; (*block).acc[13] += x.r[6] * b;
    (*block).acc[14] += x.r[7] * a; (*block).acc[15] += x.r[7] * b;
}

fn store(at: u32, lo: vec4<f32>, hi: vec4<f32>) {
    if (params.accumulate == 1u) {
        y[at] += lo;
        y[at + 1u] += hi;
    } else {
        y[at] = lo;
        y[at + 1u] = hi;
    }
}
