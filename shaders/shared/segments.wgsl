// Linears that read the same matrix have their outputs in one: side by side, each from a multiple of eight columns on,
// or interleaved, two by turns of four columns. Same order as `kernels::Segments`.
const NO_SLOT: u32 = 0xffffffffu;

struct Segments {
    // One past the last column of each, pads included; not used where they are interleaved.
    ends: vec4<u32>,
    // Where the low-rank columns of each start, in vec4s; NO_SLOT for a linear without an adapter.
    slots: vec4<u32>,
    // Of the low-rank columns of each slot.
    factors: vec4<f32>,
}

// The segment of columns `column ..` + 4.
fn segment_of(column: u32, ends: vec4<u32>, interleaved: u32) -> u32 {
    if (interleaved == 1u) {
        return (column / 4u) % 2u;
    }
    let past = vec4<u32>(column) >= ends;
    return u32(past.x) + u32(past.y) + u32(past.z);
}
