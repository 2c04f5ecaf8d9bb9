// An 8×8 block of a product in registers: eight rows of x against two 4×4 tiles of a weight at a time.
// Straight-line code with constant indices: software GPUs do not unroll loops, and an indexed array is memory there.
// Rows past the last of the step are computed too: they lie inside the buffer and nobody reads them.
const ROWS: u32 = 8u;

struct XRows {
    r: array<vec4<f32>, 8>,
}

// acc[2 i], acc[2 i + 1]: columns 0-3 and 4-7 of row i.
struct Block {
    acc: array<vec4<f32>, 16>,
}

fn x_rows(row: u32, k4: u32) -> XRows {
    let s = params.x_stride4;
    let at = row * s + k4;
    return XRows(array<vec4<f32>, 8>(
        x[at], x[at + s], x[at + 2u * s], x[at + 3u * s], x[at + 4u * s], x[at + 5u * s], x[at + 6u * s], x[at + 7u * s],
    ));
}

fn tail_rows(row: u32, k4: u32, segment: u32) -> XRows {
    return XRows(array<vec4<f32>, 8>(
        tail_value(row, k4, segment), tail_value(row + 1u, k4, segment),
        tail_value(row + 2u, k4, segment), tail_value(row + 3u, k4, segment),
        tail_value(row + 4u, k4, segment), tail_value(row + 5u, k4, segment),
        tail_value(row + 6u, k4, segment), tail_value(row + 7u, k4, segment),
    ));
}

// acc += x_i · a, x_i · b, with the four terms of each sum down the columns of a and b.
fn add_products(block: ptr<function, Block>, x: XRows, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).acc[0] += x.r[0] * a; (*block).acc[1] += x.r[0] * b;
    (*block).acc[2] += x.r[1] * a; (*block).acc[3] += x.r[1] * b;
    (*block).acc[4] += x.r[2] * a; (*block).acc[5] += x.r[2] * b;
    (*block).acc[6] += x.r[3] * a; (*block).acc[7] += x.r[3] * b;
    (*block).acc[8] += x.r[4] * a; (*block).acc[9] += x.r[4] * b;
    (*block).acc[10] += x.r[5] * a; (*block).acc[11] += x.r[5] * b;
    (*block).acc[12] += x.r[6] * a; (*block).acc[13] += x.r[6] * b;
    (*block).acc[14] += x.r[7] * a; (*block).acc[15] += x.r[7] * b;
}

// The same with other rows for the second four columns.
fn add_products_apart(block: ptr<function, Block>, x: XRows, z: XRows, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).acc[0] += x.r[0] * a; (*block).acc[1] += z.r[0] * b;
    (*block).acc[2] += x.r[1] * a; (*block).acc[3] += z.r[1] * b;
    (*block).acc[4] += x.r[2] * a; (*block).acc[5] += z.r[2] * b;
    (*block).acc[6] += x.r[3] * a; (*block).acc[7] += z.r[3] * b;
    (*block).acc[8] += x.r[4] * a; (*block).acc[9] += z.r[4] * b;
    (*block).acc[10] += x.r[5] * a; (*block).acc[11] += z.r[5] * b;
    (*block).acc[12] += x.r[6] * a; (*block).acc[13] += z.r[6] * b;
    (*block).acc[14] += x.r[7] * a; (*block).acc[15] += z.r[7] * b;
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
