//! Losses of preference pairs, from the cross-entropy of each target: DPO (<https://arxiv.org/abs/2305.18290>, TRL's
//! `sigmoid` loss) and ORPO (<https://arxiv.org/abs/2403.07691>, TRL's `ORPOTrainer`).
//!
//! Both depend on a target through its cross-entropy alone, so their gradient on a row of the head's input is that of the
//! cross-entropy times a number: one walk over the vocabulary is enough, and the numbers come after it.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// The least tokens that a pair can have: one given and one learned in each answer.
const MIN_TOKENS: usize = 4;

/// How preferences are learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Which loss.
    pub loss: PreferenceLoss,
    /// TRL's `beta`: in DPO how much a change of likelihood counts, in ORPO the weight of the odds ratio.
    pub beta: f32,
}

/// Which loss preferences are learned by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreferenceLoss {
    /// Direct preference optimisation: likelihoods against those of a reference.
    Dpo,
    /// Odds-ratio preference optimisation: no reference, and the chosen answers are learned as well.
    Orpo,
}

/// Where the targets of a pair lie in a pass, and what its loss needs besides; `struct Pair` of
/// `shaders/shared/preference.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub struct PairRows {
    /// First target of the chosen one's prompt, where that is learned.
    pub start: u32,
    /// First target of the chosen answer.
    pub completion: u32,
    /// First target of the rejected answer.
    pub rejected: u32,
    /// One past its last.
    pub end: u32,
    /// Summed log-probabilities of the chosen and the rejected answer under the reference.
    pub reference: [f32; 2],
    /// Pairs of the step over its targets from `start` to `rejected`.
    pub nll_weight: f32,
    _pad: u32,
}

impl PairRows {
    /// A pair with targets from `start` on: how many of the chosen one's prompt and of each answer.
    pub fn new(start: usize, prompt: usize, chosen: usize, rejected: usize) -> Self {
        let [start, completion, rejected, end] =
            [start, start + prompt, start + prompt + chosen, start + prompt + chosen + rejected].map(|at| at as u32);
        Self { start, completion, rejected, end, ..Default::default() }
    }

    /// The most pairs that so many tokens can be.
    fn capacity(max_tokens: usize) -> usize {
        max_tokens / MIN_TOKENS
    }

    /// Bytes for the pairs of passes of up to `max_tokens` tokens.
    pub fn size_bytes(max_tokens: usize) -> u64 {
        (16 + Self::capacity(max_tokens) * size_of::<Self>()) as u64
    }

    /// What the kernel reads of a pass's pairs.
    pub fn bytes(pairs: &[Self]) -> Vec<u8> {
        [bytemuck::bytes_of(&[pairs.len() as u32, 0, 0, 0]), bytemuck::cast_slice(pairs)].concat()
    }
}

/// `struct Params` of `shaders/shared/preference.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct PreferenceParams {
    rows: Rows,
    beta: f32,
    stride4: u32,
    _pad: [u32; 2],
}

/// From the cross-entropies `losses` of all targets, `rows`, and `pairs` (a buffer of [`PairRows::bytes`]), writes
/// `metrics[0] += step.loss_scale · Σ loss`, `metrics[4 ..] += step.loss_scale · Σ` of the rewards of the chosen and of
/// the rejected answers, of 1 where the former is larger, and of `ln sigmoid(z)`; and turns `d`, the gradient of the sum of
/// the cross-entropies on each target's row, into that of the sum of the losses. `step.loss_scale` is 1 / pairs of the
/// step.
pub fn preference(
    rec: &mut Recording,
    label: &str,
    preference: Preference,
    pairs: Slice,
    losses: Slice,
    metrics: Slice,
    rows: Rows,
    d: Matrix,
) {
    let shared = include_str!("../../shaders/shared/preference.wgsl");
    let orpo = [("ORPO", u32::from(preference.loss == PreferenceLoss::Orpo))];
    let stride4 = d.stride() as u32 / 4;
    let params = PreferenceParams { rows, beta: preference.beta, stride4, _pad: [0; 2] };
    let capacity = (pairs.size_bytes() - 16) / size_of::<PairRows>() as u64;
    let weights = rec.floats("weights", rec.capacity(rows) as u64);
    let outcomes = rec.floats("outcomes", 4 * capacity);
    let one = Extent::Fixed(1);

    let math = include_str!("../../shaders/shared/math.wgsl");
    let pairwise = include_str!("../../shaders/shared/pairwise.wgsl");
    let sources = [shared, math, pairwise, include_str!("../../shaders/preference.wgsl")];
    let grid = [Extent::cover(capacity as u32, 64), one, one];
    let bindings = [pairs, losses, weights, outcomes];
    rec.dispatch(label, &Shader::new("preference", &orpo, &sources), &bindings, &params, grid, (rows, 2));

    let total = Shader::new("preference_total", &[], &[shared, include_str!("../../shaders/preference_total.wgsl")]);
    rec.dispatch(label, &total, &[pairs, outcomes, metrics], &params, [one; 3], (rows, 0));

    let sources = [shared, include_str!("../../shaders/preference_gradient.wgsl")];
    let gradient = Shader::new("preference_gradient", &[], &sources);
    let grid = [Extent::cover(stride4, 64), Extent::Rows { rows, per: 1 }, one];
    rec.dispatch(label, &gradient, &[weights, d.slice], &params, grid, (rows, d.width as u64));
}

