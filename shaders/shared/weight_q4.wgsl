// Q4_0, Q4_1 and Q4_K: w = d·q + m with q of 4 bits, (d, m) the same for 32 columns: see scales_f16.wgsl and
// scales_k.wgsl. One u32 holds eight columns, the first in the lowest bits.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let q = vec4<u32>(w_quants[at]) >> vec4<u32>(0u, 4u, 8u, 12u);
    let dm = scale_and_minimum(at >> 2u);
    return Pair(
        dm.x * vec4<f32>(q & vec4<u32>(15u)) + dm.y,
        dm.x * vec4<f32>((q >> vec4<u32>(16u)) & vec4<u32>(15u)) + dm.y,
    );
}
