// IQ4_NL and IQ4_XS: w = d·table[q] with q of 4 bits, d f32 for each 32 columns, which holds IQ4_XS's d·(s - 32) exactly.
// One u32 holds eight columns, the first in the lowest bits.
@group(0) @binding(2) var<storage, read> w_quants: array<u32>;
@group(0) @binding(3) var<storage, read> w_scales: array<f32>;

// -127, -104, -83, -65; -49, -35, -22, -10; 1, 13, 25, 38; 53, 69, 89, 113: signed bytes, four to a u32. Chosen from
// without an index, which would be a load for each lane.
fn from_table(q: vec4<u32>) -> vec4<f32> {
    let second = (q & vec4<u32>(4u)) != vec4<u32>(0u);
    let negative = select(vec4<u32>(0xbfad9881u), vec4<u32>(0xf6eaddcfu), second);
    let positive = select(vec4<u32>(0x26190d01u), vec4<u32>(0x71594535u), second);
    let four = bitcast<vec4<i32>>(select(negative, positive, (q & vec4<u32>(8u)) != vec4<u32>(0u)));
    return vec4<f32>((four << (vec4<u32>(24u) - (q & vec4<u32>(3u)) * 8u)) >> vec4<u32>(24u));
}

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let q = vec4<u32>(w_quants[at]) >> vec4<u32>(0u, 4u, 8u, 12u);
    let d = w_scales[at >> 2u];
    return Pair(d * from_table(q & vec4<u32>(15u)), d * from_table((q >> vec4<u32>(16u)) & vec4<u32>(15u)));
}
