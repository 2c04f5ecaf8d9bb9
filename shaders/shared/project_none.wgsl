// A norm that nothing is projected from and no residual added to.
fn project(thread: Thread, row: u32, block: u32, is_real: bool) {}

fn residual_at(at: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
