// A 64×64 tile of a product by 64 threads, an 8×8 block each: the way of GPUs. Both operands pass through workgroup
// memory, 32 terms at a time; there the weight is dequantised already and what lies outside is zero, so that the loop
// over the terms knows no bounds. A kernel says how its weight gets there: `n_terms`, `load_weights`, `load_tail`.
const TERMS: u32 = 32u;

// Term t of rows or columns 4 i ..: element 16 t + i.
var<workgroup> x_tile: array<vec4<Value>, 512>;
var<workgroup> w_tile: array<vec4<Value>, 512>;

// Four terms of four rows, given row by row.
fn put_x(at: u32, rows: mat4x4<f32>) {
    let terms = transpose(rows);
    x_tile[at] = vec4<Value>(terms[0]);
    x_tile[at + 16u] = vec4<Value>(terms[1]);
    x_tile[at + 32u] = vec4<Value>(terms[2]);
    x_tile[at + 48u] = vec4<Value>(terms[3]);
}

// Four terms of four columns, given column by column.
fn put_w(at: u32, columns: mat4x4<f32>) {
    let terms = transpose(columns);
    w_tile[at] = vec4<Value>(terms[0]);
    w_tile[at + 16u] = vec4<Value>(terms[1]);
    w_tile[at + 32u] = vec4<Value>(terms[2]);
    w_tile[at + 48u] = vec4<Value>(terms[3]);
}

// 32 columns of x, or of the low-rank values of a segment. Rows past the last of the step repeat it; nobody stores them.
fn load_x(thread: u32, row: u32, column4: u32) {
    let last = n_rows(params.rows) - 1u;
    let s = params.x_stride4;
    for (var i = thread; i < 128u; i += 64u) {
        let r = row + i / 8u * 4u;
        let c = column4 + i % 8u;
        var rows = mat4x4<f32>();
        if (c < s) {
            rows = mat4x4<f32>(
                x[min(r, last) * s + c], x[min(r + 1u, last) * s + c],
                x[min(r + 2u, last) * s + c], x[min(r + 3u, last) * s + c],
            );
        }
        put_x(i % 8u * 64u + i / 8u, rows);
    }
}

fn load_tail_x(thread: u32, row: u32, column4: u32, segment: u32) {
    let last = n_rows(params.rows) - 1u;
    for (var i = thread; i < 128u; i += 64u) {
        let r = row + i / 8u * 4u;
        let c = column4 + i % 8u;
        var rows = mat4x4<f32>();
        if (4u * c < params.tail_rank) {
            rows = mat4x4<f32>(
                tail_value(min(r, last), c, segment), tail_value(min(r + 1u, last), c, segment),
                tail_value(min(r + 2u, last), c, segment), tail_value(min(r + 3u, last), c, segment),
            );
        }
        put_x(i % 8u * 64u + i / 8u, rows);
    }
}

fn add_terms(block: ptr<function, Block>, thread: u32, n: u32) {
    for (var t = 0u; t < n; t += 1u) {
        let at = 16u * t;
        let x0 = x_tile[at + thread / 8u * 2u]; let x1 = x_tile[at + thread / 8u * 2u + 1u];
        let w0 = w_tile[at + thread % 8u * 2u]; let w1 = w_tile[at + thread % 8u * 2u + 1u];
        (*block).acc[0] += vec4<f32>(x0.x * w0); (*block).acc[1] += vec4<f32>(x0.x * w1);
        (*block).acc[2] += vec4<f32>(x0.y * w0); (*block).acc[3] += vec4<f32>(x0.y * w1);
        (*block).acc[4] += vec4<f32>(x0.z * w0); (*block).acc[5] += vec4<f32>(x0.z * w1);
        (*block).acc[6] += vec4<f32>(x0.w * w0); (*block).acc[7] += vec4<f32>(x0.w * w1);
        (*block).acc[8] += vec4<f32>(x1.x * w0); (*block).acc[9] += vec4<f32>(x1.x * w1);
        (*block).acc[10] += vec4<f32>(x1.y * w0); (*block).acc[11] += vec4<f32>(x1.y * w1);
        (*block).acc[12] += vec4<f32>(x1.z * w0); (*block).acc[13] += vec4<f32>(x1.z * w1);
        (*block).acc[14] += vec4<f32>(x1.w * w0); (*block).acc[15] += vec4<f32>(x1.w * w1);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = workgroup_id.y * 64u;
    let col = workgroup_id.x * 64u;
    var block: Block;
    for (var k = 0u; k < n_terms(); k += TERMS) {
        load_x(thread, row, (x_column() + k) / 4u);
        load_weights(thread, col, k);
        workgroupBarrier();
        add_terms(&block, thread, TERMS);
        workgroupBarrier();
    }
    // A tile's columns may belong to several linears: to each its low-rank values, and zeros for the columns of others.
    for (var segment = 0u; segment < N_SEGMENTS; segment += 1u) {
        for (var r = 0u; r < params.tail_rank; r += TERMS) {
            load_tail_x(thread, row, r / 4u, segment);
            load_tail(thread, col, r, segment);
            workgroupBarrier();
            add_terms(&block, thread, min(TERMS, params.tail_rank - r));
            workgroupBarrier();
        }
    }
    let block_row = row + thread / 8u * 8u;
    let block_col = col + thread % 8u * 8u;
    if (block_row < n_rows(params.rows) && block_col < n_columns()) {
        store_block(block, block_row, y_column() + block_col, y_column() + n_columns());
    }
}
