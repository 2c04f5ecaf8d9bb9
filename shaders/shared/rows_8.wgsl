// An 8×8 block of a product in registers: eight rows of x against two 4×4 tiles of a weight at a time.
// Straight-line code with constant indices: software GPUs do not unroll loops, and an indexed array is memory there.
// Rows past the last of the step are computed too: they lie inside the buffer and nobody reads them.
const ROWS: u32 = 8u;

// Four terms of each row of x.
struct XRows {
    lo: mat4x4<f32>,
    hi: mat4x4<f32>,
}

// acc[2 i], acc[2 i + 1]: columns 0-3 and 4-7 of row i.
struct Block {
    acc: array<vec4<f32>, 16>,
}

// acc += x_i · a, x_i · b, with the four terms of each sum down the columns of a and b.
fn add_products(block: ptr<function, Block>, x: XRows, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).acc[0] += x.lo[0] * a; (*block).acc[1] += x.lo[0] * b;
    (*block).acc[2] += x.lo[1] * a; (*block).acc[3] += x.lo[1] * b;
    (*block).acc[4] += x.lo[2] * a; (*block).acc[5] += x.lo[2] * b;
    (*block).acc[6] += x.lo[3] * a; (*block).acc[7] += x.lo[3] * b;
    (*block).acc[8] += x.hi[0] * a; (*block).acc[9] += x.hi[0] * b;
    (*block).acc[10] += x.hi[1] * a; (*block).acc[11] += x.hi[1] * b;
    (*block).acc[12] += x.hi[2] * a; (*block).acc[13] += x.hi[2] * b;
    (*block).acc[14] += x.hi[3] * a; (*block).acc[15] += x.hi[3] * b;
}

// The same with other rows for the second four columns.
fn add_products_apart(block: ptr<function, Block>, x: XRows, z: XRows, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).acc[0] += x.lo[0] * a; (*block).acc[1] += z.lo[0] * b;
    (*block).acc[2] += x.lo[1] * a; (*block).acc[3] += z.lo[1] * b;
    (*block).acc[4] += x.lo[2] * a; (*block).acc[5] += z.lo[2] * b;
    (*block).acc[6] += x.lo[3] * a; (*block).acc[7] += z.lo[3] * b;
    (*block).acc[8] += x.hi[0] * a; (*block).acc[9] += z.hi[0] * b;
    (*block).acc[10] += x.hi[1] * a; (*block).acc[11] += z.hi[1] * b;
    (*block).acc[12] += x.hi[2] * a; (*block).acc[13] += z.hi[2] * b;
    (*block).acc[14] += x.hi[3] * a; (*block).acc[15] += z.hi[3] * b;
}

fn store_block(block: Block, row: u32, column: u32, end: u32) {
    let lo = bias_at(column);
    let hi = bias_at(column + 4u);
    let f = gain_at(column);
    let g = gain_at(column + 4u);
    store(row, column, end, f * block.acc[0] + lo, g * block.acc[1] + hi);
    store(row + 1u, column, end, f * block.acc[2] + lo, g * block.acc[3] + hi);
    store(row + 2u, column, end, f * block.acc[4] + lo, g * block.acc[5] + hi);
    store(row + 3u, column, end, f * block.acc[6] + lo, g * block.acc[7] + hi);
    store(row + 4u, column, end, f * block.acc[8] + lo, g * block.acc[9] + hi);
    store(row + 5u, column, end, f * block.acc[10] + lo, g * block.acc[11] + hi);
    store(row + 6u, column, end, f * block.acc[12] + lo, g * block.acc[13] + hi);
    store(row + 7u, column, end, f * block.acc[14] + lo, g * block.acc[15] + hi);
}
