// One step of AdamW as in torch.optim.AdamW (arXiv 1711.05101, algorithm 2), with g the clipped gradient:
//   p *= 1 - lr · weight_decay
//   m = beta1 · m + (1 - beta1) · g,  v = beta2 · v + (1 - beta2) · g²
//   p -= lr / bias_correction1 · m / (sqrt(v) / sqrt(bias_correction2) + eps)
// or nothing at all when loss or gradients are not finite.
struct Moments {
    m: vec4<f32>,
    v: vec4<f32>,
}

fn moved(before: Moments, g: vec4<f32>) -> Moments {
    let m = before.m + (1.0 - step.beta1) * (g - before.m);
    let v = step.beta2 * before.v + (1.0 - step.beta2) * g * g;
    return Moments(m, v);
}

fn updated(p: vec4<f32>, after: Moments, lr: f32, weight_decay: f32) -> vec4<f32> {
    let denom = sqrt(after.v) / sqrt(step.bias_correction2) + step.eps;
    let decayed = p * (1.0 - lr * weight_decay);
    return decayed - (lr / step.bias_correction1) * (after.m / denom);
}
