// What the loss makes of preference pairs: two answers to one prompt, of which the chosen one is to become likelier than
// the rejected one. With c and r the sums of an answer's log-probabilities, softplus(x) = ln(1 + e^x):
//
// DPO:  softplus(-z),                  z = β ((c - c_ref) - (r - r_ref))
// ORPO: nll + β softplus(-z),          z = ln odds(c / n_c) - ln odds(r / n_r),  odds(a) = e^a / (1 - e^a)
//
// This part is shared by three dispatches: one for each pair, their total, the gradient.
struct Params {
    rows: Rows,
    beta: f32,
    // vec4s from one row of the gradient to the next.
    stride4: u32,
    _pad0: u32,
    _pad1: u32,
}
@group(0) @binding(1) var<uniform> params: Params;

// The targets of a pair lie together: from `start` those of the chosen one that count for its nll alone, from `completion`
// its answer, from `rejected` to `end` the other answer.
struct Pair {
    start: u32,
    completion: u32,
    rejected: u32,
    end: u32,
    // c_ref and r_ref.
    reference_chosen: f32,
    reference_rejected: f32,
    // Of each cross-entropy of the chosen one: pairs of the step over targets that count for the step's nll.
    nll_weight: f32,
    _pad: f32,
}

struct Pairs {
    n: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
    pairs: array<Pair>,
}
