// Columns 8·block .. + 8 of xa. a [columns of xa, stride(width)].
@group(0) @binding(6) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> xa: array<vec4<f32>>;

fn load_a(at: u32, c: u32) -> vec4<f32> {
    return a[at + c];
}

// Rows that are not real are inside the buffer, or loads past its end.
fn project(thread: Thread, row: u32, block: u32, is_real: bool) {
    let start = row * params.stride4;
    let a_at = eight_at(thread, 8u * block, 8u * block + 7u, Place(1u, params.stride4, 0u, 0u));
    var squares = vec4<f32>(0.0);
    var lo = vec4<f32>(0.0);
    var hi = vec4<f32>(0.0);
    for (var c = 0u; c < params.stride4; c += 1u) {
        let v = x[start + c];
        squares += v * v;
        let z = v * weight[c];
        let columns = load_eight_a(a_at, c);
        lo += z * columns.lo;
        hi += z * columns.hi;
    }
    if (!is_real) {
        return;
    }
    let r = rstd_of(squares) * params.factors[block / params.slot8];
    let at = row * params.xa_stride4 + 2u * block;
    xa[at] = r * lo;
    xa[at + 1u] = r * hi;
}

fn residual_at(at: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
