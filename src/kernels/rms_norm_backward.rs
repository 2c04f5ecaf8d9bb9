//! Gradient of [`super::rms_norm`] with respect to its input: with `g = dy · weight`,
//! `dx = rstd · (g - x · rstd² · mean(g · x))` a row. The weight is frozen.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/rms_norm_backward.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RmsNormBackwardParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    accumulate: u32,
    _pad: u32,
}

impl RmsNormBackwardParams {
    fn new(rows: Rows, width: usize, accumulate: bool) -> Self {
        Self {
            rows,
            width: width as u32,
            stride4: super::stride(width) as u32 / 4,
            accumulate: accumulate.into(),
            _pad: 0,
        }
    }
}

/// Writes the gradient of `rows` of `x` to `dx`, or adds it to what `dx` holds if `accumulate`. `x`, `weight`
/// `[stride(width)]` and `rstd` `[rows]` are those of the forward pass, `dy` the gradient of its result.
pub fn rms_norm_backward(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    dy: Matrix,
    x: Matrix,
    weight: Slice,
    rstd: Slice,
    dx: Matrix,
    accumulate: bool,
) {
    assert!(x.width == dy.width && x.width == dx.width, "{label}: widths of dy, x and dx");
    let shader = Shader::new("rms_norm_backward", &[], &[include_str!("../../shaders/rms_norm_backward.wgsl")]);
    let params = RmsNormBackwardParams::new(rows, x.width, accumulate);
    // One thread a row.
    let grid = [Extent::Rows { rows, per: 64 }, Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [dy.slice, x.slice, weight, rstd, dx.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, 8 * x.width as u64));
}

/// The same in f64 over rows at the padded stride; `dx` is what the buffer held before.
#[cfg(test)]
pub(crate) fn rms_norm_backward_reference(
    params: &RmsNormBackwardParams,
    n_rows: usize,
    dy: &[f64],
    x: &[f64],
    weight: &[f64],
    rstd: &[f64],
    dx: &[f64],
) -> Vec<f64> {
    let stride = params.stride4 as usize * 4;
    let g: Vec<f64> = dy.iter().enumerate().map(|(at, dy)| dy * weight[at % stride]).collect();
    let along_x: Vec<f64> = (0..n_rows)
        .map(|t| {
            let row = t * stride..(t + 1) * stride;
            let sum: f64 = g[row.clone()].iter().zip(&x[row]).map(|(g, x)| g * x).sum();
            rstd[t].powi(2) * sum / f64::from(params.width)
        })
        .collect();
    (0..n_rows * stride)
        .map(|at| {
            let t = at / stride;
            let before = if params.accumulate == 1 { dx[at] } else { 0.0 };
            before + rstd[t] * (g[at] - x[at] * along_x[t])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::rms_norm::{RmsNormParams, rms_norm_reference};
    use crate::kernels::testing::*;

    fn case(n_tokens: usize, width: usize, accumulate: bool) -> Case {
        let mut case = Case::new(
            format!("{n_tokens}x{width}, accumulate: {accumulate}"),
            Step { n_tokens: n_tokens as u32, ..Default::default() },
        );
        let params = RmsNormBackwardParams::new(Rows::TOKENS, width, accumulate);
        let [dy, x, dx] = [1, 2, 3].map(|seed| random_matrix(n_tokens, width, seed));
        let weight = random_matrix(1, width, 4);
        let rstd: Vec<f32> = random(n_tokens, 5).iter().map(|v| 1.5 + v).collect();
        let [dy64, x64, weight64, rstd64, dx64] = [&dy, &x, &weight, &rstd, &dx].map(|v| f64s(v));
        let expected = rms_norm_backward_reference(&params, n_tokens, &dy64, &x64, &weight64, &rstd64, &dx64);
        let (dy_at, x_at, weight_at, rstd_at) =
            (case.buffer(&dy), case.buffer(&x), case.buffer(&weight), case.buffer(&rstd));
        let dx_at = if accumulate { case.buffer(&dx) } else { case.output(dx.len()) };
        case.record(move |rec, b| {
            let [dy, x, dx] = [dy_at, x_at, dx_at].map(|at| Matrix { slice: b[at], width });
            rms_norm_backward(rec, "norm", params.rows, dy, x, b[weight_at], b[rstd_at], dx, accumulate);
        });
        // The mean of `width` products, times at most rstd³ < 16; then a few roundings of values below 4.
        let tolerance = Tolerance { abs: 4e-6 + 16.0 * Tolerance::sum(width, 1.0).abs / width as f64, rel: 1e-6 };
        case.expect(dx_at, expected, tolerance);
        case
    }

    kernel_test!(
        rms_norm_backward_matches,
        [(1, 8), (1, 1), (63, 72), (64, 13), (65, 576), (130, 200)]
            .into_iter()
            .flat_map(|(n, w)| [false, true].map(|accumulate| case(n, w, accumulate)))
            .collect()
    );

    #[test]
    fn rms_norm_backward_is_the_gradient() {
        let (n_rows, width) = (3, 24);
        let [x, dy] = [1, 2].map(|seed| f64s(&random(n_rows * width, seed)));
        let weight = f64s(&random(width, 3));
        let forward = RmsNormParams::new(Rows::TOKENS, width, 1e-5);
        let expected = finite_differences(&x, |x| {
            let (y, _) = rms_norm_reference(&forward, n_rows, x, &weight);
            y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        });
        let (_, rstd) = rms_norm_reference(&forward, n_rows, &x, &weight);
        let params = RmsNormBackwardParams::new(Rows::TOKENS, width, false);
        assert_close(&rms_norm_backward_reference(&params, n_rows, &dy, &x, &weight, &rstd, &[]), &expected);
    }
}
