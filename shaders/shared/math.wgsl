// e^x and ln x to about an ulp: WGSL lets its own be several ulps off, which shows in losses and gradients.

// Range reduction by ln 2 in two parts, then a degree-6 polynomial on [-ln2/2, ln2/2] (Cephes' expf).
fn exp_f32(x: f32) -> f32 {
    let clamped = clamp(x, -87.0, 88.0);
    let n = round(clamped * 1.44269504);
    let r = (clamped - n * 0.693359375) + n * 2.12194440e-4;
    var p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    let y = p * r * r + r + 1.0;
    return y * bitcast<f32>(u32(i32(n) + 127) << 23u);
}

// One Newton step on the built-in.
fn log_f32(x: f32) -> f32 {
    let y = log(x);
    return y + (x * exp_f32(-y) - 1.0);
}

fn sigmoid_f32(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_f32(-x));
}

fn sigmoid_vec4(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(sigmoid_f32(x.x), sigmoid_f32(x.y), sigmoid_f32(x.z), sigmoid_f32(x.w));
}
