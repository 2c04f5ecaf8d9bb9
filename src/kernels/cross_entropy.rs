//! The loss: cross-entropy of `softmax(logits)` with one target a row, and its gradient in place of the logits
//! (PyTorch's `cross_entropy`). Works on a window of the rows that have a target, so that a vocabulary's worth of
//! logits is needed only for as many rows at a time.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Partial sums of a row, each over every `LANES`-th vec4: neighbouring threads read neighbouring memory.
const LANES: u32 = 256;

/// `struct Params` of `shaders/shared/cross_entropy.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct CrossEntropyParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    capacity: u32,
    _pad: u32,
}

impl CrossEntropyParams {
    fn new(rows: Rows, logits: Matrix) -> Self {
        // The most rows that a window can have.
        let capacity = logits.slice.size_bytes() / (logits.stride() as u64 * 4);
        Self { capacity: capacity as u32, ..Self::sized(rows, logits.width) }
    }

    fn sized(rows: Rows, width: usize) -> Self {
        Self { rows, width: width as u32, stride4: super::stride(width) as u32 / 4, capacity: 0, _pad: 0 }
    }
}

/// A shader of the family.
fn shader(name: &'static str, source: &str, label_smoothing: bool) -> Shader {
    let shared =
        [include_str!("../../shaders/shared/math.wgsl"), include_str!("../../shaders/shared/cross_entropy.wgsl")];
    let constants = [("LANES", LANES), ("LABEL_SMOOTHING", u32::from(label_smoothing))];
    Shader::new(name, &constants, &[shared[0], shared[1], source])
}

/// For each of `rows`, with `target = targets[rows.start + i]` (`array<u32>`):
/// `losses[rows.start + i] = ln Σ exp(logits[i]) - logits[i, target]`, and `logits` `[rows, vocab_size]`, the window's
/// alone, become `(softmax(logits[i]) - onehot(target)) · step.loss_scale`. `losses` are f32, as many as targets.
///
/// With `label_smoothing`, the loss is `(1 - ε)` times that plus `ε` times the mean over the vocabulary of
/// `-ln softmax(logits[i])`, with ε = `step.label_smoothing` (transformers' `LabelSmoother`), and the gradient its own.
pub fn cross_entropy(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    logits: Matrix,
    targets: Slice,
    losses: Slice,
    label_smoothing: bool,
) {
    let params = CrossEntropyParams::new(rows, logits);
    let totals = loss_only(rec, label, &params, logits, targets, losses, label_smoothing);
    let source = include_str!("../../shaders/cross_entropy_gradient.wgsl");
    let gradient = shader("cross_entropy_gradient", source, label_smoothing);
    let grid = [Extent::cover(params.stride4, 64), Extent::Rows { rows, per: 1 }, Extent::Fixed(1)];
    let flops = 20 * logits.width as u64;
    rec.dispatch(label, &gradient, &[targets, totals, logits.slice], &params, grid, (rows, flops));
}

/// The losses of [`cross_entropy`] alone, not smoothed, which leaves `logits` as they are, and
/// `hits[rows.start + i]` 1.0 where no token is likelier than the target, else 0.0. f32, as many as targets.
pub fn cross_entropy_scores(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    logits: Matrix,
    targets: Slice,
    losses: Slice,
    hits: Slice,
) {
    let params = CrossEntropyParams::new(rows, logits);
    let totals = loss_only(rec, label, &params, logits, targets, losses, false);
    let hit = shader("cross_entropy_hits", include_str!("../../shaders/cross_entropy_hits.wgsl"), false);
    let grid = [Extent::Rows { rows, per: 16 }, Extent::Fixed(1), Extent::Fixed(1)];
    rec.dispatch(label, &hit, &[logits.slice, targets, totals, hits], &params, grid, (rows, 1));
}

