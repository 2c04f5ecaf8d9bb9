//! LoRA's dropout: on the input of the low-rank branch and nowhere else, in training, as peft's `lora_dropout`.
//!
//! With `x̃ = kept ⊙ x`: `xa = x̃ Aᵀ` ([`lora_project`]); `dA = s dxaᵀ x̃` reads [`dropped`]; and what comes back to `x`
//! through the branch is `kept ⊙ s dxa A` ([`dropped_gradient`]). No mask is kept: each of the three computes it.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use super::segments::Segments;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Dropout on one matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that a number becomes 0; the others are multiplied by 1 / (1 - p).
    pub p: f64,
    /// Which matrix it is: others are dropped from independently.
    pub stream: u32,
}

/// `struct Dropout` of `shaders/shared/dropout.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct DropoutParams {
    stream: u32,
    threshold: u32,
    keep: f32,
    _pad: u32,
}

impl Dropout {
    fn params(self) -> DropoutParams {
        // The streams of neighbours lie far apart (2^32 over the golden ratio).
        let stream = (self.stream + 1).wrapping_mul(0x9e37_79b9);
        let threshold = (self.p * 2f64.powi(32)) as u32;
        DropoutParams { stream, threshold, keep: (1.0 / (1.0 - self.p)) as f32, _pad: 0 }
    }
}

const SHARED: [&str; 2] =
    [include_str!("../../shaders/shared/random.wgsl"), include_str!("../../shaders/shared/dropout.wgsl")];

/// `struct Params` of `shaders/dropout.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ElementwiseParams {
    rows: Rows,
    stride4: u32,
    y_stride4: u32,
    y_step: u32,
    scaled: u32,
    scale: f32,
    _pad: [u32; 3],
    dropout: DropoutParams,
}

/// `y = kept ⊙ x`, both `[n_tokens, width]`.
pub fn dropped(rec: &mut Recording, label: &str, dropout: Dropout, x: Matrix, y: Matrix) {
    elementwise(rec, label, dropout, Part::Kept, x, None, y, 1);
}

/// `y = x - kept ⊙ x`, both `[n_tokens, width]`: what dropout takes away, with what it makes larger counted against it.
pub fn taken_away(rec: &mut Recording, label: &str, dropout: Dropout, x: Matrix, y: Matrix) {
    elementwise(rec, label, dropout, Part::Rest, x, None, y, 1);
}

/// `y = scale · step.strength · kept ⊙ x`; with `apart`, y has twice the columns, and every other four stay as they are.
pub fn dropped_gradient(
    rec: &mut Recording,
    label: &str,
    dropout: Dropout,
    x: Matrix,
    scale: f32,
    y: Matrix,
    apart: bool,
) {
    elementwise(rec, label, dropout, Part::Kept, x, Some(scale), y, if apart { 2 } else { 1 });
}

/// Of a matrix under dropout.
#[derive(Clone, Copy)]
enum Part {
    Kept,
    Rest,
}

fn elementwise(
    rec: &mut Recording,
    label: &str,
    dropout: Dropout,
    part: Part,
    x: Matrix,
    scale: Option<f32>,
    y: Matrix,
    step: u32,
) {
    assert!(x.stride() * step as usize <= y.stride(), "{label}: columns of x and y");
    let rows = Rows::TOKENS;
    let [stride4, y_stride4] = [x, y].map(|matrix| matrix.stride() as u32 / 4);
    let params = ElementwiseParams {
        rows,
        stride4,
        y_stride4,
        y_step: step,
        scaled: scale.is_some().into(),
        scale: scale.unwrap_or(1.0),
        _pad: [0; 3],
        dropout: dropout.params(),
    };
    let constants = [("REST", part as u32)];
    let parts = [SHARED[0], SHARED[1], include_str!("../../shaders/dropout.wgsl")];
    let shader = Shader::new("dropout", &constants, &parts);
    let grid = [Extent::cover(stride4, 64), Extent::Rows { rows, per: 1 }, Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[x.slice, y.slice], &params, grid, (rows, 12 * x.width as u64));
}

