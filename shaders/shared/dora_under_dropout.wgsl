// (gain - 1) ⊙ dy, which is what comes back through the product of a dropped input alone: without DoRA there is none.
@group(0) @binding(6) var<storage, read_write> dropped: array<vec4<f32>>;

fn put_dropped(at: u32, v: vec4<f32>) {
    dropped[at] = v;
}
