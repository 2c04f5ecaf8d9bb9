fn put_dropped(at: u32, v: vec4<f32>) {}
