// A matmul without a low-rank continuation: its loop runs zero times.
fn tail_rows(row: u32, k4: u32) -> Rows8 {
    var none: Rows8;
    return none;
}

fn tail_weight(row: u32, k4: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
