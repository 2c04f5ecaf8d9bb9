// With g = dy · weight, n = (x - mean) · rstd and mean and rstd of the forward pass:
// dx[t, c] = rstd[t] · (g[t, c] - mean_c(g[t, c]) - n[t, c] · mean_c(g[t, c] · n[t, c]))
//
// One thread a row; f32 sums, four interleaved partial sums a row. Weight and bias are frozen and get no gradient.
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
// (mean, rstd) of each row.
@group(0) @binding(5) var<storage, read> moments: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> dx: array<vec4<f32>>;

fn sum4(v: vec4<f32>) -> f32 {
    return v.x + v.y + v.z + v.w;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let row = global_id.x;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let start = row * params.stride4;
    let mean = moments[row].x;
    let rstd = moments[row].y;
    // Pads have a weight of zero.
    var gs = vec4<f32>(0.0);
    var products = vec4<f32>(0.0);
    for (var c = 0u; c < params.stride4; c += 1u) {
        let g = dy[start + c] * weight[c];
        gs += g;
        products += g * (x[start + c] - mean);
    }
    let mean_g = sum4(gs) / f32(params.width);
    let along = rstd * rstd * sum4(products) / f32(params.width);
    for (var c = 0u; c < params.stride4; c += 1u) {
        let is_real = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.width);
        let d = rstd * (dy[start + c] * weight[c] - mean_g - (x[start + c] - mean) * along);
        var kept = select(vec4<f32>(0.0), d, is_real);
        if (params.accumulate == 1u) {
            kept += dx[start + c];
        }
        dx[start + c] = kept;
    }
}
