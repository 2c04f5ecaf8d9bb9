// y[i] = x[index[i]], or (SCATTER) y[index[i]] = x[i], for the rows i of the window `rows`, where x may be some columns of
// a wider matrix.
//
// One thread a vec4: x along columns, y along rows of the window.
struct Params {
    rows: Rows,
    // All in vec4s.
    width4: u32,
    x_first4: u32,
    x_stride4: u32,
    y_stride4: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let column = global_id.x;
    let row = global_id.y;
    if (column >= params.width4 || row >= n_rows(params.rows)) {
        return;
    }
    let there = index[params.rows.start + row];
    let source = select(there, row, SCATTER == 1u);
    let place = select(row, there, SCATTER == 1u);
    y[place * params.y_stride4 + column] = x[source * params.x_stride4 + params.x_first4 + column];
}
