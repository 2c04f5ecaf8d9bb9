// f32, rows `stride(k)` apart: one vec4 holds four columns.
@group(0) @binding(2) var<storage, read> w_values: array<vec4<f32>>;

fn weight_pair(row: u32, k8: u32) -> Pair {
    let at = (row * params.k8 + k8) * 2u;
    return Pair(w_values[at], w_values[at + 1u]);
}
