// What changes from step to step: written by the host before each replay, read by every kernel.
// Same order as `gpu::Step`.
struct Step {
    n_tokens: u32,
    n_targets: u32,
    // Multiplies every adapter's scaling: 0 is the base model, 1 the adapter as trained.
    strength: f32,
    // 1 / supervised tokens of the whole optimiser step.
    loss_scale: f32,
    learning_rate: f32,
    // 1 - beta^t for t = 1, 2, …
    bias_correction1: f32,
    bias_correction2: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    max_grad_norm: f32,
    // For counting alone.
    keys_per_row: f32,
    // Of every B, with LoRA+.
    learning_rate_b: f32,
    label_smoothing: f32,
    neftune_noise_alpha: f32,
    // Of the random numbers of this optimiser step.
    random_key0: u32,
    random_key1: u32,
    // Rows of this optimiser step that earlier passes had.
    first_row: u32,
    // 1 where LoRA's dropout is at work.
    dropout: u32,
}
@group(0) @binding(0) var<uniform> step: Step;

// Which rows a kernel works on: all tokens, or a window of the rows that have a target.
struct Rows {
    of_targets: u32,
    start: u32,
    capacity: u32,
    _pad: u32,
}

fn n_rows(rows: Rows) -> u32 {
    if (rows.of_targets == 0u) {
        return step.n_tokens;
    }
    return min(max(step.n_targets, rows.start) - rows.start, rows.capacity);
}
