// dA[i, j] += s · Σ_t dxa[t, i] x[t, j]  and  dB[j, i] += s · Σ_t dy[t, j] xa[t, i]  for the linears of one or two groups
// (a group reads one x and writes one y): all of LoRA's gradients of half a layer at once.   arXiv 2106.09685, section 4.1
//
// One thread an 8 x 8 block of a gradient, in registers, through all rows in order; f32 sums. The threads of a workgroup
// lie along the longer side, their other operand is the same for all: eight rows of it at a time (eight_*.wgsl). Pads of dxa,
// xa, x and dy are zeros, and so are those of the gradients.
struct Group {
    // Of x and dy, from one row to the next.
    x_stride4: u32,
    dy_stride4: u32,
    // Where xa and dxa start, and vec4s from one row to the next: the low-rank columns of all adapted linears.
    xa_at4: u32,
    xa_stride4: u32,
    // Where dA and dB start in the gradients.
    da_at4: u32,
    db_at4: u32,
    // Workgroups: those along a block of rows of dA, those of all of dA, those of dB.
    da_across: u32,
    da_workgroups: u32,
    db_across: u32,
    db_workgroups: u32,
    scale: f32,
    _pad: u32,
    segments: Segments,
}
struct Params {
    rows: Rows,
    // Low-rank columns of one linear, a multiple of eight, in vec4s.
    rank4: u32,
    // Blocks of eight of these that have gradients; the others stay as they are.
    trained8: u32,
    _pad0: u32,
    _pad1: u32,
    groups: array<Group, 2>,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x0: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dy0: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> x1: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> dy1: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> xa: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> dxa: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> grads: array<vec4<f32>>;

// Sums of products of eight numbers with eight others.
struct Block {
    acc: array<vec4<f32>, 16>,
}

// The first four rows of the block with b, the others with c.
fn add_outer(block: ptr<function, Block>, al: vec4<f32>, ah: vec4<f32>, bl: vec4<f32>, bh: vec4<f32>, cl: vec4<f32>, ch: vec4<f32>) {
    (*block).acc[0] += al.x * bl; (*block).acc[1] += al.x * bh;
    (*block).acc[2] += al.y * bl; (*block).acc[3] += al.y * bh;
    (*block).acc[4] += al.z * bl; (*block).acc[5] += al.z * bh;
    (*block).acc[6] += al.w * bl; (*block).acc[7] += al.w * bh;
    (*block).acc[8] += ah.x * cl; (*block).acc[9] += ah.x * ch;
    (*block).acc[10] += ah.y * cl; (*block).acc[11] += ah.y * ch;
    (*block).acc[12] += ah.z * cl; (*block).acc[13] += ah.z * ch;
    (*block).acc[14] += ah.w * cl; (*block).acc[15] += ah.w * ch;
}

// The outer products of four rows, a column each.
fn add_rows(
    block: ptr<function, Block>, al: mat4x4<f32>, ah: mat4x4<f32>, bl: mat4x4<f32>, bh: mat4x4<f32>,
    cl: mat4x4<f32>, ch: mat4x4<f32>,
) {
    add_outer(block, al[0], ah[0], bl[0], bh[0], cl[0], ch[0]);
    add_outer(block, al[1], ah[1], bl[1], bh[1], cl[1], ch[1]);
    add_outer(block, al[2], ah[2], bl[2], bh[2], cl[2], ch[2]);
    add_outer(block, al[3], ah[3], bl[3], bh[3], cl[3], ch[3]);
}

fn load_xa(at: u32, column4: u32) -> vec4<f32> {
    return xa[at + column4];
}

fn load_dxa(at: u32, column4: u32) -> vec4<f32> {
    return dxa[at + column4];
}

// Rows row .. of eight that are before `end`, and zeros.
fn before(rows: EightVec4s, row: u32, end: u32) -> EightVec4s {
    return EightVec4s(
        mat4x4<f32>(
            kept(rows.lo[0], row, end), kept(rows.lo[1], row + 1u, end),
            kept(rows.lo[2], row + 2u, end), kept(rows.lo[3], row + 3u, end),
        ),
        mat4x4<f32>(
            kept(rows.hi[0], row + 4u, end), kept(rows.hi[1], row + 5u, end),
            kept(rows.hi[2], row + 6u, end), kept(rows.hi[3], row + 7u, end),
        ),
    );
}

fn kept(v: vec4<f32>, row: u32, end: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), v, row < end);
}

fn add_row(at: u32, scale: f32, lo: vec4<f32>, hi: vec4<f32>) {
    grads[at] += scale * lo;
    grads[at + 1u] += scale * hi;
}

// Rows of the block lie `stride` vec4s apart.
fn add_to_grads(block: Block, at: u32, stride: u32, scale: f32) {
    add_row(at, scale, block.acc[0], block.acc[1]);
    add_row(at + stride, scale, block.acc[2], block.acc[3]);
    add_row(at + 2u * stride, scale, block.acc[4], block.acc[5]);
    add_row(at + 3u * stride, scale, block.acc[6], block.acc[7]);
    add_row(at + 4u * stride, scale, block.acc[8], block.acc[9]);
    add_row(at + 5u * stride, scale, block.acc[10], block.acc[11]);
    add_row(at + 6u * stride, scale, block.acc[12], block.acc[13]);
    add_row(at + 7u * stride, scale, block.acc[14], block.acc[15]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, thread: Thread) {
    let workgroups0 = params.groups[0].da_workgroups + params.groups[0].db_workgroups;
    if (workgroup_id.x < workgroups0) {
        group_0(workgroup_id.x, thread);
    } else {
        group_1(workgroup_id.x - workgroups0, thread);
    }
}
