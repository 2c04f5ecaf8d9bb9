//! Sums over rows, which are the gradients of vectors that are trained as they are: of a bias `Σ_t dy`, of a norm's weight
//! `Σ_t dy ⊙ x̂` with its normalised input x̂.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Columns of a workgroup.
const COLUMNS: u32 = 16;
/// Threads for each of them.
const LANES: u32 = 8;

/// Columns of a matrix that are the numbers of one vector, in its order: one after the other, or by turns of four with those
/// of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first column.
    pub first: usize,
    /// How many.
    pub len: usize,
    /// 1 where they follow each other, 2 where every second four are another's.
    pub step: usize,
}

impl Run {
    /// Columns `first .. first + len`.
    pub fn new(first: usize, len: usize) -> Self {
        Self { first, len, step: 1 }
    }

    /// The column of number `at`.
    pub fn place(self, at: usize) -> usize {
        self.first + at / 4 * 4 * self.step + at % 4
    }
}

/// What is added up.
#[derive(Debug, Clone, Copy)]
pub enum Terms {
    /// `dy`.
    Plain,
    /// `dy · x · rstd`, with f32 `[rows]` of [`super::rms_norm`].
    Rms {
        /// The norm's input.
        x: Matrix,
        /// Of each row.
        rstd: Slice,
    },
    /// `dy · (x - mean) · rstd`, with pairs of f32 `[rows]` of [`super::layer_norm`].
    Layer {
        /// The norm's input.
        x: Matrix,
        /// Mean and rstd of each row.
        moments: Slice,
    },
}

/// `struct Params` of `shaders/column_sum.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct ColumnSumParams {
    rows: Rows,
    stride: u32,
    first: u32,
    len: u32,
    step: u32,
}

/// Adds to `sums`, f32 `[columns of dy]`, in the columns of `run` what the `terms` of all `rows` come to. Other columns stay as
/// they are.
pub fn column_sum(rec: &mut Recording, label: &str, rows: Rows, dy: Matrix, terms: Terms, run: Run, sums: Slice) {
    let (term, slices) = match terms {
        Terms::Plain => (include_str!("../../shaders/shared/term_plain.wgsl"), vec![]),
        Terms::Rms { x, rstd } => (include_str!("../../shaders/shared/term_rms.wgsl"), vec![(x, rstd)]),
        Terms::Layer { x, moments } => (include_str!("../../shaders/shared/term_layer.wgsl"), vec![(x, moments)]),
    };
    assert!(slices.iter().all(|(x, _)| x.width == dy.width), "{label}: widths of dy and x");
    assert!(run.len > 0 && run.place(run.len - 1) < (sums.size_bytes() / 4) as usize, "{label}: {run:?}");
    let constants = [("COLUMNS", COLUMNS), ("LANES", LANES)];
    let shader = Shader::new("column_sum", &constants, &[term, include_str!("../../shaders/column_sum.wgsl")]);
    let Run { first, len, step } = run;
    let [stride, first, len, step] = [dy.stride(), first, len, step].map(|n| n as u32);
    let params = ColumnSumParams { rows, stride, first, len, step };
    let grid = [Extent::cover(len, COLUMNS), Extent::Fixed(1), Extent::Fixed(1)];
    let x = slices.into_iter().flat_map(|(x, moments)| [x.slice, moments]);
    let bindings: Vec<Slice> = [dy.slice, sums].into_iter().chain(x).collect();
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, 3 * u64::from(len)));
}

