// Q3_K: w = (d·s)·(q - 4), q of 3 bits, d·s the same for 16 columns: see scales_signed.wgsl.
// 24 u32 of quants a block: 16 of the lower two bits, 16 columns each, then eight of the third, 32 columns each.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let block = (at >> 5u) * 24u;
    let word = at & 31u;
    let q = vec4<u32>(w_quants[block + (word >> 1u)] >> ((word & 1u) * 16u)) >> vec4<u32>(0u, 2u, 4u, 6u);
    let h = vec4<u32>(w_quants[block + 16u + (word >> 2u)] >> ((word & 3u) * 8u)) >> vec4<u32>(0u, 1u, 2u, 3u);
    let lo = (q & vec4<u32>(3u)) | ((h & vec4<u32>(1u)) << vec4<u32>(2u));
    let hi = ((q >> vec4<u32>(8u)) & vec4<u32>(3u)) | ((h & vec4<u32>(16u)) >> vec4<u32>(2u));
    let s = signed_scale(at >> 1u);
    return Pair(s * (vec4<f32>(lo) - 4.0), s * (vec4<f32>(hi) - 4.0));
}
