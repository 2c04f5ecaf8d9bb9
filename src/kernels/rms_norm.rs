//! Root-mean-square normalisation: `y = x · rstd · weight`, `rstd = 1 / sqrt(mean(x²) + eps)` a row
//! (arXiv 1910.07467, as transformers' `LlamaRMSNorm`).

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/rms_norm.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RmsNormParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    eps: f32,
    _pad: u32,
}

impl RmsNormParams {
    pub(super) fn new(rows: Rows, width: usize, eps: f32) -> Self {
        Self { rows, width: width as u32, stride4: super::stride(width) as u32 / 4, eps, _pad: 0 }
    }
}

/// Normalises `rows` of `x` into `y` and keeps `rstd` `[rows]` for the backward pass. `weight` is `[stride(width)]`.
pub fn rms_norm(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    weight: Slice,
    eps: f32,
    y: Matrix,
    rstd: Slice,
) {
    assert_eq!(x.width, y.width, "{label}: widths of x and y");
    let shader = Shader::new("rms_norm", &[], &[include_str!("../../shaders/rms_norm.wgsl")]);
    let params = RmsNormParams::new(rows, x.width, eps);
    // One thread a row.
    let grid = [Extent::Rows { rows, per: 64 }, Extent::Fixed(1), Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[x.slice, weight, y.slice, rstd], &params, grid, (rows, 4 * x.width as u64));
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
    use crate::kernels::testing::*;

    fn case(n_tokens: usize, width: usize) -> Case {
        let mut case =
            Case::new(format!("{n_tokens}x{width}"), Step { n_tokens: n_tokens as u32, ..Default::default() });
        let x = random_matrix(n_tokens, width, 1);
        let weight = random_matrix(1, width, 2);
        let params = RmsNormParams::new(Rows::TOKENS, width, 1e-5);
        let (y, rstd) = rms_norm_reference(&params, n_tokens, &f64s(&x), &f64s(&weight));
        let (x_at, weight_at) = (case.buffer(&x), case.buffer(&weight));
        let (y_at, rstd_at) = (case.output(x.len()), case.output(n_tokens));
        case.record(move |rec, b| {
            let matrix = |slice| Matrix { slice, width };
            rms_norm(rec, "norm", params.rows, matrix(b[x_at]), b[weight_at], params.eps, matrix(b[y_at]), b[rstd_at]);
        });
        // A sum of `width` squares below 1, then two roundings.
        let tolerance = Tolerance { abs: 0.0, rel: 1e-6 };
        case.expect(y_at, y, tolerance);
        case.expect(rstd_at, rstd, tolerance);
        case
    }

    kernel_test!(
        rms_norm_matches,
        [(1, 8), (1, 1), (63, 72), (64, 13), (65, 576), (130, 200)].map(|(n, w)| case(n, w)).into()
    );
}
