//! NEFTune (arXiv 2310.05914): uniform noise on the embeddings of a training pass, as transformers'
//! `neftune_post_forward_hook` adds it, with random numbers that are a function of the optimiser step and the place.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/neftune.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct NeftuneParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    _pad: [u32; 2],
}

/// `y[t, c] += u · step.neftune_noise_alpha / sqrt(length · width)` with u uniform in (-1, 1), `y` `[n_tokens, width]`.
/// `length` is that of the token's own example, as if it were a batch by itself: what else the pass holds is no matter. u is
/// `(2 k + 1) / 2^23 - 1`, where k are the high 23 bits of word `c % 4` of
/// [`pcg4d`](super::random::pcg4d)`([step.random_key[0], step.random_key[1], step.first_row + t, c / 4])`.
pub fn neftune(rec: &mut Recording, label: &str, tokens: Slice, y: Matrix) {
    let parts = [
        include_str!("../../shaders/shared/token.wgsl"),
        include_str!("../../shaders/shared/random.wgsl"),
        include_str!("../../shaders/neftune.wgsl"),
    ];
    let shader = Shader::new("neftune", &[], &parts);
    let (rows, stride4) = (Rows::TOKENS, y.stride() as u32 / 4);
    let params = NeftuneParams { rows, width: y.width as u32, stride4, _pad: [0; 2] };
    let grid = [Extent::cover(stride4, 64), Extent::Rows { rows, per: 1 }, Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[tokens, y.slice], &params, grid, (rows, 20 * y.width as u64));
}

/// The noise on row `row` of an example of `length` tokens in f64, `[width]`.
#[cfg(test)]
pub(crate) fn neftune_reference(step: &crate::gpu::Step, row: usize, length: usize, width: usize) -> Vec<f64> {
    let bound = f64::from(step.neftune_noise_alpha) / ((length * width) as f64).sqrt();
    let [key0, key1] = step.random_key;
    let word = |c: usize| super::random::pcg4d([key0, key1, step.first_row + row as u32, c as u32 / 4])[c % 4];
    let uniform = |c: usize| (f64::from(word(c) >> 9) + 0.5) / 2f64.powi(22) - 1.0;
    (0..width).map(|c| bound * uniform(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;
    use crate::kernels::{Token, stride};

    fn step(n_tokens: usize) -> Step {
        let random_key = [0x1234_5678, 0xfedc_ba98];
        Step { n_tokens: n_tokens as u32, neftune_noise_alpha: 5.0, random_key, first_row: 77, ..Default::default() }
    }

    /// Examples of these lengths, end to end.
    fn case(lengths: &[usize], width: usize) -> Case {
        let n_tokens = lengths.iter().sum();
        let step = step(n_tokens);
        let mut case = Case::new(format!("{lengths:?}, {width} columns"), step);
        let mut tokens = vec![];
        let before = random_matrix(n_tokens, width, 1);
        let mut expected = f64s(&before);
        for &length in lengths {
            let start = tokens.len() as u32;
            for position in 0..length as u32 {
                let row = tokens.len();
                let noise = neftune_reference(&step, row, length, width);
                noise.iter().zip(&mut expected[row * stride(width)..]).for_each(|(noise, y)| *y += noise);
                tokens.push(Token { position, start, end: start + length as u32, ..Default::default() });
            }
        }
        let (tokens_at, y_at) = (case.buffer(&tokens), case.buffer(&before));
        case.record(move |rec, b| neftune(rec, "neftune", b[tokens_at], Matrix { slice: b[y_at], width }));
        // A sum below 2, of noise whose root and quotient may be some ulps off; all else is exact.
        let eps = f64::from(f32::EPSILON);
        let largest = 5.0 / (*lengths.iter().min().expect("an example") as f64 * width as f64).sqrt();
        case.expect(y_at, expected, Tolerance { abs: eps * (2.0 + 8.0 * largest), rel: eps });
        case
    }

    kernel_test!(
        neftune_matches,
        vec![case(&[1], 1), case(&[1, 3], 7), case(&[5, 2, 30], 72), case(&[300], 576), case(&[16], 257)]
    );

    /// What the kernel is held against is uniform: mean, variance, and no dependence of neighbours of any kind.
    #[test]
    fn the_noise_is_uniform_and_each_step_and_place_has_its_own() {
        let noise = |key: [u32; 2], row: usize| {
            let step = Step { random_key: key, neftune_noise_alpha: 1.0, ..Default::default() };
            neftune_reference(&step, row, 1, 4096).into_iter().map(|v| v * 64.0).collect::<Vec<f64>>()
        };
        let rows: Vec<Vec<f64>> = (0..16).map(|row| noise([1, 0], row)).collect();
        let all: Vec<f64> = rows.concat();
        let n = all.len() as f64;
        assert!(all.iter().all(|v| v.abs() < 1.0));
        // Five standard deviations: of a mean 1/sqrt(3 n), of a mean square sqrt(4 / 45 n).
        assert!((all.iter().sum::<f64>() / n).abs() < 5.0 / (3.0 * n).sqrt());
        assert!((all.iter().map(|v| v * v).sum::<f64>() / n - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / n).sqrt());
        // Each of 64 equal bins holds its share: chi-squared with 63 degrees of freedom.
        let mut counts = [0.0f64; 64];
        all.iter().for_each(|v| counts[((v + 1.0) * 32.0) as usize] += 1.0);
        let chi_squared: f64 = counts.iter().map(|count| (count - n / 64.0).powi(2) / (n / 64.0)).sum();
        assert!((chi_squared - 63.0).abs() < 5.0 * 126f64.sqrt(), "{chi_squared}");
        // Products of independent ones: standard deviation 1/3.
        let correlation = |a: &[f64], b: &[f64]| {
            let n = a.len().min(b.len());
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (n as f64).sqrt() * 3.0
        };
        let others =
            [noise([1, 0], 1), noise([2, 0], 0), noise([1, 1], 0), rows[0][1..].to_vec(), rows[0][4..].to_vec()];
        for other in others {
            assert!(correlation(&rows[0], &other).abs() < 5.0);
        }
    }
}
