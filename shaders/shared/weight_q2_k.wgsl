// Q2_K: w = (d·s)·q - dmin·m, q of 2 bits, s and m of 4 for each 16 columns, d and dmin f16 for each 256.
// One u32 of quants holds 16 columns. Five u32 of scales a block: d and -dmin, then sixteen bytes of s and, above it, m.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let sub = at >> 1u;
    let q = vec4<u32>(w_quants[sub] >> ((at & 1u) * 16u)) >> vec4<u32>(0u, 2u, 4u, 6u);
    let block = (at >> 5u) * 5u;
    let sm = w_scales[block + 1u + ((sub >> 2u) & 3u)] >> ((sub & 3u) * 8u);
    let dm = unpack2x16float(w_scales[block]) * vec2<f32>(vec2<u32>(sm & 15u, (sm >> 4u) & 15u));
    return Pair(
        dm.x * vec4<f32>(q & vec4<u32>(3u)) + dm.y,
        dm.x * vec4<f32>((q >> vec4<u32>(8u)) & vec4<u32>(3u)) + dm.y,
    );
}
