// Two bits for every vec4, the lowest first: 0 for the learning rate, 1 for that of Bs, 2 for none.
@group(0) @binding(9) var<storage, read> codes: array<u32>;

// The learning rate of vec4 number `i`.
fn learning_rate(i: u32) -> f32 {
    let code = (codes[i / 16u] >> (2u * (i % 16u))) & 3u;
    return select(select(step.learning_rate, step.learning_rate_b, code == 1u), 0.0, code == 2u);
}

fn weight_decay(i: u32) -> f32 {
    return step.weight_decay;
}
