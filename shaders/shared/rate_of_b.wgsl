
// A bit for every 16 vec4s, the lowest first: 1 where they are of a B.
@group(0) @binding(9) var<storage, read> is_b: array<u32>;

// The learning rate of vec4 number `i` (LoRA+, arXiv 2402.12354).
fn learning_rate(i: u32) -> f32 {
    let block = i / 16u;
    let of_b = (is_b[block / 32u] >> (block % 32u)) & 1u;
    return select(step.learning_rate, step.learning_rate_b, of_b == 1u);
}

fn weight_decay(i: u32) -> f32 {
    return step.weight_decay;
}
