//! The next token, chosen where the logits are: the likeliest, or one drawn from the nucleus (arXiv 1904.09751) of
//! `softmax(logits / temperature)`. Random numbers are a function of seed, position and token.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of the one workgroup.
const THREADS: u32 = 256;

/// `struct Params` of `shaders/sample.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct SampleParams {
    width: u32,
    id_bits: u32,
    _pad: [u32; 2],
}

/// How a token is chosen; `struct Sampling` of `shaders/sample.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub struct Sampling {
    /// Of the random numbers, low word first.
    pub seed: [u32; 2],
    /// Position of the token to choose.
    pub position: u32,
    /// 0 takes the likeliest token; 1 samples from the model's distribution.
    pub temperature: f32,
    /// Samples from the fewest likeliest tokens whose probabilities reach this sum.
    pub top_p: f32,
    /// Of the layout.
    pub _pad: [u32; 3],
}

/// Chooses a token from `logits` `[1, vocab_size]`, the row of the step's first target: `chosen[0]` (u32). Among equal
/// logits the lowest id comes first. The likeliest is taken where it is infinite or NaN; other such logits are not
/// drawn. `sampling` holds a [`Sampling`].
pub fn sample(rec: &mut Recording, label: &str, sampling: Slice, logits: Matrix, chosen: Slice) {
    let parts = [
        include_str!("../../shaders/shared/math.wgsl"),
        include_str!("../../shaders/shared/random.wgsl"),
        include_str!("../../shaders/sample.wgsl"),
    ];
    let shader = Shader::new("sample", &[("THREADS", THREADS)], &parts);
    let width = logits.width as u32;
    let id_bits = (u32::BITS - width.leading_zeros()).next_multiple_of(2);
    let params = SampleParams { width, id_bits, _pad: [0; 2] };
    let rows = Rows::targets(0, 1);
    let grid = [Extent::Rows { rows, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
    // Some 25 rounds of 20 operations for each token.
    rec.dispatch(label, &shader, &[sampling, logits.slice, chosen], &params, grid, (rows, 500 * u64::from(width)));
}

/// The same choice in f64.
#[cfg(test)]
pub(crate) fn sample_reference(sampling: &Sampling, logits: &[f32]) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let largest = logits[order[0] as usize];
    if sampling.temperature == 0.0 || !largest.is_finite() {
        return order[0];
    }
    let exponent = |id: u32| (f64::from(logits[id as usize]) - f64::from(largest)) / f64::from(sampling.temperature);
    order.retain(|&id| logits[id as usize].is_finite());
    let goal = f64::from(sampling.top_p) * order.iter().map(|&id| exponent(id).exp()).sum::<f64>();
    let mut mass = 0.0;
    let short = order.iter().take_while(|&&id| {
        mass += exponent(id).exp();
        mass < goal
    });
    let n_kept = (short.count() + 1).min(order.len());
    let wait = |id: u32| {
        let words = super::random::pcg4d([sampling.seed[0], sampling.seed[1], sampling.position, id / 4]);
        let u = (f64::from(words[id as usize % 4]) + 0.5) / 2f64.powi(32);
        -(-u).ln_1p() * (-exponent(id)).exp()
    };
    let first = order[..n_kept].iter().min_by(|&&a, &&b| wait(a).total_cmp(&wait(b)));
    *first.expect("the likeliest is kept")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn case(name: &str, logits: &[f32], temperature: f32, top_p: f32, position: u32) -> Case {
        let sampling = Sampling { seed: [7, 1 << 20], position, temperature, top_p, ..Default::default() };
        let step = Step { n_targets: 1, ..Default::default() };
        let name = format!("{name}, {} tokens, temperature {temperature}, top_p {top_p}, at {position}", logits.len());
        let mut case = Case::new(name, step);
        // Pads are zero, and would be the likeliest of negative logits.
        let at = [case.buffer(&[sampling]), case.buffer(&pad(logits, logits.len())), case.output(4)];
        let width = logits.len();
        case.record(move |rec, b| sample(rec, "sample", b[at[0]], Matrix { slice: b[at[1]], width }, b[at[2]]));
        // An id read as the f32 of its bits: a tiny number, and no other is close enough.
        let expected = f32::from_bits(sample_reference(&sampling, logits));
        case.expect(at[2], vec![f64::from(expected)], Tolerance { abs: 0.0, rel: 0.0 });
        case
    }

    fn cases() -> Vec<Case> {
        let mut cases = vec![];
        for width in [1, 7, 311, 1025, 49152, 128256] {
            let logits: Vec<f32> = random(width, 1).iter().map(|v| 8.0 * v - 9.0).collect();
            for (position, (temperature, top_p)) in
                [(0.0, 1.0), (0.0, 0.5), (1.0, 1.0), (0.7, 0.9), (1.5, 0.3), (1.0, 0.001), (10.0, 0.999)]
                    .into_iter()
                    .enumerate()
            {
                cases.push(case("random", &logits, temperature, top_p, position as u32));
            }
            for (position, (temperature, top_p)) in
                [(0.0, 1.0), (1.0, 1.0), (1.0, 0.51), (1.0, 0.001)].into_iter().enumerate()
            {
                cases.push(case("all equal", &vec![-3.0; width], temperature, top_p, position as u32));
            }
            // Steps of equal logits: the nucleus ends within one.
            let steps: Vec<f32> = (0..width).map(|i| (i * 7919 % 5) as f32).collect();
            for position in 0..4 {
                cases.push(case("steps", &steps, 1.0, 0.85, position));
            }
        }
        let odd = |at: usize, value: f32| {
            let mut logits = random(311, 2);
            logits[at] = value;
            logits[200] = f32::NEG_INFINITY;
            logits[201] = -0.0;
            logits
        };
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN, -0.0] {
            for (temperature, top_p) in [(0.0, 1.0), (1.0, 1.0), (1.0, 0.5)] {
                cases.push(case(&format!("with {value}"), &odd(77, value), temperature, top_p, 3));
            }
        }
        cases.push(case("zeros of both signs", &[-0.0, 0.0, -0.0, 0.0, -1.0], 0.0, 1.0, 0));
        cases.push(case("no finite one", &[f32::NEG_INFINITY; 9], 1.0, 0.5, 0));
        cases
    }

    kernel_test!(sample_matches, cases());

    /// What the kernel is held against draws tokens as often as it should, over positions, seeds and tokens alike.
    #[test]
    fn draws_follow_the_distribution_and_top_p_cuts_its_tail() {
        let logits = [0.5f64, 0.3, 0.2].map(|p| p.ln() as f32);
        for (top_p, expected) in [(1.0, [0.5, 0.3, 0.2]), (0.7, [0.625, 0.375, 0.0]), (0.4, [1.0, 0.0, 0.0])] {
            for by_seed in [false, true] {
                let mut counts = [0.0f64; 3];
                for i in 0..20_000 {
                    let (seed, position) = if by_seed { ([i, 0], 9) } else { ([3, 0], i) };
                    let sampling = Sampling { seed, position, temperature: 1.0, top_p, ..Default::default() };
                    counts[sample_reference(&sampling, &logits) as usize] += 1.0 / 20_000.0;
                }
                // Three standard deviations of 20,000 draws are 0.011.
                let close = counts.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.011);
                assert!(close, "{counts:?} for {expected:?}");
            }
        }
        // Equal chances for each of many tokens: chi-squared with 999 degrees of freedom, five standard deviations.
        let mut counts = vec![0.0f64; 1000];
        for position in 0..20_000 {
            let sampling = Sampling { seed: [1, 2], position, temperature: 1.0, top_p: 1.0, ..Default::default() };
            counts[sample_reference(&sampling, &[0.0; 1000]) as usize] += 1.0;
        }
        let chi_squared: f64 = counts.iter().map(|n| (n - 20.0) * (n - 20.0) / 20.0).sum();
        assert!((chi_squared - 999.0).abs() < 5.0 * (2.0f64 * 999.0).sqrt(), "{chi_squared}");
    }
}
