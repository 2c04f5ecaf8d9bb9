// Q6_K: w = (d·s)·(q - 32), q of 6 bits, s a signed byte for each 16 columns, d f16 for each 256.
// 48 u32 of quants a block: 32 of nibbles, eight columns each, then 16 of the upper two bits, 16 columns each.
// Five u32 of scales a block: sixteen s, then d.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let block = at >> 5u;
    let word = at & 31u;
    let q = vec4<u32>(w_quants[block * 48u + word]) >> vec4<u32>(0u, 4u, 8u, 12u);
    let h = vec4<u32>(w_quants[block * 48u + 32u + (word >> 1u)] >> ((word & 1u) * 16u)) >> vec4<u32>(0u, 2u, 4u, 6u);
    let lo = (q & vec4<u32>(15u)) | ((h & vec4<u32>(3u)) << vec4<u32>(4u));
    let hi = ((q >> vec4<u32>(16u)) & vec4<u32>(15u)) | (((h >> vec4<u32>(8u)) & vec4<u32>(3u)) << vec4<u32>(4u));
    let sub = word >> 1u;
    let s = (bitcast<i32>(w_scales[block * 5u + (sub >> 2u)]) << (24u - (sub & 3u) * 8u)) >> 24u;
    let scale = unpack2x16float(w_scales[block * 5u + 4u]).x * f32(s);
    return Pair(scale * (vec4<f32>(lo) - 32.0), scale * (vec4<f32>(hi) - 32.0));
}
