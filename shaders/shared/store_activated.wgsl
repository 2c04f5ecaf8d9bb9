// y = the product (and earlier terms of it), and h = act(y).
@group(0) @binding(8) var<storage, read_write> h: array<vec4<f32>>;

fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 4u;
    let h_at = row * params.other_stride4 + column / 4u;
    var kept_lo = zero_from(column, end, lo);
    var kept_hi = zero_from(column + 4u, end, hi);
    if (params.accumulate == 1u) {
        kept_lo += y[at];
        kept_hi += y[at + 1u];
    }
    y[at] = kept_lo;
    y[at + 1u] = kept_hi;
    h[h_at] = kept_lo * sigmoid_vec4(inner(kept_lo));
    h[h_at + 1u] = kept_hi * sigmoid_vec4(inner(kept_hi));
}
