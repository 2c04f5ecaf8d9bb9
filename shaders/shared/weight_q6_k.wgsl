// Q6_K: w = (d·s)·(q - 32), q of 6 bits, d·s the same for 16 columns: see scales_signed.wgsl.
// 48 u32 of quants a block: 32 of nibbles, eight columns each, then 16 of the upper two bits, 16 columns each.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let block = (at >> 5u) * 48u;
    let word = at & 31u;
    let q = vec4<u32>(w_quants[block + word]) >> vec4<u32>(0u, 4u, 8u, 12u);
    let h = vec4<u32>(w_quants[block + 32u + (word >> 1u)] >> ((word & 1u) * 16u)) >> vec4<u32>(0u, 2u, 4u, 6u);
    let lo = (q & vec4<u32>(15u)) | ((h & vec4<u32>(3u)) << vec4<u32>(4u));
    let hi = ((q >> vec4<u32>(16u)) & vec4<u32>(15u)) | (((h >> vec4<u32>(8u)) & vec4<u32>(3u)) << vec4<u32>(4u));
    let s = signed_scale(at >> 1u);
    return Pair(s * (vec4<f32>(lo) - 32.0), s * (vec4<f32>(hi) - 32.0));
}