/// `struct Params` of `shaders/lora_project.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ProjectParams {
    rows: Rows,
    stride4: u32,
    xa_stride4: u32,
    slot8: u32,
    _pad: u32,
    factors: [f32; 4],
    dropout: DropoutParams,
}

/// `xa = (kept ⊙ x) aᵀ`, each slot times its factor: x `[n_tokens, in]`, a `[segments.rank(), stride(in)]`, xa `[n_tokens,
/// segments.rank()]`.
pub fn lora_project(
    rec: &mut Recording,
    label: &str,
    dropout: Dropout,
    x: Matrix,
    a: Slice,
    segments: Segments,
    xa: Matrix,
) {
    assert_eq!(xa.width, segments.rank(), "{label}: columns of xa");
    let rows = Rows::TOKENS;
    let (slot8, factors) = segments.slots();
    let [stride4, xa_stride4] = [x, xa].map(|matrix| matrix.stride() as u32 / 4);
    let params = ProjectParams { rows, stride4, xa_stride4, slot8, _pad: 0, factors, dropout: dropout.params() };
    let parts = [SHARED[0], SHARED[1], include_str!("../../shaders/lora_project.wgsl")];
    let shader = Shader::new("lora_project", &[], &parts);
    let grid = [Extent::Rows { rows, per: 64 }, Extent::cover(xa.width as u32, 8), Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[x.slice, a, xa.slice], &params, grid, (rows, (2 * xa.width * x.width) as u64));
}

