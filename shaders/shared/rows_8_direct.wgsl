// Where a thread's eight rows of x and of the low-rank values come from, without workgroup memory. A thread's rows are
// those of its neighbours, and load as eight_*.wgsl says.
struct RowsAt {
    x: Eight,
    tail_x: Eight,
}

fn rows_at(thread: Thread, row: u32) -> RowsAt {
    return RowsAt(
        eight_at(thread, row, 0xffffffffu, Place(1u, params.x_stride4, 0u, 0u)),
        eight_at(thread, row, 0xffffffffu, Place(1u, params.tail_x_stride4, 0u, 0u)),
    );
}

fn load_x_row(at: u32, k4: u32) -> vec4<f32> {
    return x[at + k4];
}

fn x_rows(at: RowsAt, k4: u32) -> XRows {
    let rows = load_eight_x_row(at.x, k4);
    return XRows(rows.lo, rows.hi);
}

// The four low-rank values from 4·k4 on of those that belong to `segment`. Each segment's are loaded and one kept, as
// neighbours may differ in it.
fn tail_rows(at: RowsAt, k4: u32, segment: u32) -> XRows {
    if (N_SEGMENTS == 1u) {
        let rows = load_eight_tail_row(at.tail_x, k4);
        return XRows(rows.lo, rows.hi);
    }
    var kept = XRows();
    for (var i = 0u; i < N_SEGMENTS; i += 1u) {
        let slot = params.segments.slots[i];
        if (slot != NO_SLOT) {
            let rows = load_eight_tail_row(at.tail_x, k4 + slot);
            kept.lo = keep(kept.lo, rows.lo, segment == i);
            kept.hi = keep(kept.hi, rows.hi, segment == i);
        }
    }
    return kept;
}

fn keep(old: mat4x4<f32>, other: mat4x4<f32>, replace: bool) -> mat4x4<f32> {
    return mat4x4<f32>(
        select(old[0], other[0], replace), select(old[1], other[1], replace),
        select(old[2], other[2], replace), select(old[3], other[3], replace),
    );
}
