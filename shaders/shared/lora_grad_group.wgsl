// Group INDEX of lora_grad.wgsl. A WGSL function cannot be handed a storage binding, so each group has its own.
// Where the low-rank columns of the linear with this column of y start, in vec4s.
fn slot_of_INDEX(y_column: u32) -> u32 {
    let segments = params.groups[INDEX].segments;
    return segments.slots[segment_of(y_column, segments.ends, INTERLEAVED_INDEX)];
}

fn group_INDEX(workgroup: u32, local_index: u32) {
    let group = params.groups[INDEX];
    let n = n_rows(params.rows);
    var block: Block;
    if (workgroup < group.da_workgroups) {
        // Eight rows of dA, and a thread for eight of its columns.
        let column4 = 2u * (workgroup % group.da_across * WORKGROUP + local_index);
        let row8 = workgroup / group.da_across;
        if (column4 >= group.x_stride4 || row8 % (params.rank4 / 2u) >= params.trained8) {
            return;
        }
        let row4 = 2u * row8;
        var a_at = group.xa_at4 + row4;
        var b_at = column4;
        for (var t = 0u; t < n; t += 1u) {
            let b = xINDEX[b_at];
            let c = xINDEX[b_at + 1u];
            add_outer(&block, dxa[a_at], dxa[a_at + 1u], b, c, b, c);
            a_at += group.xa_stride4;
            b_at += group.x_stride4;
        }
        add_to_grads(block, group.da_at4 + row4 * 4u * group.x_stride4 + column4, group.x_stride4, group.scale);
        return;
    }
    // Eight columns of dB, and a thread for eight of its rows, which are columns of y.
    let at = workgroup - group.da_workgroups;
    let y_column4 = 2u * (at % group.db_across * WORKGROUP + local_index);
    let column4 = 2u * (at / group.db_across);
    if (y_column4 >= group.dy_stride4 || column4 >= 2u * params.trained8) {
        return;
    }
    let slot_lo = slot_of_INDEX(4u * y_column4);
    let slot_hi = slot_of_INDEX(4u * y_column4 + 4u);
    if (slot_lo == NO_SLOT && slot_hi == NO_SLOT) {
        return;
    }
    var a_at = y_column4;
    var lo_at = group.xa_at4 + column4 + select(slot_lo, 0u, slot_lo == NO_SLOT);
    var hi_at = group.xa_at4 + column4 + select(slot_hi, 0u, slot_hi == NO_SLOT);
    let keep_lo = f32(slot_lo != NO_SLOT);
    let keep_hi = f32(slot_hi != NO_SLOT);
    for (var t = 0u; t < n; t += 1u) {
        add_outer(&block, keep_lo * dyINDEX[a_at], keep_hi * dyINDEX[a_at + 1u],
            xa[lo_at], xa[lo_at + 1u], xa[hi_at], xa[hi_at + 1u]);
        a_at += group.dy_stride4;
        lo_at += group.xa_stride4;
        hi_at += group.xa_stride4;
    }
    add_to_grads(block, group.db_at4 + y_column4 * 4u * params.rank4 + column4, params.rank4, group.scale);
}
