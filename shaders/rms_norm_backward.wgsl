// With g = dy · weight and rstd of the forward pass:
// dx[t, c] = rstd[t] · (g[t, c] - x[t, c] · rstd[t]² · mean_c(g[t, c] · x[t, c]))
//
// One thread a row; f32 sums, four interleaved partial sums a row. The weight is frozen and gets no gradient.
struct Params {
    rows: Rows,
    width: u32,
    // vec4s from one row to the next.
    stride4: u32,
    // 1: dx holds another branch's gradient, to be added to.
    accumulate: u32,
    _pad: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> rstd: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let row = global_id.x;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let start = row * params.stride4;
    var products = vec4<f32>(0.0);
    for (var c = 0u; c < params.stride4; c += 1u) {
        products += dy[start + c] * weight[c] * x[start + c];
    }
    let sum = products.x + products.y + products.z + products.w;
    let r = rstd[row];
    let along_x = r * r * sum / f32(params.width);
    for (var c = 0u; c < params.stride4; c += 1u) {
        var d = r * (dy[start + c] * weight[c] - x[start + c] * along_x);
        if (params.accumulate == 1u) {
            d += dx[start + c];
        }
        dx[start + c] = d;
    }
}
