//! Layer normalisation: `y = (x - mean) · rstd · weight + bias`, `rstd = 1 / sqrt(variance + eps)` a row
//! (arXiv 1607.06450, as PyTorch's `LayerNorm`).

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/layer_norm.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct LayerNormParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    eps: f32,
    _pad: u32,
}

/// Normalises `rows` of `x` into `y` and keeps (mean, rstd), pairs of f32 `[rows]`, for the backward pass. `weight` and
/// `bias` are `[stride(width)]`, pads zero.
pub fn layer_norm(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    [weight, bias]: [Slice; 2],
    eps: f32,
    y: Matrix,
    moments: Slice,
) {
    assert_eq!(x.width, y.width, "{label}: widths of x and y");
    let shader = Shader::new("layer_norm", &[], &[include_str!("../../shaders/layer_norm.wgsl")]);
    let params = LayerNormParams { rows, width: x.width as u32, stride4: x.stride() as u32 / 4, eps, _pad: 0 };
    let grid = [Extent::Rows { rows, per: 64 }, Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [x.slice, weight, bias, y.slice, moments];
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, 8 * x.width as u64));
}

/// The same in f64 over rows at the padded stride: `(y, (mean, rstd) of each row)`.
#[cfg(test)]
pub(crate) fn layer_norm_reference(
    (n_rows, width, eps): (usize, usize, f32),
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let stride = super::stride(width);
    let (mut y, mut moments) = (vec![0.0; n_rows * stride], vec![]);
    for (row, x) in x.chunks(stride).take(n_rows).enumerate() {
        let mean = x[..width].iter().sum::<f64>() / width as f64;
        let variance = x[..width].iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
        (0..width).for_each(|c| y[row * stride + c] = (x[c] - mean) * rstd * weight[c] + bias[c]);
        moments.extend([mean, rstd]);
    }
    (y, moments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn case(n_tokens: usize, width: usize) -> Case {
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_tokens}x{width}"), step);
        let [x, weight, bias] = [(n_tokens, 1), (1, 2), (1, 3)].map(|(rows, seed)| random_matrix(rows, width, seed));
        // Far from zero, where a variance from sums of squares would lose digits.
        let x: Vec<f32> = x.iter().map(|&v| if v == 0.0 { 0.0 } else { v + 10.0 }).collect();
        let eps = 1e-5;
        let (y, moments) = layer_norm_reference((n_tokens, width, eps), &f64s(&x), &f64s(&weight), &f64s(&bias));
        let [x_at, weight_at, bias_at] = [&x, &weight, &bias].map(|values| case.buffer(values));
        let (y_at, moments_at) = (case.output(x.len()), case.output(2 * n_tokens));
        case.record(move |rec, b| {
            let matrix = |slice| Matrix { slice, width };
            let (x, y) = (matrix(b[x_at]), matrix(b[y_at]));
            layer_norm(rec, "norm", Rows::TOKENS, x, [b[weight_at], b[bias_at]], eps, y, b[moments_at]);
        });
        // The mean of numbers about 10 is off by a few of their ulps, 1e-6 each, and rstd is 2 for uniform ones; it is
        // larger for a row of one or two numbers, whose variance may be small.
        let abs = if width > 2 { 1e-5 } else { 1e-3 };
        case.expect(y_at, y, Tolerance { abs, rel: 1e-5 });
        case.expect(moments_at, moments, Tolerance { abs, rel: 1e-5 });
        case
    }

    kernel_test!(
        layer_norm_matches,
        [(1, 8), (1, 1), (63, 60), (64, 13), (65, 768)].map(|(n, width)| case(n, width)).into()
    );
}
