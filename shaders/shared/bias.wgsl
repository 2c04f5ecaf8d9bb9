// A bias on the columns of a product, pads zero.
@group(0) @binding(9) var<storage, read> bias: array<vec4<f32>>;

fn bias_at(column: u32) -> vec4<f32> {
    return bias[column / 4u];
}
