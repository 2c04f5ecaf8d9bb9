// Q5_0, Q5_1 and Q5_K: w = d·q + m with q of 5 bits, (d, m) the same for 32 columns: see scales_f16.wgsl and
// scales_k.wgsl. Five u32 for 32 columns: four of nibbles as in weight_q4.wgsl, then their fifth bits in order.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let block = at >> 2u;
    let word = at & 3u;
    let q = vec4<u32>(w_quants[block * 5u + word]) >> vec4<u32>(0u, 4u, 8u, 12u);
    let h = vec4<u32>(w_quants[block * 5u + 4u] >> (word * 8u)) >> vec4<u32>(0u, 1u, 2u, 3u);
    let lo = (q & vec4<u32>(15u)) | ((h & vec4<u32>(1u)) << vec4<u32>(4u));
    let hi = ((q >> vec4<u32>(16u)) & vec4<u32>(15u)) | (h & vec4<u32>(16u));
    let dm = scale_and_minimum(block);
    return Pair(dm.x * vec4<f32>(lo) + dm.y, dm.x * vec4<f32>(hi) + dm.y);
}
