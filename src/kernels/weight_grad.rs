//! The gradient of a weight from the two sides of its product, `grad += scale · aᵀ · b`. For LoRA's
//! `y += scaling · (x · Aᵀ) · Bᵀ` these are `dA = scaling · (dy · B)ᵀ · x` and `dB = scaling · dyᵀ · (x · Aᵀ)`
//! (arXiv 2106.09685).

use bytemuck::{Pod, Zeroable};

use super::{COLUMN_PAD, Matrix};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup. Few: a narrow weight has only as many blocks as it has columns in eights.
const WORKGROUP: u32 = 32;
/// Rows are split in pieces until there are about this many threads …
const ENOUGH_THREADS: u32 = 2048;
/// … but not below this many rows, to keep sums few.
const MIN_PIECE_ROWS: u32 = 32;

/// `struct Params` of `shaders/shared/weight_grad.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct WeightGradParams {
    rows: Rows,
    p: u32,
    p_blocks: u32,
    q_blocks: u32,
    piece_rows: u32,
    scale: f32,
    _pad: [u32; 3],
}

impl WeightGradParams {
    fn new(rows: Rows, row_capacity: usize, p: usize, q: usize, scale: f32) -> Self {
        let [p_blocks, q_blocks] = [p, q].map(|width| width.div_ceil(COLUMN_PAD) as u32);
        let n_pieces = ENOUGH_THREADS.div_ceil(p_blocks * q_blocks);
        let piece_rows = (row_capacity as u32).div_ceil(n_pieces).max(MIN_PIECE_ROWS);
        Self { rows, p: p as u32, p_blocks, q_blocks, piece_rows, scale, _pad: [0; 3] }
    }
}

/// `grad[i, j] += scale · Σ a[t, i] · b[t, j]` over `rows`. `a` is `[rows, p]`, `b` `[rows, q]` and `grad`
/// `[p, stride(q)]`.
pub fn weight_grad(rec: &mut Recording, label: &str, rows: Rows, a: Matrix, b: Matrix, scale: f32, grad: Slice) {
    let grad_size_bytes = (a.width * b.stride() * 4) as u64;
    assert!(grad.size_bytes() >= grad_size_bytes, "{label}: size of the gradient");
    let row_capacity = (a.slice.size_bytes() / (a.stride() * 4) as u64) as usize;
    let params = WeightGradParams::new(rows, row_capacity, a.width, b.width, scale);
    let max_pieces = row_capacity.div_ceil(params.piece_rows as usize) as u64;
    let sums = rec.transient("sums", max_pieces * grad_size_bytes);
    let shared = include_str!("../../shaders/shared/weight_grad.wgsl");
    let shader = |name, source| Shader::new(name, &[("WORKGROUP", WORKGROUP)], &[shared, source]);
    let work = (rows, 2 * (a.width * b.width) as u64);

    // One thread a block of 8 x 8 and piece of the rows.
    let pieces = shader("weight_grad", include_str!("../../shaders/weight_grad.wgsl"));
    let each_piece = Extent::Rows { rows, per: params.piece_rows };
    let grid = [Extent::cover(params.p_blocks * params.q_blocks, WORKGROUP), each_piece, Extent::Fixed(1)];
    rec.dispatch(label, &pieces, &[a.slice, b.slice, sums], &params, grid, work);

    let total = shader("weight_grad_total", include_str!("../../shaders/weight_grad_total.wgsl"));
    let grid = [Extent::cover(grad_size_bytes as u32 / 16, WORKGROUP), Extent::Fixed(1), Extent::Fixed(1)];
    rec.dispatch(label, &total, &[sums, grad], &params, grid, (rows, 0));
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
        let (mut a, mut b) = (random_matrix(n_rows + 40, p, 1), random_matrix(n_rows + 40, q, 2));
        // Rows past the count must not matter.
        a[n_rows * super::super::stride(p)..].fill(f32::NAN);
        b[n_rows * super::super::stride(q)..].fill(f32::NAN);
        let params = WeightGradParams::new(Rows::TOKENS, n_rows, p, q, 2.5);
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
    #[test]
    fn weight_grad_is_the_derivative() {
        let params = WeightGradParams::new(Rows::TOKENS, 3, 8, 8, 1.0);
        let [dy, x, weight] = [24, 24, 64].map(|n| f64s(&random(n, n as u64)));
        let loss = |weight: &[f64]| {
            let product = |t: usize, i: usize| (0..8).map(|j| x[t * 8 + j] * weight[i * 8 + j]).sum::<f64>();
            (0..24).map(|at| dy[at] * product(at / 8, at % 8)).sum()
        };
        let ours = weight_grad_reference(&params, 3, &dy, &x, &[0.0; 64]);
        assert_close(&ours, &finite_differences(&weight, loss));
    }
}
