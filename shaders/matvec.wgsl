// matmul.wgsl for one row of x, where the time is that of reading the weight once: a workgroup takes eight columns, and
// its threads, side by side along the rows of the weight, share out the terms of their sums. For GPUs, which need many
// threads to have enough loads on the way; programs on the CPU are faster with a thread for each eight columns.
var<workgroup> blocks: array<Block, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let col = workgroup_id.x * 8u;
    var block: Block;
    for (var k8 = thread; k8 < params.k8; k8 += WORKGROUP) {
        let w = weights(col, k8);
        add_products(&block, x_rows(0u, 2u * k8), w.lo_left, w.lo_right);
        add_products(&block, x_rows(0u, 2u * k8 + 1u), w.hi_left, w.hi_right);
    }
    for (var k4 = thread; k4 * 4u < params.tail_rank; k4 += WORKGROUP) {
        add_tail(&block, 0u, col, k4, tail_weights(col, k4), tail_weights(col + 4u, k4));
    }
    blocks[thread] = block;
    for (var half = WORKGROUP / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if (thread < half) {
            blocks[thread].lo += blocks[thread + half].lo;
            blocks[thread].hi += blocks[thread + half].hi;
        }
    }
    if (thread == 0u) {
        store_block(blocks[0], 0u, params.first + col, params.first + params.n);
    }
}
