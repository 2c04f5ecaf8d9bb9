// f16, rows `stride(k)` apart: one vec4 holds eight columns.
@group(0) @binding(2) var<storage, read> w_values: array<vec4<u32>>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let v = w_values[row * params.k8 + k8];
    return Pair(
        vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)),
        vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)),
    );
}
