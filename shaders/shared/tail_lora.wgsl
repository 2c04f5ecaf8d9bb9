// The low-rank continuation of a product: more terms to its sum, f32.
@group(0) @binding(6) var<storage, read> tail_x: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> tail_w: array<vec4<f32>>;

// Row `row` of tail_x, the four columns from 4·k4 on of those that belong to `segment`. Each segment's are loaded and
// one kept: a load at the same place for all threads costs a software GPU far less than one that differs.
fn tail_value(row: u32, k4: u32, segment: u32) -> vec4<f32> {
    let at = row * params.tail_x_stride4 + k4;
    if (N_SEGMENTS == 1u) {
        return tail_x[at];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < N_SEGMENTS; i += 1u) {
        let slot = params.segments.slots[i];
        if (slot != NO_SLOT) {
            v = select(v, tail_x[at + slot], segment == i);
        }
    }
    return v;
}

fn tail_weight(row: u32, k4: u32) -> vec4<f32> {
    return tail_w[row * params.tail_w_stride4 + k4];
}

fn load_tail_row(at: u32, k4: u32) -> vec4<f32> {
    return tail_x[at + k4];
}
