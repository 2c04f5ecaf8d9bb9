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

fn exp_vec4(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
}

// x = 2^k · (1 + r) with 1 + r in [sqrt(1/2), sqrt(2)), then a polynomial in r (Cephes' logf). Relative accuracy holds
// next to 1 as well, where the losses of a confident model lie. For normal positive x.
fn log_f32(x: f32) -> f32 {
    let sqrt_half = 0x3f3504f3u;
    let bits = bitcast<u32>(x) + (0x3f800000u - sqrt_half);
    let k = f32(i32(bits >> 23u) - 127);
    let r = bitcast<f32>((bits & 0x7fffffu) + sqrt_half) - 1.0;
    var p = 7.0376836292e-2;
    p = p * r - 1.1514610310e-1;
    p = p * r + 1.1676998740e-1;
    p = p * r - 1.2420140846e-1;
    p = p * r + 1.4249322787e-1;
    p = p * r - 1.6668057665e-1;
    p = p * r + 2.0000714765e-1;
    p = p * r - 2.4999993993e-1;
    p = p * r + 3.3333331174e-1;
    let square = r * r;
    let tail = p * r * square - k * 2.12194440e-4 - 0.5 * square;
    return (r + tail) + k * 0.693359375;
}

fn sigmoid_f32(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_f32(-x));
}

fn sigmoid_vec4(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp_vec4(-x));
}
