// The learning rate of vec4 number `i`: that of Bs for all, and no weight decay.
fn learning_rate(i: u32) -> f32 {
    return step.learning_rate_b;
}

fn weight_decay(i: u32) -> f32 {
    return 0.0;
}
