// y[t, :] = scale · w[tokens[t].id - first, :] for the tokens whose id lies in this part of the table, w in any weight
// format. Or, for a table of POSITIONS, y[t, :] += scale · w[tokens[t].position - first, :].
//
// One thread copies eight columns: columns along x, rows along y.
struct Params {
    rows: Rows,
    // Rows of this part of the table.
    n: u32,
    // Groups of eight columns in a row.
    k8: u32,
    // Id of the part's first row.
    first: u32,
    scale: f32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> tokens: array<Token>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let k8 = global_id.x;
    let row = global_id.y;
    if (k8 >= params.k8 || row >= n_rows(params.rows)) {
        return;
    }
    let id = select(tokens[row].id, tokens[row].position, POSITIONS == 1u);
    if (id < params.first || id >= params.first + params.n) {
        return;
    }
    let pair = weight_pair(id - params.first, k8);
    let at = (row * params.k8 + k8) * 2u;
    var lo = params.scale * pair.lo;
    var hi = params.scale * pair.hi;
    if (POSITIONS == 1u) {
        lo += y[at];
        hi += y[at + 1u];
    }
    y[at] = lo;
    y[at + 1u] = hi;
}
