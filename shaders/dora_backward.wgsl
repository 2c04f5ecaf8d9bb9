// Of y = gain ⊙ z + bias with gain = m / norm, where the norm counts as a constant (arXiv 2402.09353, section 4.3):
// dm[j] += Σ_t dy[t, j] z[t, j] / norm[j], and z becomes its own gradient, gain ⊙ dy.
//
// One thread four columns, through all rows in order; f32 sums.
struct Params {
    rows: Rows,
    // vec4s from one row of dy and z to the next.
    stride4: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
// As dora_gain.wgsl leaves them.
@group(0) @binding(3) var<storage, read> gains: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> z: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dm: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let column4 = global_id.x;
    if (column4 >= params.stride4) {
        return;
    }
    let gain = gains[column4];
    let norm = gains[2u * params.stride4 + column4];
    var sum = vec4<f32>(0.0);
    var at = column4;
    for (var t = 0u; t < n_rows(params.rows); t += 1u) {
        let d = dy[at];
        sum += d * z[at];
        z[at] = gain * d;
        put_dropped(at, (gain - 1.0) * d);
        at += params.stride4;
    }
    // Columns without an adapter, and pads, have no norm.
    dm[column4] += select(vec4<f32>(0.0), sum / norm, norm > vec4<f32>(0.0));
}