/// The same in f64 over rows `stride` apart: what is added to each number of the run, of factors x̂ where there are any.
#[cfg(test)]
pub(crate) fn column_sum_reference(run: Run, stride: usize, dy: &[f64], normalised: Option<&[f64]>) -> Vec<f64> {
    let term = |at: usize| dy[at] * normalised.map_or(1.0, |x| x[at]);
    (0..run.len).map(|i| (run.place(i)..dy.len()).step_by(stride).map(term).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::layer_norm::layer_norm_reference;
    use crate::kernels::rms_norm::{RmsNormParams, rms_norm_reference};
    use crate::kernels::stride;
    use crate::kernels::testing::*;

    const EPS: f32 = 1e-5;

    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Plain,
        Rms,
        Layer,
    }

    fn case(n: usize, width: usize, kind: Kind, run: Run, of_targets: bool) -> Case {
        let step = Step { n_tokens: n as u32, n_targets: n as u32, ..Default::default() };
        let mut case = Case::new(format!("{n}x{width}, {kind:?}, {run:?}, of targets: {of_targets}"), step);
        let s = stride(width);
        let [dy, x] = [1, 2].map(|seed| random_matrix(n, width, seed));
        let before = random(s, 3);
        let (ones, zeros) = (vec![1.0; s], vec![0.0; s]);
        let (normalised, moments) = match kind {
            Kind::Plain => (None, vec![]),
            Kind::Rms => {
                let params = RmsNormParams::new(Rows::TOKENS, width, EPS);
                let (y, rstd) = rms_norm_reference(&params, n, &f64s(&x), &ones);
                (Some(y), rstd)
            }
            Kind::Layer => {
                let (y, moments) = layer_norm_reference((n, width, EPS), &f64s(&x), &ones, &zeros);
                (Some(y), moments)
            }
        };
        let sums = column_sum_reference(run, s, &f64s(&dy[..n * s]), normalised.as_deref());
        let mut expected = f64s(&before);
        sums.iter().enumerate().for_each(|(i, sum)| expected[run.place(i)] += sum);
        let moments: Vec<f32> = moments.iter().map(|&v| v as f32).collect();
        let [dy_at, x_at, moments_at, sums_at] = [&dy, &x, &moments, &before].map(|values| case.buffer(values));
        case.record(move |rec, b| {
            let [dy, x] = [dy_at, x_at].map(|at| Matrix { slice: b[at], width });
            let terms = match kind {
                Kind::Plain => Terms::Plain,
                Kind::Rms => Terms::Rms { x, rstd: b[moments_at] },
                Kind::Layer => Terms::Layer { x, moments: b[moments_at] },
            };
            let rows = if of_targets { Rows::targets(0, n as u32) } else { Rows::TOKENS };
            column_sum(rec, "sum", rows, dy, terms, run, b[sums_at]);
        });
        // Normalised values of uniform ones stay below 3.
        case.expect(sums_at, expected, Tolerance::sum(n, 3.0));
        case
    }

    kernel_test!(
        column_sum_matches,
        vec![
            case(1, 1, Kind::Plain, Run::new(0, 1), false),
            case(33, 60, Kind::Plain, Run::new(24, 17), false),
            case(70, 96, Kind::Plain, Run { first: 4, len: 45, step: 2 }, false),
            case(7, 20, Kind::Plain, Run::new(10, 10), false),
            case(65, 72, Kind::Rms, Run::new(0, 72), false),
            case(130, 13, Kind::Rms, Run::new(0, 13), true),
            case(65, 60, Kind::Layer, Run::new(0, 60), false),
            case(9, 300, Kind::Layer, Run::new(0, 300), true),
        ]
    );

    /// Of losses `Σ c ⊙ y` with what the norms make of a weight and a bias.
    #[test]
    fn they_are_the_gradients() {
        let (n, width) = (3, 24);
        let [c, x] = [1, 2].map(|seed| f64s(&random(n * width, seed)));
        let [weight, bias] = [3, 4].map(|seed| f64s(&random(width, seed)));
        let loss = |y: &[f64]| -> f64 { y.iter().zip(&c).map(|(y, c)| y * c).sum() };
        let params = RmsNormParams::new(Rows::TOKENS, width, EPS);
        let rms = |weight: &[f64]| rms_norm_reference(&params, n, &x, weight).0;
        let layer = |weight: &[f64], bias: &[f64]| layer_norm_reference((n, width, EPS), &x, weight, bias).0;
        let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
        let all = |normalised: Option<&[f64]>| column_sum_reference(Run::new(0, width), width, &c, normalised);
        assert_close(&all(Some(&rms(&ones))), &finite_differences(&weight, |weight| loss(&rms(weight))));
        let normalised = layer(&ones, &zeros);
        assert_close(&all(Some(&normalised)), &finite_differences(&weight, |weight| loss(&layer(weight, &bias))));
        assert_close(&all(None), &finite_differences(&bias, |bias| loss(&layer(&weight, bias))));
    }
}
