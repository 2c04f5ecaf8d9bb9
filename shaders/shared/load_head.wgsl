// Values 4d .. 4d + 4 of a head that starts at `at` in NAME, zeros past its end.
fn load_NAME(at: u32, d: u32) -> vec4<f32> {
    if (HEAD_DIM % 4u == 0u) {
        return NAME[at / 4u + d];
    }
    var four = vec4<f32>(0.0);
    for (var c = 0u; c < min(4u, HEAD_DIM - 4u * d); c += 1u) {
        let i = at + 4u * d + c;
        four[c] = NAME[i / 4u][i % 4u];
    }
    return four;
}

// The same of four heads, a column each.
fn load_four_NAME(at: vec4<u32>, d: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load_NAME(at.x, d), load_NAME(at.y, d), load_NAME(at.z, d), load_NAME(at.w, d));
}
