// Four random words, a function of four others (pcg4d of Jarzynski and Olano, "Hash functions for GPU rendering", JCGT
// 9(3), 2020). Same as `kernels::random::pcg4d`.
fn random(key: vec4<u32>) -> vec4<u32> {
    var v = key * 1664525u + 1013904223u;
    v.x += v.y * v.w; v.y += v.z * v.x; v.z += v.x * v.y; v.w += v.y * v.z;
    v ^= v >> vec4<u32>(16u);
    v.x += v.y * v.w; v.y += v.z * v.x; v.z += v.x * v.y; v.w += v.y * v.z;
    return v;
}
