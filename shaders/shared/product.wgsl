// What matmul.wgsl and matmul_transposed.wgsl share: parameters, operands, and how a result is written.
// rows_8.wgsl or rows_1.wgsl says how many rows a thread computes.
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
    tail_rank: u32,
    tail_x_stride4: u32,
    tail_w_stride4: u32,
    // Times step.strength.
    tail_scale: f32,
    accumulate: u32,
    _pad0: u32,
    _pad1: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

// First row and column of a thread's blocks. Threads of a workgroup lie side by side along the columns and share their
// rows, which then load once for all; or, where there are too few columns for that (DOWN), one below the other.
fn block_at(global_id: vec3<u32>, workgroup_id: vec3<u32>) -> vec2<u32> {
    if (DOWN == 1u) {
        return vec2<u32>(global_id.x * SIDE * ROWS, workgroup_id.y * SIDE * 8u);
    }
    return vec2<u32>(workgroup_id.y * SIDE * ROWS, global_id.x * SIDE * 8u);
}

// Columns `column ..` of `row`; those from `end` on are written as zero.
fn store(row: u32, column: u32, end: u32, lo: vec4<f32>, hi: vec4<f32>) {
    let at = row * params.y_stride4 + column / 4u;
    let index = vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u);
    let kept_lo = select(vec4<f32>(0.0), lo, index < vec4<u32>(end));
    let kept_hi = select(vec4<f32>(0.0), hi, index + vec4<u32>(4u) < vec4<u32>(end));
    if (params.accumulate == 1u) {
        y[at] += kept_lo;
        y[at + 1u] += kept_hi;
    } else {
        y[at] = kept_lo;
        y[at + 1u] = kept_hi;
    }
}