/// The losses; returns `(max(logits[i]), 1 / Σ exp(logits[i] - max))` of the window's rows.
fn loss_only(
    rec: &mut Recording,
    label: &str,
    params: &CrossEntropyParams,
    logits: Matrix,
    targets: Slice,
    losses: Slice,
    label_smoothing: bool,
) -> Slice {
    let rows = params.rows;
    let capacity = u64::from(params.capacity);
    let partials = rec.floats("partials", capacity * u64::from(LANES) * if label_smoothing { 4 } else { 2 });
    let totals = rec.floats("totals", capacity * 2);
    let (each, one) = (Extent::Rows { rows, per: 1 }, Extent::Fixed(1));

    let partial =
        shader("cross_entropy_partial", include_str!("../../shaders/cross_entropy_partial.wgsl"), label_smoothing);
    let grid = [Extent::cover(LANES, 64), each, one];
    rec.dispatch(label, &partial, &[logits.slice, partials], params, grid, (rows, 20 * logits.width as u64));

    let total = shader("cross_entropy_total", include_str!("../../shaders/cross_entropy_total.wgsl"), label_smoothing);
    let bindings = [logits.slice, targets, partials, losses, totals];
    let grid = [Extent::Rows { rows, per: 16 }, one, one];
    rec.dispatch(label, &total, &bindings, params, grid, (rows, 20 * u64::from(LANES)));
    totals
}

