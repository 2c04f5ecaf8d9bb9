// A norm whose result is added to a residual of its width.
@group(0) @binding(6) var<storage, read> residual: array<vec4<f32>>;

fn project(thread: Thread, row: u32, block: u32, is_real: bool) {}

fn residual_at(at: u32) -> vec4<f32> {
    return residual[at];
}
