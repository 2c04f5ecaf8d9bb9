// A product without a low-rank continuation: its loop runs zero times.
fn tail_value(row: u32, k4: u32, segment: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn tail_weight(row: u32, k4: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn load_tail_row(at: u32, k4: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
