// Cross-entropy of softmax(logits) with a target a row, and its gradient in place of the logits:
// loss = ln Σ_c exp(logits[c]) - logits[target],  dlogits[c] = (softmax(logits)[c] - [c = target]) · loss_scale.
//
// With LABEL_SMOOTHING, the target's distribution is not [c = target] but (1 - ε) [c = target] + ε / width.
//
// This part is shared by three dispatches: LANES partial sums a row, their total, the gradient.
struct Params {
    rows: Rows,
    // Columns, the vocabulary.
    width: u32,
    // vec4s from one row to the next.
    stride4: u32,
    // Rows that there is room for.
    capacity: u32,
    _pad: u32,
}
@group(0) @binding(1) var<uniform> params: Params;

// Which columns of vec4 number `c` are pads.
fn is_pad(c: u32) -> vec4<bool> {
    return c * 4u + vec4<u32>(0u, 1u, 2u, 3u) >= vec4<u32>(params.width);
}
