//! Root-mean-square normalisation: `y = x · rstd · weight`, `rstd = 1 / sqrt(mean(x²) + eps)` a row
//! (arXiv 1910.07467, as transformers' `LlamaRMSNorm`).

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use super::eight::Eight;
use super::segments::Segments;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/rms_norm.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RmsNormParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    eps: f32,
    xa_stride4: u32,
    slot8: u32,
    _pad: [u32; 3],
    factors: [f32; 4],
}

impl RmsNormParams {
    pub(super) fn new(rows: Rows, width: usize, eps: f32) -> Self {
        Self {
            rows,
            width: width as u32,
            stride4: super::stride(width) as u32 / 4,
            eps,
            xa_stride4: 0,
            slot8: 1,
            _pad: [0; 3],
            factors: [1.0; 4],
        }
    }
}

/// What else becomes of a norm's result.
#[derive(Debug, Clone, Copy)]
pub enum After {
    /// Nothing.
    Nothing,
    /// It is multiplied by the low-rank factors of the linears that read it: `xa = y aᵀ`.
    Project {
        /// `[xa.width, stride(width)]`.
        a: Slice,
        /// `[rows, segments.rank()]`.
        xa: Matrix,
        /// Which columns are whose.
        segments: Segments,
    },
    /// It is added to a residual as wide.
    Add(Matrix),
}

/// Normalises `rows` of `x` into `y` and keeps `rstd` `[rows]` for the backward pass. `weight` is `[stride(width)]`.
/// What comes after says what else becomes of the result.
pub fn rms_norm(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    weight: Slice,
    eps: f32,
    y: Matrix,
    rstd: Slice,
    after: After,
) {
    assert_eq!(x.width, y.width, "{label}: widths of x and y");
    let mut params = RmsNormParams::new(rows, x.width, eps);
    let (after_shader, slices, columns) = match after {
        After::Nothing => (include_str!("../../shaders/shared/project_none.wgsl"), vec![], 0),
        After::Project { a, xa, segments } => {
            assert_eq!(xa.width, segments.rank(), "{label}: columns of xa");
            params.xa_stride4 = xa.stride() as u32 / 4;
            (params.slot8, params.factors) = segments.slots();
            (include_str!("../../shaders/shared/project_lora.wgsl"), vec![a, xa.slice], xa.width)
        }
        After::Add(residual) => (include_str!("../../shaders/shared/project_residual.wgsl"), vec![residual.slice], 0),
    };
    let eight = Eight::of(rec.variant(), rec.capacity(rows));
    let load_a = if columns > 0 { eight.load("a") } else { String::new() };
    let parts = [eight.shader(), include_str!("../../shaders/rms_norm.wgsl"), after_shader, &load_a];
    let shader = Shader::new("rms_norm", &[], &parts);
    // One thread a row; a row of workgroups for the norm, and one for eight columns of xa.
    let grid = [Extent::Rows { rows, per: 64 }, Extent::Fixed(1 + columns as u32 / 8), Extent::Fixed(1)];
    let bindings: Vec<Slice> = [x.slice, weight, y.slice, rstd].into_iter().chain(slices).collect();
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, ((4 + 2 * columns) * x.width) as u64));
}

/// The same in f64 over rows at the padded stride: `(y, rstd)`.
#[cfg(test)]
pub(crate) fn rms_norm_reference(
    params: &RmsNormParams,
    n_rows: usize,
    x: &[f64],
    weight: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let stride = params.stride4 as usize * 4;
    let rstd: Vec<f64> = x
        .chunks(stride)
        .take(n_rows)
        .map(|row| {
            1.0 / (row.iter().map(|v| v * v).sum::<f64>() / f64::from(params.width) + f64::from(params.eps)).sqrt()
        })
        .collect();
    let y = (0..n_rows * stride).map(|at| x[at] * rstd[at / stride] * weight[at % stride]).collect();
    (y, rstd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::segments::Layout;
    use crate::kernels::testing::*;

    fn case(n_tokens: usize, width: usize, columns: usize, add: bool) -> Case {
        let mut case = Case::new(
            format!("{n_tokens}x{width}, {columns} low-rank columns, added {add}"),
            Step { n_tokens: n_tokens as u32, ..Default::default() },
        );
        let x = random_matrix(n_tokens, width, 1);
        let weight = random_matrix(1, width, 2);
        let params = RmsNormParams::new(Rows::TOKENS, width, 1e-5);
        let (y, rstd) = rms_norm_reference(&params, n_tokens, &f64s(&x), &f64s(&weight));
        let a = random_matrix(columns.max(1), width, 3);
        let stride = crate::kernels::stride(width);
        let row = |values: &[f64], row: usize| values[row * stride..][..stride].to_vec();
        // As many slots as there are eights of columns, up to three.
        let n_slots = if columns.is_multiple_of(24) { 3 } else { 1 };
        let factors = [0.5, 1.0, 3.0];
        let segments = Segments::new(Layout::SideBySide, &[8; 3][..n_slots], &[true; 3][..n_slots], columns / n_slots);
        let segments = segments.with_factors(&factors[..n_slots]);
        let xa: Vec<f64> = (0..n_tokens * columns)
            .map(|at| {
                let factor = f64::from(factors[at % columns / (columns / n_slots)]);
                let terms = row(&y, at / columns).into_iter().zip(row(&f64s(&a), at % columns));
                factor * terms.map(|(y, a)| y * a).sum::<f64>()
            })
            .collect();
        let residual = random_matrix(n_tokens, width, 4);
        let y = y.iter().zip(f64s(&residual)).map(|(y, r)| if add { y + r } else { *y }).collect();
        let residual_at = case.buffer(&residual);
        let (x_at, weight_at, a_at) = (case.buffer(&x), case.buffer(&weight), case.buffer(&a));
        let (y_at, rstd_at) = (case.output(x.len()), case.output(n_tokens));
        let xa_at = case.output(n_tokens.next_multiple_of(16) * columns);
        case.record(move |rec, b| {
            let matrix = |slice| Matrix { slice, width };
            let after = match (add, columns) {
                (true, _) => After::Add(matrix(b[residual_at])),
                (false, 0) => After::Nothing,
                (false, width) => After::Project { a: b[a_at], xa: Matrix { slice: b[xa_at], width }, segments },
            };
            let (x, y) = (matrix(b[x_at]), matrix(b[y_at]));
            rms_norm(rec, "norm", params.rows, x, b[weight_at], params.eps, y, b[rstd_at], after);
        });
        // A sum of `width` squares below 1, then two roundings; a residual may cancel what they were relative to.
        let tolerance = Tolerance { abs: 0.0, rel: 1e-6 };
        case.expect(y_at, y, Tolerance { abs: if add { 2e-6 } else { 0.0 }, ..tolerance });
        case.expect(rstd_at, rstd, tolerance);
        // Normalised values reach 1 / the root mean square of uniform ones.
        case.expect(xa_at, xa, Tolerance::sum(width, 6.0));
        case
    }

    fn cases() -> Vec<Case> {
        [
            (1, 8, 8, false),
            (1, 1, 0, false),
            (63, 72, 24, false),
            (64, 13, 8, false),
            (65, 576, 48, false),
            (130, 200, 0, false),
            (19, 77, 0, true),
        ]
        .map(|(n, w, c, add)| case(n, w, c, add))
        .into()
    }

    kernel_test!(rms_norm_matches, cases());
    subgroup_test!(rms_norm_matches_in_subgroups, cases());
}
