// A 1×8 block of a product: one row of x, as in generating token by token, where the time is that of reading the weight.
const ROWS: u32 = 1u;

struct XRows {
    r: vec4<f32>,
}

struct Block {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

alias RowsAt = u32;

fn rows_at(thread: Thread, row: u32) -> RowsAt {
    return row;
}

fn x_rows(row: RowsAt, k4: u32) -> XRows {
    return XRows(x[row * params.x_stride4 + k4]);
}

fn tail_rows(row: RowsAt, k4: u32, segment: u32) -> XRows {
    return XRows(tail_value(row, k4, segment));
}

fn add_products(block: ptr<function, Block>, x: XRows, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).lo += x.r * a;
    (*block).hi += x.r * b;
}

fn add_products_apart(block: ptr<function, Block>, x: XRows, z: XRows, a: mat4x4<f32>, b: mat4x4<f32>) {
    (*block).lo += x.r * a;
    (*block).hi += z.r * b;
}

fn store_block(block: Block, row: u32, column: u32, end: u32) {
    let lo = gain_at(column) * block.lo + bias_at(column);
    let hi = gain_at(column + 4u) * block.hi + bias_at(column + 4u);
    store(row, column, end, lo, hi);
}
