// bf16, rows `stride(k)` apart: one vec4 holds eight columns. A bf16 is the upper half of an f32.
@group(0) @binding(2) var<storage, read> w_values: array<vec4<u32>>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let v = w_values[row * params.k8 + k8];
    let even = bitcast<vec4<f32>>(v << vec4<u32>(16u));
    let odd = bitcast<vec4<f32>>(v & vec4<u32>(0xffff0000u));
    return Pair(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
}
