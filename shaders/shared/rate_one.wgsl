
// The learning rate of vec4 number `i`: one for all.
fn learning_rate(i: u32) -> f32 {
    return step.learning_rate;
}

fn weight_decay(i: u32) -> f32 {
    return step.weight_decay;
}
