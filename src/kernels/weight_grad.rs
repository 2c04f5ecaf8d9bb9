//! The gradient of a weight from the two sides of its product, `grad += scale · aᵀ · b`. For LoRA's
//! `y += scaling · (x · Aᵀ) · Bᵀ` these are `dA = scaling · (dy · B)ᵀ · x` and `dB = scaling · dyᵀ · (x · Aᵀ)`
//! (arXiv 2106.09685).

use bytemuck::{Pod, Zeroable};

use super::{COLUMN_PAD, Matrix};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup. Few: a narrow weight has only as many blocks as it has columns in eights.
const WORKGROUP: u32 = 32;

/// `struct Params` of `shaders/weight_grad.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct WeightGradParams {
    rows: Rows,
    p: u32,
    p_blocks: u32,
    q_blocks: u32,
    scale: f32,
}

impl WeightGradParams {
    fn new(rows: Rows, p: usize, q: usize, scale: f32) -> Self {
        let blocks = |width: usize| width.div_ceil(COLUMN_PAD) as u32;
        Self { rows, p: p as u32, p_blocks: blocks(p), q_blocks: blocks(q), scale }
    }
}

/// `grad[i, j] += scale · Σ a[t, i] · b[t, j]` over `rows`. `a` is `[rows, p]`, `b` `[rows, q]` and `grad`
/// `[p, stride(q)]`.
pub fn weight_grad(rec: &mut Recording, label: &str, rows: Rows, a: Matrix, b: Matrix, scale: f32, grad: Slice) {
    assert!(grad.size_bytes() >= (a.width * b.stride() * 4) as u64, "{label}: size of the gradient");
    let source = include_str!("../../shaders/weight_grad.wgsl");
    let shader = Shader::new("weight_grad", &[("WORKGROUP", WORKGROUP)], &[source]);
    let params = WeightGradParams::new(rows, a.width, b.width, scale);
    // One thread a block of 8 x 8.
    let grid = [Extent::cover(params.p_blocks * params.q_blocks, WORKGROUP), Extent::Fixed(1), Extent::Fixed(1)];
    let work = (rows, 2 * (a.width * b.width) as u64);
    rec.dispatch(label, &shader, &[a.slice, b.slice, grad], &params, grid, work);
}

/// `grad` afterwards in f64, pads included.
#[cfg(test)]
pub(crate) fn weight_grad_reference(
    params: &WeightGradParams,
    n_rows: usize,
    a: &[f64],
    b: &[f64],
    grad: &[f64],
) -> Vec<f64> {
    let [p_stride, q_stride] = [params.p_blocks, params.q_blocks].map(|blocks| blocks as usize * COLUMN_PAD);
    let mut grad = grad.to_vec();
    for t in 0..n_rows {
        for i in 0..params.p as usize {
            let scaled = f64::from(params.scale) * a[t * p_stride + i];
            for j in 0..q_stride {
                grad[i * q_stride + j] += scaled * b[t * q_stride + j];
            }
        }
    }
    grad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn case(n_rows: usize, p: usize, q: usize) -> Case {
        let step = Step { n_tokens: n_rows as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_rows} rows, {p}x{q}"), step);
        let (mut a, mut b) = (random_matrix(n_rows, p, 1), random_matrix(n_rows, q, 2));
        // Rows past the count must not matter.
        a[n_rows * super::super::stride(p)..].fill(f32::NAN);
        b[n_rows * super::super::stride(q)..].fill(f32::NAN);
        let params = WeightGradParams::new(Rows::TOKENS, p, q, 2.5);
        let grad = &random_matrix(p, q, 3)[..p * super::super::stride(q)];
        let expected = weight_grad_reference(&params, n_rows, &f64s(&a), &f64s(&b), &f64s(grad));
        let [a_at, b_at, grad_at] = [&a, &b, grad].map(|values| case.buffer(values));
        case.record(move |rec, buffers| {
            let (a, b) = (Matrix { slice: buffers[a_at], width: p }, Matrix { slice: buffers[b_at], width: q });
            weight_grad(rec, "lora_a", params.rows, a, b, params.scale, buffers[grad_at]);
        });
        case.expect(grad_at, expected, Tolerance::sum(n_rows, f64::from(params.scale)));
        case
    }

    kernel_test!(
        weight_grad_matches,
        [
            (1, 1, 1),
            (15, 4, 120),
            (16, 128, 8),
            (17, 12, 136),
            (33, 13, 9),
            (5, 16, 576),
            (64, 8, 1536),
            (512, 8, 576),
            (512, 1536, 8),
        ]
        .map(|(n_rows, p, q)| case(n_rows, p, q))
        .into()
    );

    /// The reference is the gradient of `Σ dy · (x · Wᵀ)` with respect to `W`, for `a` = dy and `b` = x.
    #[cfg(not(target_arch = "wasm32"))]
    #[test]
    fn weight_grad_is_the_derivative() {
        let params = WeightGradParams::new(Rows::TOKENS, 8, 8, 1.0);
        let [dy, x, weight] = [24, 24, 64].map(|n| f64s(&random(n, n as u64)));
        let loss = |weight: &[f64]| {
            let product = |t: usize, i: usize| (0..8).map(|j| x[t * 8 + j] * weight[i * 8 + j]).sum::<f64>();
            (0..24).map(|at| dy[at] * product(at / 8, at % 8)).sum()
        };
        let ours = weight_grad_reference(&params, 3, &dy, &x, &[0.0; 64]);
        assert_close(&ours, &finite_differences(&weight, loss));
    }
}
