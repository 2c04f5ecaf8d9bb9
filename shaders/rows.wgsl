// Gather: y[i] = x[index[start + i]].   Scatter (SCATTER = 1): y[index[start + i]] = x[i], where no index occurs twice.
// i counts the rows of `params.rows`, whose start is an offset in `index` alone.
//
// One thread a vec4: x along columns, y along rows.
struct Params {
    rows: Rows,
    // vec4s from one row to the next, the same in both matrices.
    stride4: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let column = global_id.x;
    let row = global_id.y;
    if (column >= params.stride4 || row >= n_rows(params.rows)) {
        return;
    }
    let packed = row * params.stride4 + column;
    let spread = index[params.rows.start + row] * params.stride4 + column;
    if (SCATTER == 1u) {
        y[spread] = x[packed];
    } else {
        y[packed] = x[spread];
    }
}
