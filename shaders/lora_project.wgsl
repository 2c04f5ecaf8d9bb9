// xa[t, i] = factor · Σ_c kept(t, c) · x[t, c] a[i, c]: LoRA's low-rank values of inputs under dropout.
//
// One thread a row and eight columns of xa; f32 sums. Workgroups along y are blocks of eight columns.
struct Params {
    rows: Rows,
    // vec4s from one row to the next.
    stride4: u32,
    xa_stride4: u32,
    // Blocks of eight columns in a slot of xa, and the factor of each slot.
    slot8: u32,
    _pad: u32,
    factors: vec4<f32>,
    dropout: Dropout,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> xa: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>, @builtin(workgroup_id) workgroup_id: vec3<u32>) {
    let row = global_id.x;
    let block = workgroup_id.y;
    if (row >= n_rows(params.rows)) {
        return;
    }
    let s = params.stride4;
    var a_at = 8u * block * s;
    var lo = vec4<f32>(0.0);
    var hi = vec4<f32>(0.0);
    for (var c = 0u; c < s; c += 1u) {
        let z = kept(params.dropout, row, c) * x[row * s + c];
        lo += z * mat4x4<f32>(a[a_at], a[a_at + s], a[a_at + 2u * s], a[a_at + 3u * s]);
        hi += z * mat4x4<f32>(a[a_at + 4u * s], a[a_at + 5u * s], a[a_at + 6u * s], a[a_at + 7u * s]);
        a_at += 1u;
    }
    let factor = params.factors[block / params.slot8];
    let at = row * params.xa_stride4 + 2u * block;
    xa[at] = factor * lo;
    xa[at + 1u] = factor * hi;
}
