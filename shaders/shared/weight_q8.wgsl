// Q8_0: w = d·q with q a signed byte, d f16 for each 32 columns, two scales to a u32.
@group(0) @binding(2) var<storage, read> w_quants: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

fn signed_bytes(word: u32) -> vec4<f32> {
    let shifted = vec4<i32>(bitcast<i32>(word)) << vec4<u32>(24u, 16u, 8u, 0u);
    return vec4<f32>(shifted >> vec4<u32>(24u));
}

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = row * params.k8 + k8;
    let q = w_quants[at];
    let block = at >> 2u;
    let both = unpack2x16float(w_scales[block >> 1u]);
    let d = select(both.x, both.y, (block & 1u) == 1u);
    return Pair(d * signed_bytes(q.x), d * signed_bytes(q.y));
}
