// Columns 8·block .. + 8 of xa. a [columns of xa, stride(width)].
@group(0) @binding(6) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> xa: array<vec4<f32>>;

fn project(row: u32, block: u32) {
    let start = row * params.stride4;
    let s = params.stride4;
    var a_at = 8u * block * s;
    var squares = vec4<f32>(0.0);
    var lo = vec4<f32>(0.0);
    var hi = vec4<f32>(0.0);
    for (var c = 0u; c < s; c += 1u) {
        let v = x[start + c];
        squares += v * v;
        let z = v * weight[c];
        lo += z * mat4x4<f32>(a[a_at], a[a_at + s], a[a_at + 2u * s], a[a_at + 3u * s]);
        hi += z * mat4x4<f32>(a[a_at + 4u * s], a[a_at + 5u * s], a[a_at + 6u * s], a[a_at + 7u * s]);
        a_at += 1u;
    }
    let r = rstd_of(squares) * params.factors[block / params.slot8];
    let at = row * params.xa_stride4 + 2u * block;
    xa[at] = r * lo;
    xa[at + 1u] = r * hi;
}

fn residual_at(at: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
