// What DoRA multiplies the columns of a product with, and the bias after it: as dora_gain.wgsl leaves them.
@group(0) @binding(9) var<storage, read> gains: array<vec4<f32>>;

fn gain_at(column: u32) -> vec4<f32> {
    return gains[column / 4u];
}

fn bias_at(column: u32) -> vec4<f32> {
    return gains[params.y_stride4 + column / 4u];
}
