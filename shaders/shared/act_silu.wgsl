// act(x) = x · sigmoid(inner(x)) with inner(x) = x: SiLU, arXiv 1702.03118.
fn inner(x: vec4<f32>) -> vec4<f32> {
    return x;
}

fn inner_slope(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(1.0);
}
