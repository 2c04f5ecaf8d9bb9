// Parameters of weight_grad and weight_grad_total.
struct Params {
    rows: Rows,
    // Rows of grad.
    p: u32,
    // Blocks of 8 along the rows of a and b.
    p_blocks: u32,
    q_blocks: u32,
    // Rows of a and b in a piece.
    piece_rows: u32,
    scale: f32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
