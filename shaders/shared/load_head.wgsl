// Values at + 4d .. at + 4d + 4 of NAME, zeros past the end of a head that starts at `at`.
fn load_NAME(at: u32, d: u32) -> vec4<f32> {
    if (HEAD_DIM % 4u == 0u) {
        return NAME[at / 4u + d];
    }
    var four = vec4<f32>(0.0);
    for (var c = 0u; c < 4u; c += 1u) {
        if (4u * d + c < HEAD_DIM) {
            let i = at + 4u * d + c;
            four[c] = NAME[i / 4u][i % 4u];
        }
    }
    return four;
}
