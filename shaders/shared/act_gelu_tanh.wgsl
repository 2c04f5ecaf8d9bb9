// act(x) = x · sigmoid(inner(x)) with inner(x) = 2 √(2/π) (x + 0.044715 x³): GELU by its tanh, arXiv 1606.08415, as
// 0.5 (1 + tanh(z)) = sigmoid(2 z). PyTorch's gelu(approximate='tanh'), transformers' gelu_new.
fn inner(x: vec4<f32>) -> vec4<f32> {
    return 1.5957691216 * x * (1.0 + 0.044715 * x * x);
}

fn inner_slope(x: vec4<f32>) -> vec4<f32> {
    return 1.5957691216 * (1.0 + 0.134145 * x * x);
}
