// Writes values 4d .. 4d + 4 of a head that starts at `at` in NAME, and nothing past its end. Scalars, as two heads may
// meet within four columns.
fn store_NAME(at: u32, d: u32, four: vec4<f32>) {
    let i = at + 4u * d;
    NAME[i] = four.x;
    if (4u * d + 1u < HEAD_DIM) {
        NAME[i + 1u] = four.y;
    }
    if (4u * d + 2u < HEAD_DIM) {
        NAME[i + 2u] = four.z;
    }
    if (4u * d + 3u < HEAD_DIM) {
        NAME[i + 3u] = four.w;
    }
}

// The same for four heads, a column each, of those that are `real`.
fn store_four_NAME(at: vec4<u32>, d: u32, m: mat4x4<f32>, real: vec4<bool>) {
    if (real.x) {
        store_NAME(at.x, d, m[0]);
    }
    if (real.y) {
        store_NAME(at.y, d, m[1]);
    }
    if (real.z) {
        store_NAME(at.z, d, m[2]);
    }
    if (real.w) {
        store_NAME(at.w, d, m[3]);
    }
}

// Zeros in columns width .. end of the row that starts at `row_at`.
fn store_pad_NAME(row_at: u32, width: u32, end: u32) {
    for (var c = width; c < end; c += 1u) {
        NAME[row_at + c] = 0.0;
    }
}
