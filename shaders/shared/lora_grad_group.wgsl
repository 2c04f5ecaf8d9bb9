// Group INDEX of lora_grad.wgsl. A WGSL function cannot be handed a storage binding, so each group has its own.
// Where the low-rank columns of the linear with this column of y start, in vec4s.
fn slot_of_INDEX(y_column: u32) -> u32 {
    let segments = params.groups[INDEX].segments;
    return segments.slots[segment_of(y_column, segments.ends, INTERLEAVED_INDEX)];
}

// Four columns of four rows, the last one repeated past it.
fn x_rows_INDEX(row: u32, last: u32, stride4: u32, column4: u32) -> mat4x4<f32> {
    let at = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * stride4 + column4;
    return mat4x4<f32>(xINDEX[at.x], xINDEX[at.y], xINDEX[at.z], xINDEX[at.w]);
}

fn dy_rows_INDEX(row: u32, last: u32, stride4: u32, column4: u32) -> mat4x4<f32> {
    let at = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * stride4 + column4;
    return mat4x4<f32>(dyINDEX[at.x], dyINDEX[at.y], dyINDEX[at.z], dyINDEX[at.w]);
}

// Low-rank columns 4·column4 .. of the linear with this slot; zeros where there is none.
fn xa_rows_INDEX(at: Eight, column4: u32, slot: u32) -> EightVec4s {
    var rows = EightVec4s();
    if (!HANDED_ROUND) {
        if (slot != NO_SLOT) {
            rows = load_eight_xa(at, column4 + slot);
        }
        return rows;
    }
    // Neighbours may differ in their slot.
    for (var i = 0u; i < N_SEGMENTS_INDEX; i += 1u) {
        let other = params.groups[INDEX].segments.slots[i];
        if (other != NO_SLOT) {
            let loaded = load_eight_xa(at, column4 + other);
            if (other == slot) {
                rows = loaded;
            }
        }
    }
    return rows;
}

fn group_INDEX(workgroup: u32, thread: Thread) {
    let group = params.groups[INDEX];
    let n = n_rows(params.rows);
    let last = n - 1u;
    var block: Block;
    if (workgroup < group.da_workgroups) {
        // Eight rows of dA, and a thread for eight of its columns.
        let column4 = 2u * (workgroup % group.da_across * WORKGROUP + thread.index);
        let row8 = workgroup / group.da_across;
        let idle = column4 >= group.x_stride4;
        if (nobody(idle) || row8 % (params.rank4 / 2u) >= params.trained8) {
            return;
        }
        let row4 = 2u * row8;
        let place = Place(1u, group.xa_stride4, 0u, group.xa_at4 + row4);
        for (var t = 0u; t < n; t += 8u) {
            let at = eight_at(thread, t, last, place);
            let lo = before(load_eight_dxa(at, 0u), t, n);
            let hi = before(load_eight_dxa(at, 1u), t, n);
            let b0 = x_rows_INDEX(t, last, group.x_stride4, column4);
            let c0 = x_rows_INDEX(t, last, group.x_stride4, column4 + 1u);
            add_rows(&block, lo.lo, hi.lo, b0, c0, b0, c0);
            let b1 = x_rows_INDEX(t + 4u, last, group.x_stride4, column4);
            let c1 = x_rows_INDEX(t + 4u, last, group.x_stride4, column4 + 1u);
            add_rows(&block, lo.hi, hi.hi, b1, c1, b1, c1);
        }
        if (!idle) {
            add_to_grads(block, group.da_at4 + row4 * 4u * group.x_stride4 + column4, group.x_stride4, group.scale);
        }
        return;
    }
    // Eight columns of dB, and a thread for eight of its rows, which are columns of y.
    let in_db = workgroup - group.da_workgroups;
    let y_column4 = 2u * (in_db % group.db_across * WORKGROUP + thread.index);
    let column4 = 2u * (in_db / group.db_across);
    let slot_lo = slot_of_INDEX(4u * y_column4);
    let slot_hi = slot_of_INDEX(4u * y_column4 + 4u);
    let idle = y_column4 >= group.dy_stride4 || (slot_lo == NO_SLOT && slot_hi == NO_SLOT);
    if (nobody(idle) || column4 >= 2u * params.trained8) {
        return;
    }
    let place = Place(1u, group.xa_stride4, 0u, group.xa_at4 + column4);
    for (var t = 0u; t < n; t += 8u) {
        let at = eight_at(thread, t, last, place);
        let b = before(xa_rows_INDEX(at, 0u, slot_lo), t, n);
        let c = before(xa_rows_INDEX(at, 1u, slot_lo), t, n);
        var d = b;
        var e = c;
        if (INTERLEAVED_INDEX == 1u) {
            d = before(xa_rows_INDEX(at, 0u, slot_hi), t, n);
            e = before(xa_rows_INDEX(at, 1u, slot_hi), t, n);
        }
        add_rows(&block, dy_rows_INDEX(t, last, group.dy_stride4, y_column4),
            dy_rows_INDEX(t, last, group.dy_stride4, y_column4 + 1u), b.lo, c.lo, d.lo, e.lo);
        add_rows(&block, dy_rows_INDEX(t + 4u, last, group.dy_stride4, y_column4),
            dy_rows_INDEX(t + 4u, last, group.dy_stride4, y_column4 + 1u), b.hi, c.hi, d.hi, e.hi);
    }
    if (!idle) {
        add_to_grads(block, group.db_at4 + y_column4 * 4u * params.rank4 + column4, params.rank4, group.scale);
    }
}