/// What [`Dropout`] multiplies the numbers of row `row` by in a step, `[width]`.
#[cfg(test)]
pub(crate) fn kept_reference(dropout: Dropout, step: &crate::gpu::Step, row: usize, width: usize) -> Vec<f64> {
    let DropoutParams { stream, threshold, keep, .. } = dropout.params();
    let [key0, key1] = step.random_key;
    let word = |c: usize| {
        super::random::pcg4d([key0, key1.wrapping_add(stream), step.first_row + row as u32, c as u32 / 4])[c % 4]
    };
    let kept = |c: usize| if step.dropout == 0 || word(c) >= threshold { 1.0 } else { 0.0 };
    (0..width).map(|c| kept(c) * if step.dropout == 0 { 1.0 } else { f64::from(keep) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::segments::Layout;
    use crate::kernels::stride;
    use crate::kernels::testing::*;

    fn step(n_tokens: usize, dropout: u32) -> Step {
        let n_tokens = n_tokens as u32;
        Step { n_tokens, strength: 0.75, random_key: [3, 0xfedc_ba98], first_row: 77, dropout, ..Default::default() }
    }

    fn elementwise(n_tokens: usize, width: usize, on: u32, apart: bool) -> Case {
        let step = step(n_tokens, on);
        let mut case = Case::new(format!("{n_tokens}x{width}, on: {on}, apart: {apart}"), step);
        let dropout = Dropout { p: 0.3, stream: 5 };
        let x = random_matrix(n_tokens, width, 1);
        let y_width = if apart { 2 * stride(width) } else { width };
        let before = random_matrix(n_tokens, y_width, 2);
        let (mut copy, mut gradient) = (vec![0.0; n_tokens * stride(width)], f64s(&before));
        let mut rest = copy.clone();
        for t in 0..n_tokens {
            let kept = kept_reference(dropout, &step, t, stride(width));
            for (c, kept) in kept.into_iter().enumerate() {
                let at = t * stride(width) + c;
                copy[at] = kept * f64::from(x[at]);
                rest[at] = f64::from(x[at]) - copy[at];
                let y_at = if apart { c / 4 * 8 + c % 4 } else { c };
                gradient[t * stride(y_width) + y_at] = 1.5 * 0.75 * copy[at];
            }
        }
        let (x_at, copy_at, gradient_at) = (case.buffer(&x), case.output(x.len()), case.buffer(&before));
        let rest_at = case.output(x.len());
        case.record(move |rec, b| {
            let [x, copy, rest] = [x_at, copy_at, rest_at].map(|at| Matrix { slice: b[at], width });
            dropped(rec, "copy", dropout, x, copy);
            taken_away(rec, "rest", dropout, x, rest);
            dropped_gradient(rec, "gradient", dropout, x, 1.5, Matrix { slice: b[gradient_at], width: y_width }, apart);
        });
        case.expect(copy_at, copy, Tolerance { abs: 0.0, rel: 2e-7 });
        // Up to 1/0.7 is taken from 1.
        case.expect(rest_at, rest, Tolerance { abs: 2e-7, rel: 2e-7 });
        case.expect(gradient_at, gradient[..n_tokens * stride(y_width)].to_vec(), Tolerance { abs: 0.0, rel: 5e-7 });
        case
    }

    fn project(n_tokens: usize, width: usize, n_slots: usize, on: u32) -> Case {
        let step = step(n_tokens, on);
        let mut case = Case::new(format!("{n_tokens}x{width}, {n_slots} slots, on: {on}"), step);
        let dropout = Dropout { p: 0.5, stream: 0 };
        let factors = [0.5, 1.0, 3.0];
        let segments = Segments::new(Layout::SideBySide, &[8; 3][..n_slots], &[true; 3][..n_slots], 5);
        let segments = segments.with_factors(&factors[..n_slots]);
        let columns = segments.rank();
        let (x, a) = (random_matrix(n_tokens, width, 1), random_matrix(columns, width, 2));
        let xa: Vec<f64> = (0..n_tokens * columns)
            .map(|at| {
                let (t, i) = (at / columns, at % columns);
                let kept = kept_reference(dropout, &step, t, width);
                let value = |values: &[f32], row: usize, c: usize| f64::from(values[row * stride(width) + c]);
                f64::from(factors[i / 8]) * (0..width).map(|c| kept[c] * value(&x, t, c) * value(&a, i, c)).sum::<f64>()
            })
            .collect();
        let (x_at, a_at, xa_at) = (case.buffer(&x), case.buffer(&a), case.output(n_tokens * columns));
        case.record(move |rec, b| {
            let xa = Matrix { slice: b[xa_at], width: columns };
            lora_project(rec, "project", dropout, Matrix { slice: b[x_at], width }, b[a_at], segments, xa);
        });
        case.expect(xa_at, xa, Tolerance::sum(width, 6.0));
        case
    }

    kernel_test!(
        dropout_matches,
        vec![
            elementwise(1, 1, 1, false),
            elementwise(33, 60, 1, false),
            elementwise(5, 300, 1, true),
            elementwise(5, 20, 0, false),
            project(1, 1, 1, 1),
            project(65, 60, 3, 1),
            project(20, 300, 1, 0),
        ]
    );

    /// A million numbers: as many are dropped as should be, to four standard deviations, in rows, columns, streams and
    /// steps alike; and neighbours in each of these have nothing to do with each other.
    #[test]
    fn numbers_are_dropped_independently_and_as_often_as_asked() {
        let (n_rows, width) = (512, 512);
        for p in [0.05, 0.1, 0.5] {
            let dropped_in = |stream: u32, key: [u32; 2]| -> Vec<bool> {
                let step = Step { random_key: key, dropout: 1, ..Default::default() };
                let row = |row| kept_reference(Dropout { p, stream }, &step, row, width);
                (0..n_rows).flat_map(row).map(|kept| kept == 0.0).collect()
            };
            let masks = [(0, [1, 2]), (1, [1, 2]), (0, [1, 3]), (0, [2, 2])].map(|(s, key)| dropped_in(s, key));
            let n = masks[0].len() as f64;
            let off = |count: usize, p: f64| (count as f64 - n * p).abs() / (n * p * (1.0 - p)).sqrt();
            let mask = &masks[0];
            for other in &masks {
                assert!(off(other.iter().filter(|dropped| **dropped).count(), p) < 4.0, "p {p}");
            }
            let both = |other: &dyn Fn(usize) -> bool| (0..mask.len()).filter(|&at| mask[at] && other(at)).count();
            for other in &masks[1..] {
                assert!(off(both(&|at| other[at]), p * p) < 4.0, "p {p}: another stream or step");
            }
            for distance in [1, 2, 4, width, 4 * width] {
                let next = |at: usize| mask[(at + distance) % mask.len()];
                assert!(off(both(&next), p * p) < 4.0, "p {p}: {distance} further on");
            }
        }
    }
}
