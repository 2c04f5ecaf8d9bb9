// y = offset + (1 - strength) · original + strength · trained: at a strength of 0 what was there before, at 1 what was
// trained, both to the bit.
//
// One thread a vec4.
struct Params {
    n4: u32,
    offset: f32,
    _pad0: u32,
    _pad1: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> original: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> trained: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let i = global_id.x;
    if (i < params.n4) {
        y[i] = params.offset + ((1.0 - step.strength) * original[i] + step.strength * trained[i]);
    }
}
