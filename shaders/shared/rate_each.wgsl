// Two bits for every vec4, the lowest first: 0 for the learning rate, 1 for that of Bs, 2 for none, 3 for that of Bs without
// weight decay.
@group(0) @binding(9) var<storage, read> codes: array<u32>;

fn code_of(i: u32) -> u32 {
    return (codes[i / 16u] >> (2u * (i % 16u))) & 3u;
}

// The learning rate of vec4 number `i`.
fn learning_rate(i: u32) -> f32 {
    let code = code_of(i);
    return select(select(step.learning_rate, step.learning_rate_b, (code & 1u) == 1u), 0.0, code == 2u);
}

fn weight_decay(i: u32) -> f32 {
    return select(step.weight_decay, 0.0, code_of(i) == 3u);
}