/// `(losses, dlogits)` of the window's rows in f64, smoothed by `smoothing`.
#[cfg(test)]
pub(crate) fn cross_entropy_reference(
    params: &CrossEntropyParams,
    loss_scale: f64,
    smoothing: f64,
    logits: &[f64],
    targets: &[u32],
) -> (Vec<f64>, Vec<f64>) {
    let (stride, width) = (params.stride4 as usize * 4, params.width as usize);
    let mut losses = vec![];
    let mut dlogits = vec![];
    for (row, &target) in logits.chunks(stride).zip(targets) {
        let largest = row[..width].iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row[..width].iter().map(|v| (v - largest).exp()).sum();
        let nll = |c: usize| sum.ln() + (largest - row[c]);
        let spread = smoothing / width as f64;
        losses.push((1.0 - smoothing) * nll(target as usize) + spread * (0..width).map(nll).sum::<f64>());
        let aim = |c: usize| spread + if c == target as usize { 1.0 - smoothing } else { 0.0 };
        let gradient = |c: usize| (row[c] - largest).exp() / sum - aim(c);
        dlogits.extend((0..stride).map(|c| if c < width { gradient(c) * loss_scale } else { 0.0 }));
    }
    (losses, dlogits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    /// `n_rows` logits up to `size` either way; the window begins at target `start`.
    fn case(n_rows: usize, start: usize, vocab: usize, size: f32, smoothing: Option<f32>) -> Case {
        let capacity = n_rows.next_multiple_of(16);
        let rows = Rows::targets(start as u32, capacity as u32);
        let label_smoothing = smoothing.unwrap_or(0.0);
        let n_targets = (start + n_rows) as u32;
        let step = Step { n_targets, loss_scale: 0.125, label_smoothing, ..Default::default() };
        let mut case = Case::new(format!("{n_rows} rows from {start}, {vocab}, {size}, {smoothing:?}"), step);
        let params = CrossEntropyParams::sized(rows, vocab);
        let mut logits: Vec<f32> = random_matrix(n_rows, vocab, 1).iter().map(|v| v * size).collect();
        // A first row that is sure of its target: a loss of about exp(-40) times the vocabulary.
        logits[vocab / 2] = 40.0 + size;
        logits[n_rows * super::super::stride(vocab)..].fill(f32::NAN);
        let targets: Vec<u32> =
            (0..start + n_rows).map(|i| ((i - start.min(i)) * 7919 + vocab / 2) as u32 % vocab as u32).collect();
        let [scale, label_smoothing] = [step.loss_scale, label_smoothing].map(f64::from);
        let (losses, dlogits) =
            cross_entropy_reference(&params, scale, label_smoothing, &f64s(&logits), &targets[start..]);

        let before = vec![3.0; start + n_rows];
        let [logits_at, losses_at] = [&logits, &before].map(|values| case.buffer(values));
        let targets_at = case.buffer(&targets);
        case.record(move |rec, b| {
            let logits = Matrix { slice: b[logits_at], width: vocab };
            cross_entropy(rec, "loss", rows, logits, b[targets_at], b[losses_at], smoothing.is_some());
        });
        let eps = f64::from(f32::EPSILON);
        // An exponential is an ulp off besides the half ulp of its argument, which is below 2 * size; adding up takes
        // a chain of at most vocab / LANES / 4 + LANES / 2 sums, whose errors walk at random. Both go to the
        // logarithm as they are.
        let chain = vocab as f64 / f64::from(4 * LANES) + f64::from(LANES) / 2.0;
        let relative = eps * (1.0 + f64::from(size) + 0.5 * chain.sqrt());
        let mut expected = f64s(&before);
        expected[start..].copy_from_slice(&losses);
        // Smoothed, the sum of the logits in such a chain, and their differences as they are.
        let spread = label_smoothing * eps * f64::from(size + 40.0) * (2.0 + 0.5 * chain.sqrt());
        case.expect(losses_at, expected, Tolerance { abs: relative + spread, rel: 2.0 * eps });
        // Next to the target, the probability less one.
        case.expect(logits_at, dlogits, Tolerance { abs: eps * scale, rel: 2.0 * relative });
        case
    }

    kernel_test!(
        cross_entropy_matches,
        [
            (1, 0, 1, 1.0),
            (2, 3, 7, 1.0),
            (3, 0, 8, 30.0),
            (16, 16, 1023, 5.0),
            (17, 64, 1024, 5.0),
            (5, 7, 1025, 80.0),
            (20, 0, 49152, 10.0),
            (2, 64, 262144, 10.0),
        ]
        .into_iter()
        .flat_map(|(n_rows, start, vocab, size)| {
            [None, Some(0.0), Some(0.1), Some(0.75)].map(|smoothing| case(n_rows, start, vocab, size, smoothing))
        })
        .collect()
    );

    /// Losses as the whole kernel has them; a hit where the target is as likely as any.
    fn scores_case(n_rows: usize, start: usize, vocab: usize) -> Case {
        let rows = Rows::targets(start as u32, n_rows.next_multiple_of(16) as u32);
        let step = Step { n_targets: (start + n_rows) as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_rows} rows from {start}, {vocab}"), step);
        let params = CrossEntropyParams::sized(rows, vocab);
        let stride = super::super::stride(vocab);
        let mut logits = random_matrix(n_rows, vocab, 1);
        let targets: Vec<u32> = (0..start + n_rows).map(|i| (i * 7919) as u32 % vocab as u32).collect();
        // Every other target is the likeliest, one of these together with another token.
        for row in (0..n_rows).step_by(2) {
            logits[row * stride + targets[start + row] as usize] = 2.0;
        }
        logits[(targets[start] as usize + 1) % vocab] = 2.0;
        let (losses, _) = cross_entropy_reference(&params, 1.0, 0.0, &f64s(&logits), &targets[start..]);
        let likeliest = |row: usize| {
            let row_logits = &logits[row * stride..][..vocab];
            row_logits.iter().all(|&other| other <= row_logits[targets[start + row] as usize])
        };
        let hits: Vec<f64> = (0..n_rows).map(|row| f64::from(u8::from(likeliest(row)))).collect();
        assert!(n_rows < 2 || hits.contains(&0.0));
        let losses_at = case.buffer(&vec![3.0f32; start + n_rows]);
        let [logits_at, targets_at] = [case.buffer(&logits), case.buffer(&targets)];
        let hits_at = case.buffer(&vec![7.0f32; start + n_rows]);
        case.record(move |rec, b| {
            let logits = Matrix { slice: b[logits_at], width: vocab };
            cross_entropy_scores(rec, "scores", rows, logits, b[targets_at], b[losses_at], b[hits_at]);
        });
        let expected = [vec![3.0; start], losses].concat();
        case.expect(losses_at, expected, Tolerance { abs: 1e-5, rel: 1e-6 });
        case.expect(hits_at, [vec![7.0; start], hits].concat(), Tolerance { abs: 0.0, rel: 0.0 });
        case
    }

    kernel_test!(
        cross_entropy_scores_match,
        [(1, 0, 1), (3, 5, 7), (17, 16, 1023)].map(|(n_rows, start, vocab)| scores_case(n_rows, start, vocab)).into()
    );

    #[test]
    fn cross_entropy_gradient_is_the_derivative() {
        let params = CrossEntropyParams::sized(Rows::targets(0, 2), 8);
        let logits = f64s(&random(16, 1));
        for smoothing in [0.0, 0.1] {
            let reference = |logits: &[f64]| cross_entropy_reference(&params, 0.5, smoothing, logits, &[3, 7]);
            let loss = |logits: &[f64]| reference(logits).0.iter().sum::<f64>() * 0.5;
            assert_close(&reference(&logits).1, &finite_differences(&logits, loss));
        }
    }
}
