//! Gradient of [`super::layer_norm`] with a frozen weight and bias, after PyTorch's `layer_norm_backward`.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/layer_norm_backward.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct LayerNormBackwardParams {
    rows: Rows,
    width: u32,
    stride4: u32,
    accumulate: u32,
    _pad: u32,
}

/// The gradient on `x`, written to or (`accumulate`) added to `dx`. `x`, `weight` `[stride(width)]` and `moments` are
/// those of the forward pass, `dy` the gradient of its result.
pub fn layer_norm_backward(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    dy: Matrix,
    x: Matrix,
    weight: Slice,
    moments: Slice,
    dx: Matrix,
    accumulate: bool,
) {
    assert!(dy.width == x.width && dx.width == x.width, "{label}: widths");
    let shader = Shader::new("layer_norm_backward", &[], &[include_str!("../../shaders/layer_norm_backward.wgsl")]);
    let (width, stride4) = (x.width as u32, x.stride() as u32 / 4);
    let params = LayerNormBackwardParams { rows, width, stride4, accumulate: accumulate.into(), _pad: 0 };
    let grid = [Extent::Rows { rows, per: 64 }, Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [dy.slice, x.slice, weight, moments, dx.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, 12 * x.width as u64));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::layer_norm::layer_norm_reference;
    use crate::kernels::stride;
    use crate::kernels::testing::*;

    const EPS: f32 = 1e-5;

    /// In f64 over rows at the padded stride, pads zero.
    fn reference(n_rows: usize, width: usize, dy: &[f64], x: &[f64], weight: &[f64], moments: &[f64]) -> Vec<f64> {
        let mut dx = vec![0.0; n_rows * stride(width)];
        for row in 0..n_rows {
            let (mean, rstd) = (moments[2 * row], moments[2 * row + 1]);
            let at = |c: usize| row * stride(width) + c;
            let (g, n) = (|c: usize| dy[at(c)] * weight[c], |c: usize| (x[at(c)] - mean) * rstd);
            let mean_of = |f: &dyn Fn(usize) -> f64| (0..width).map(f).sum::<f64>() / width as f64;
            let (mean_g, mean_gn) = (mean_of(&g), mean_of(&|c| g(c) * n(c)));
            (0..width).for_each(|c| dx[at(c)] = rstd * (g(c) - mean_g - n(c) * mean_gn));
        }
        dx
    }

    fn case(n_tokens: usize, width: usize, accumulate: bool) -> Case {
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_tokens}x{width}, accumulate {accumulate}"), step);
        let [dy, x, before] = [1, 2, 3].map(|seed| random_matrix(n_tokens, width, seed));
        let (weight, bias) = (random_matrix(1, width, 4), random_matrix(1, width, 5));
        let (_, moments) = layer_norm_reference((n_tokens, width, EPS), &f64s(&x), &f64s(&weight), &f64s(&bias));
        let moments32: Vec<f32> = moments.iter().map(|&v| v as f32).collect();
        let mut expected = reference(n_tokens, width, &f64s(&dy), &f64s(&x), &f64s(&weight), &f64s(&moments32));
        if accumulate {
            expected.iter_mut().zip(&before).for_each(|(dx, &b)| *dx += f64::from(b));
        }
        let [dy_at, x_at, weight_at, moments_at] = [&dy, &x, &weight, &moments32].map(|values| case.buffer(values));
        let dx_at = if accumulate { case.buffer(&before) } else { case.output(before.len()) };
        case.record(move |rec, b| {
            let matrix = |at: usize| Matrix { slice: b[at], width };
            let (dy, x, dx) = (matrix(dy_at), matrix(x_at), matrix(dx_at));
            layer_norm_backward(rec, "dx", Rows::TOKENS, dy, x, b[weight_at], b[moments_at], dx, accumulate);
        });
        // Three terms of magnitude up to rstd, which is large where a row has one or two numbers.
        let largest = moments.iter().fold(1.0f64, |a, b| a.max(b.abs()));
        case.expect(dx_at, expected, Tolerance { abs: 4e-6 * largest, rel: 2e-6 });
        case
    }

    kernel_test!(
        layer_norm_backward_matches,
        [(1, 8, false), (63, 60, true), (64, 13, false), (65, 768, true)].map(|(n, w, add)| case(n, w, add)).into()
    );

    #[test]
    fn it_is_the_gradient() {
        let (n, width) = (3, 16);
        let [x, c] = [1, 2].map(|seed| f64s(&random(n * width, seed)));
        let [weight, bias] = [3, 4].map(|seed| f64s(&random(width, seed)));
        let loss = |x: &[f64]| -> f64 {
            layer_norm_reference((n, width, EPS), x, &weight, &bias).0.iter().zip(&c).map(|(y, c)| y * c).sum()
        };
        let (_, moments) = layer_norm_reference((n, width, EPS), &x, &weight, &bias);
        assert_close(&reference(n, width, &c, &x, &weight, &moments), &finite_differences(&x, loss));
    }
}
