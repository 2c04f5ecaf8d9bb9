// What matmul.wgsl, matmul_transposed.wgsl and lora_dxa.wgsl share: parameters, operands, and where a thread's block
// lies. rows_8.wgsl or rows_1.wgsl says how many rows a thread computes, store_*.wgsl what becomes of a result.
struct Params {
    rows: Rows,
    // Rows of the weight.
    n: u32,
    // Groups of eight columns in a row of the weight.
    k8: u32,
    // Where the weight is a part of a taller one: its first row there; a multiple of 8.
    first: u32,
    x_stride4: u32,
    y_stride4: u32,
    // Of the matrix that a store_*.wgsl needs besides y.
    other_stride4: u32,
    // 1: y holds earlier terms of the sum.
    accumulate: u32,
    // 0: more terms will follow.
    finish: u32,
    tail_rank: u32,
    tail_x_stride4: u32,
    tail_w_stride4: u32,
    // Times step.strength.
    tail_scale: f32,
    segments: Segments,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

// First row and column of a thread's blocks. Threads of a workgroup lie side by side along the columns and share their
// rows, which then load once for all; or, where there are too few columns for that (DOWN), one below the other.
fn block_at(global_id: vec3<u32>, workgroup_id: vec3<u32>) -> vec2<u32> {
    if (DOWN == 1u) {
        return vec2<u32>(global_id.x * TALL * ROWS, workgroup_id.y * WIDE * 8u);
    }
    return vec2<u32>(workgroup_id.y * TALL * ROWS, global_id.x * WIDE * 8u);
}

// Columns from `end` on are pads, and zero.
fn zero_from(column: u32, end: u32, v: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(0.0), v, vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(end));
}
