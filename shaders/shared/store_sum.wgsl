// y = the product, or y += it.
fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 4u;
    let kept_lo = zero_from(column, end, lo);
    let kept_hi = zero_from(column + 4u, end, hi);
    if (params.accumulate == 1u) {
        y[at] += kept_lo;
        y[at + 1u] += kept_hi;
    } else {
        y[at] = kept_lo;
        y[at + 1u] = kept_hi;
    }
}
