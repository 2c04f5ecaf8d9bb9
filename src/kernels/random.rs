//! Random numbers that are a function of where they are used: `random` of `shaders/shared/random.wgsl`.

/// Four random words for four others (pcg4d of Jarzynski and Olano, "Hash functions for GPU rendering", JCGT 9(3),
/// 2020).
pub fn pcg4d(key: [u32; 4]) -> [u32; 4] {
    let mut v = key.map(|word| word.wrapping_mul(1664525).wrapping_add(1013904223));
    let mix = |v: &mut [u32; 4]| {
        for (to, a, b) in [(0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)] {
            v[to] = v[to].wrapping_add(v[a].wrapping_mul(v[b]));
        }
    };
    mix(&mut v);
    v = v.map(|word| word ^ (word >> 16));
    mix(&mut v);
    v
}
