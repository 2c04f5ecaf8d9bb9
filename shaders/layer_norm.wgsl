// y[t, c] = (x[t, c] - mean[t]) · rstd[t] · weight[c] + bias[c],  rstd[t] = 1 / sqrt(mean_c (x[t, c] - mean[t])² + eps).
// arXiv 1607.06450
//
// One thread a row; f32 sums, four interleaved partial sums a row. The mean is taken first, so that nothing cancels.
struct Params {
    rows: Rows,
    width: u32,
    // vec4s from one row to the next.
    stride4: u32,
    eps: f32,
    _pad: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
// (mean, rstd) of each row.
@group(0) @binding(6) var<storage, read_write> moments: array<vec2<f32>>;

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
    var sums = vec4<f32>(0.0);
    for (var c = 0u; c < params.stride4; c += 1u) {
        sums += x[start + c];
    }
    let mean = sum4(sums) / f32(params.width);
    var squares = vec4<f32>(0.0);
    for (var c = 0u; c < params.stride4; c += 1u) {
        // Pads are no part of the row.
        let is_real = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.width);
        let v = select(vec4<f32>(0.0), x[start + c] - mean, is_real);
        squares += v * v;
    }
    let rstd = 1.0 / sqrt(sum4(squares) / f32(params.width) + params.eps);
    moments[row] = vec2<f32>(mean, rstd);
    for (var c = 0u; c < params.stride4; c += 1u) {
        y[start + c] = (x[start + c] - mean) * rstd * weight[c] + bias[c];
    }
}