/// `(weights, outcomes)` in f64: of each target, and of each pair its loss, rewards and `ln sigmoid(z)`.
#[cfg(test)]
pub(crate) fn preference_reference(
    preference: Preference,
    pairs: &[PairRows],
    losses: &[f64],
) -> (Vec<f64>, Vec<[f64; 4]>) {
    let beta = f64::from(preference.beta);
    let mut weights = vec![0.0; losses.len()];
    let mut outcomes = vec![];
    for pair in pairs {
        let [start, completion, rejected, end] =
            [pair.start, pair.completion, pair.rejected, pair.end].map(|at| at as usize);
        let sum = |range: std::ops::Range<usize>| -losses[range].iter().sum::<f64>();
        let [c, r] = [sum(completion..rejected), sum(rejected..end)];
        let nll_weight = f64::from(pair.nll_weight);
        let (factor, z, rewards, slopes, nll) = match preference.loss {
            PreferenceLoss::Dpo => {
                let rewards = [c - f64::from(pair.reference[0]), r - f64::from(pair.reference[1])].map(|v| beta * v);
                (1.0, rewards[0] - rewards[1], rewards, [beta; 2], 0.0)
            }
            PreferenceLoss::Orpo => {
                let n = [rejected - completion, end - rejected].map(|n| n as f64);
                let means = [c / n[0], r / n[1]];
                let [of_c, of_r] = means.map(|a| a - (-a.exp_m1()).ln());
                let slopes = [0, 1].map(|i| -1.0 / (means[i].exp_m1() * n[i]));
                (beta, of_c - of_r, means.map(|a| beta * a), slopes, -nll_weight * sum(start..rejected))
            }
        };
        let softplus = (-z).max(0.0) + (-z.abs()).exp().ln_1p();
        let pull = factor / (1.0 + z.exp());
        weights[start..completion].fill(nll_weight);
        weights[completion..rejected].fill(nll_weight + pull * slopes[0]);
        weights[rejected..end].fill(-pull * slopes[1]);
        outcomes.push([nll + factor * softplus, rewards[0], rewards[1], -softplus]);
    }
    (weights, outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    const WIDTH: usize = 21;

    /// Pairs of `lengths` (targets of the chosen prompt and of each answer), and the cross-entropies of all targets, up to
    /// `largest` each.
    fn pairs(loss: PreferenceLoss, lengths: &[[usize; 3]], largest: f32) -> (Vec<PairRows>, Vec<f32>) {
        let mut at = 0;
        let mut pairs = vec![];
        for (i, &[prompt, chosen, rejected]) in lengths.iter().enumerate() {
            let prompt = if loss == PreferenceLoss::Orpo { prompt } else { 0 };
            let pair = PairRows::new(at, prompt, chosen, rejected);
            at = pair.end as usize;
            let near = |n: usize, seed: usize| -(n as f32) * largest / 2.0 + 2.0 * random(1, seed as u64)[0];
            let reference = [near(chosen, 2 * i), near(rejected, 2 * i + 1)];
            let nll_weight = if loss == PreferenceLoss::Orpo { 0.3 } else { 0.0 };
            pairs.push(PairRows { reference, nll_weight, ..pair });
        }
        let losses = random(at, 7).iter().map(|v| (0.5 + 0.5 * v) * largest).collect();
        (pairs, losses)
    }

    fn case(loss: PreferenceLoss, beta: f32, lengths: &[[usize; 3]], largest: f32) -> Case {
        let preference = Preference { loss, beta };
        let (pairs, losses) = pairs(loss, lengths, largest);
        let n = losses.len();
        let step = Step { n_targets: n as u32, loss_scale: 1.0 / 9.0, ..Default::default() };
        let name = format!("{loss:?} {beta}, {} pairs, {n} targets up to {largest}", pairs.len());
        let mut case = Case::new(name, step);
        let (weights, outcomes) = preference_reference(preference, &pairs, &f64s(&losses));
        let rows = Rows::targets(0, n.next_multiple_of(16) as u32);

        // Room for more pairs, and losses of targets that this pass has not.
        let bytes = PairRows::bytes(&[&pairs[..], &[PairRows::new(0, 1, 1, 1); 70]].concat());
        let bytes = [&PairRows::bytes(&pairs)[..16], &bytes[16..]].concat();
        let pairs_at = case.buffer(&bytes);
        let losses_at = case.buffer(&losses.iter().copied().chain([f32::NAN; 9]).collect::<Vec<f32>>());
        let before = [0.5f32, 7.0, 7.0, 7.0, 0.25, 0.25, 0.25, 0.25];
        let metrics_at = case.buffer(&before);
        let d = random_matrix(n, WIDTH, 3);
        let d_at = case.buffer(&d);
        case.record(move |rec, b| {
            let d = Matrix { slice: b[d_at], width: WIDTH };
            super::preference(rec, "loss", preference, b[pairs_at], b[losses_at], b[metrics_at], rows, d);
        });

        let scale = f64::from(step.loss_scale);
        let sum = |of: fn(&[f64; 4]) -> f64| scale * outcomes.iter().map(of).sum::<f64>();
        let right = sum(|o| f64::from(u8::from(o[1] > o[2])));
        let metrics = [0.5 + sum(|o| o[0]), 7.0, 7.0, 7.0, 0.25 + sum(|o| o[1]), 0.25 + sum(|o| o[2]), 0.25 + right];
        let metrics = metrics.into_iter().chain([0.25 + sum(|o| o[3])]).collect();
        // Sums of cross-entropies are off by a few ulps of themselves, and so is what is added up over the pairs; z and
        // with it a weight takes that over, times β in DPO.
        let eps = f64::from(f32::EPSILON);
        let longest = lengths.iter().map(|[p, c, r]| p + c.max(r)).max().unwrap() as f64;
        let off = match loss {
            PreferenceLoss::Dpo => eps * f64::from(beta) * longest * f64::from(largest),
            PreferenceLoss::Orpo => 4.0 * eps * (4.0 + f64::from(largest)),
        };
        let size: f64 = outcomes.iter().map(|o| o.iter().fold(0.0, |a: f64, v| a.max(v.abs()))).sum();
        case.expect(
            metrics_at,
            metrics,
            Tolerance { abs: eps * (1.0 + scale * size) + scale * off * outcomes.len() as f64, rel: 2.0 * eps },
        );
        let stride = super::super::stride(WIDTH);
        let expected = (0..n * stride).map(|at| f64::from(d[at]) * weights[at / stride]).collect();
        let largest_weight = weights.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
        case.expect(d_at, expected, Tolerance { abs: off * largest_weight, rel: 8.0 * eps });
        case
    }

    fn cases() -> Vec<Case> {
        use PreferenceLoss::{Dpo, Orpo};
        let many: Vec<[usize; 3]> = (0..70).map(|i| [i % 5, 1 + i % 7, 1 + i % 3]).collect();
        vec![
            case(Dpo, 0.1, &[[0, 1, 1]], 3.0),
            case(Dpo, 0.1, &[[4, 7, 3], [0, 1, 9], [2, 5, 5]], 6.0),
            case(Dpo, 2.5, &[[0, 40, 3], [9, 2, 64]], 4.0),
            case(Dpo, 0.5, &many, 2.0),
            case(Dpo, 0.1, &[[0, 1025, 800]], 9.0),
            case(Orpo, 0.1, &[[0, 1, 1]], 3.0),
            case(Orpo, 0.1, &[[4, 7, 3], [0, 1, 9], [2, 5, 5]], 6.0),
            case(Orpo, 2.5, &[[0, 40, 3], [9, 2, 64]], 4.0),
            case(Orpo, 0.5, &many, 2.0),
            // Answers that are nearly certain, and such that are out of the question.
            case(Orpo, 1.0, &many, 1e-4),
            case(Orpo, 1.0, &[[3, 5, 6]], 200.0),
            case(Orpo, 0.1, &[[300, 1025, 800]], 9.0),
        ]
    }

    kernel_test!(preference_matches, cases());

    #[test]
    fn preference_weights_are_the_derivative() {
        for loss in [PreferenceLoss::Dpo, PreferenceLoss::Orpo] {
            let preference = Preference { loss, beta: 0.7 };
            let (pairs, losses) = pairs(loss, &[[2, 3, 1], [0, 2, 4]], 3.0);
            let losses = f64s(&losses);
            let loss = |losses: &[f64]| preference_reference(preference, &pairs, losses).1.iter().map(|o| o[0]).sum();
            let (weights, _) = preference_reference(preference, &pairs, &losses);
            assert_close(&weights, &finite_differences(&losses, loss));
        }
    }
}
