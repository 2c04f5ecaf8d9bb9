//! RMS norm of each query and key head, then the rotary embedding: transformers' `q_norm` and `k_norm` (arXiv
//! 2302.05442, section 2) followed by [`super::rope`], in one pass over the heads.

use bytemuck::{Pod, Zeroable};

use super::attention::AttentionShape;
use super::{Columns, Matrix};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup that has a row.
const ROW_WORKGROUP: u32 = 64;
const HEAD: &str = include_str!("../../shaders/shared/qk_head.wgsl");

/// `struct Params` of `shaders/shared/qk_head.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct QkNormParams {
    rows: Rows,
    n_heads: u32,
    n_kv_heads: u32,
    half: u32,
    stride: u32,
    k_first: u32,
    eps: f32,
    _pad: [u32; 2],
}

/// The norm of a layer's queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm {
    /// f32 `[2, head_dim]`: weights of queries, of keys.
    pub weight: Slice,
    /// Added to the mean square.
    pub eps: f32,
    /// Room for the heads as they were, f32 `[n_tokens, n_heads + n_kv_heads, head_dim]`.
    pub raw: Slice,
}

/// Floats of [`QkNorm::raw`] for each row.
pub fn raw_width(shape: AttentionShape) -> usize {
    (shape.n_heads + shape.n_kv_heads) * shape.head_dim
}

/// Normalises and turns `q` and `k`, columns of one matrix, in place, by the angles of `table` (`[n_positions,
/// head_dim / 2]` pairs of cosine and sine) at the positions of `tokens` (`[n_tokens]` of [`super::Token`]).
pub fn qk_norm(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    tokens: Slice,
    table: Slice,
    norm: QkNorm,
    q: Columns,
    k: Columns,
) {
    let kernel = include_str!("../../shaders/qk_norm.wgsl");
    let shader = Shader::new("qk_norm", &[], &[include_str!("../../shaders/shared/token.wgsl"), HEAD, kernel]);
    let bindings = [tokens, table, norm.weight, q.matrix.slice, norm.raw];
    dispatch(rec, label, shape, &shader, &bindings, norm, q, k, 8);
}

/// Turns the gradient on normalised heads, `q` and `k` of one matrix, into that on the heads as they were.
pub fn qk_norm_backward(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    norm: QkNorm,
    dq: Columns,
    dk: Columns,
) {
    let shader = Shader::new("qk_norm_backward", &[], &[HEAD, include_str!("../../shaders/qk_norm_backward.wgsl")]);
    let bindings = [norm.weight, norm.raw, dq.matrix.slice];
    dispatch(rec, label, shape, &shader, &bindings, norm, dq, dk, 10);
}

/// Writes what each row adds to the gradient of the norm's weights to `terms`, `[n_tokens, 2 head_dim]`, from the gradients on
/// normalised heads.
pub fn qk_norm_terms(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    norm: QkNorm,
    dq: Columns,
    dk: Columns,
    terms: Matrix,
) {
    assert_eq!(terms.width, 2 * shape.head_dim, "{label}: terms of both weights");
    let params = QkNormParams::new(label, shape, norm, dq, dk);
    let constants = [("WORKGROUP", ROW_WORKGROUP), ("HEADS", params.n_heads + params.n_kv_heads)];
    let shader = Shader::new("qk_norm_terms", &constants, &[HEAD, include_str!("../../shaders/qk_norm_terms.wgsl")]);
    let grid = [Extent::Rows { rows: params.rows, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [norm.raw, dq.matrix.slice, terms.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, (params.rows, 5 * raw_width(shape) as u64));
}

impl QkNormParams {
    fn new(label: &str, shape: AttentionShape, norm: QkNorm, q: Columns, k: Columns) -> Self {
        assert!(
            shape.head_dim.is_multiple_of(2) && (q.width, k.width) == shape.widths(),
            "{label}: widths for {shape:?}"
        );
        assert!(q.matrix.slice == k.matrix.slice && q.first == 0, "{label}: q and k lie in one matrix, q first");
        Self {
            rows: Rows::TOKENS,
            n_heads: shape.n_heads as u32,
            n_kv_heads: shape.n_kv_heads as u32,
            half: shape.head_dim as u32 / 2,
            stride: q.matrix.stride() as u32,
            k_first: k.first as u32,
            eps: norm.eps,
            _pad: [0; 2],
        }
    }
}

fn dispatch(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    shader: &Shader,
    bindings: &[Slice],
    norm: QkNorm,
    q: Columns,
    k: Columns,
    flops_per_column: usize,
) {
    let params = QkNormParams::new(label, shape, norm, q, k);
    // One thread for each head of each row.
    let heads = Extent::cover(params.n_heads + params.n_kv_heads, 8);
    let grid = [heads, Extent::Rows { rows: params.rows, per: 8 }, Extent::Fixed(1)];
    rec.dispatch(label, shader, bindings, &params, grid, (params.rows, (flops_per_column * raw_width(shape)) as u64));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::attention::tests::shape;
    use crate::kernels::rope::tests::angles;
    use crate::kernels::rope::turned;
    use crate::kernels::testing::*;
    use crate::kernels::{Token, stride};

    const EPS: f32 = 1e-6;

    /// Where the heads of a row lie.
    struct Heads {
        shape: AttentionShape,
        k_first: usize,
        width: usize,
    }

    impl Heads {
        fn new(shape: AttentionShape) -> Self {
            let (q_width, kv_width) = shape.widths();
            let k_first = stride(q_width);
            Self { shape, k_first, width: k_first + 2 * stride(kv_width) }
        }

        /// The first column of a head and its place among the weights.
        fn of(&self, head: usize) -> (usize, usize) {
            let head_dim = self.shape.head_dim;
            match head.checked_sub(self.shape.n_heads) {
                None => (head * head_dim, 0),
                Some(key) => (self.k_first + key * head_dim, head_dim),
            }
        }

        fn count(&self) -> usize {
            self.shape.n_heads + self.shape.n_kv_heads
        }

        /// All heads of all rows normalised in f64; or, given `d`, its gradient.
        fn normalised(&self, x: &[f64], weight: &[f64], d: Option<&[f64]>) -> Vec<f64> {
            let mut out = d.unwrap_or(x).to_vec();
            let head_dim = self.shape.head_dim;
            for (row, head) in (0..x.len() / self.width).flat_map(|row| (0..self.count()).map(move |h| (row, h))) {
                let (first, w) = self.of(head);
                let at = row * self.width + first;
                let (x, weight) = (&x[at..at + head_dim], &weight[w..w + head_dim]);
                let mean = |f: &dyn Fn(usize) -> f64| (0..head_dim).map(f).sum::<f64>() / head_dim as f64;
                let rstd = 1.0 / (mean(&|i| x[i] * x[i]) + f64::from(EPS)).sqrt();
                for i in 0..head_dim {
                    out[at + i] = match d {
                        None => x[i] * rstd * weight[i],
                        Some(d) => {
                            let gx = mean(&|j| d[at + j] * weight[j] * x[j]);
                            rstd * (d[at + i] * weight[i] - x[i] * rstd * rstd * gx)
                        }
                    };
                }
            }
            out
        }
    }

    fn case(n_tokens: usize, n_heads: usize, n_kv_heads: usize, head_dim: usize, backward: bool) -> Case {
        let heads = Heads::new(shape(n_heads, n_kv_heads, head_dim));
        let (shape, width, k_first) = (heads.shape, heads.width, heads.k_first);
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_tokens} tokens, {shape:?}, backward {backward}"), step);
        let tokens: Vec<Token> =
            (0..n_tokens as u32).map(|t| Token { position: (t + 3) % 5, ..Default::default() }).collect();
        let table = angles(5, head_dim / 2);
        let [x, d] = [1, 2].map(|seed| random_matrix(n_tokens, width, seed));
        let weight = random(2 * head_dim, 3);
        let rows = n_tokens * width;
        let (x64, weight64) = (&f64s(&x)[..rows], f64s(&weight));
        let raw: Vec<f32> = (0..n_tokens * heads.count())
            .flat_map(|at| {
                let start = at / heads.count() * width + heads.of(at % heads.count()).0;
                x[start..start + head_dim].to_vec()
            })
            .collect();
        let (q_width, kv_width) = shape.widths();
        let expected = if backward {
            heads.normalised(x64, &weight64, Some(&f64s(&d)[..rows]))
        } else {
            let turn = |columns, x: &[f64]| turned(&tokens, &f64s(&table), head_dim, width, columns, false, x);
            turn(k_first..k_first + kv_width, &turn(0..q_width, &heads.normalised(x64, &weight64, None)))
        };
        let (tokens_at, table_at, weight_at) = (case.buffer(&tokens), case.buffer(&table), case.buffer(&weight));
        let x_at = case.buffer(if backward { &d } else { &x });
        let raw_at = if backward { case.buffer(&raw) } else { case.output(raw.len()) };
        case.record(move |rec, b| {
            let matrix = Matrix { slice: b[x_at], width };
            let q = Columns { matrix, first: 0, width: q_width };
            let k = Columns { matrix, first: k_first, width: kv_width };
            let norm = QkNorm { weight: b[weight_at], eps: EPS, raw: b[raw_at] };
            if backward {
                qk_norm_backward(rec, "d", shape, norm, q, k);
            } else {
                qk_norm(rec, "norm", shape, b[tokens_at], b[table_at], norm, q, k);
            }
        });
        // Normalised values reach the root of their number, and so does what a gradient is made of.
        let largest = (head_dim as f64).sqrt();
        case.expect(x_at, expected, Tolerance { abs: 2e-6 * largest, rel: 2e-6 });
        case.expect(raw_at, f64s(&raw), Tolerance { abs: 0.0, rel: 0.0 });
        case
    }

    kernel_test!(
        qk_norm_matches,
        [(1, 1, 1, 2), (7, 3, 3, 10), (9, 4, 2, 32), (33, 5, 1, 256)]
            .into_iter()
            .flat_map(|(n, heads, kv_heads, dim)| [false, true].map(|back| case(n, heads, kv_heads, dim, back)))
            .collect()
    );

    /// What each row adds to the gradient of the weights, in f64.
    fn terms_reference(heads: &Heads, x: &[f64], d: &[f64]) -> Vec<f64> {
        let head_dim = heads.shape.head_dim;
        let normalised = heads.normalised(x, &vec![1.0; 2 * head_dim], None);
        let mut terms = vec![0.0; x.len() / heads.width * stride(2 * head_dim)];
        for (row, head) in (0..x.len() / heads.width).flat_map(|row| (0..heads.count()).map(move |h| (row, h))) {
            let (first, w) = heads.of(head);
            for i in 0..head_dim {
                let at = row * heads.width + first + i;
                terms[row * stride(2 * head_dim) + w + i] += d[at] * normalised[at];
            }
        }
        terms
    }

    fn terms_case(n_tokens: usize, n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Case {
        let heads = Heads::new(shape(n_heads, n_kv_heads, head_dim));
        let (shape, width, k_first) = (heads.shape, heads.width, heads.k_first);
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_tokens} tokens, {shape:?}"), step);
        let [x, d] = [1, 2].map(|seed| random(n_tokens * width, seed));
        let raw: Vec<f32> = (0..n_tokens * heads.count())
            .flat_map(|at| {
                let first = at / heads.count() * width + heads.of(at % heads.count()).0;
                x[first..first + head_dim].to_vec()
            })
            .collect();
        let expected = terms_reference(&heads, &f64s(&x), &f64s(&d));
        let [raw_at, d_at] = [&raw, &d].map(|values| case.buffer(values));
        let terms_at = case.output(expected.len());
        case.record(move |rec, b| {
            let matrix = Matrix { slice: b[d_at], width };
            let (q_width, kv_width) = shape.widths();
            let dq = Columns { matrix, first: 0, width: q_width };
            let dk = Columns { matrix, first: k_first, width: kv_width };
            let norm = QkNorm { weight: b[raw_at], eps: EPS, raw: b[raw_at] };
            let terms = Matrix { slice: b[terms_at], width: 2 * head_dim };
            qk_norm_terms(rec, "terms", shape, norm, dq, dk, terms);
        });
        // Normalised values reach the root of their number.
        case.expect(terms_at, expected, Tolerance::sum(n_heads, (head_dim as f64).sqrt()));
        case
    }

    kernel_test!(
        qk_norm_terms_match,
        [(1, 1, 1, 2), (7, 3, 3, 10), (9, 4, 2, 32), (5, 70, 7, 6), (3, 5, 1, 256)]
            .map(|(n, heads, kv_heads, dim)| terms_case(n, heads, kv_heads, dim))
            .into()
    );

    #[test]
    fn the_terms_add_up_to_the_gradient_of_the_weights() {
        let heads = Heads::new(shape(2, 1, 8));
        let [x, c] = [1, 2].map(|seed| f64s(&random(3 * heads.width, seed)));
        let weight = f64s(&random(16, 3));
        let loss = |weight: &[f64]| heads.normalised(&x, weight, None).iter().zip(&c).map(|(y, c)| y * c).sum();
        let terms = terms_reference(&heads, &x, &c);
        let sums: Vec<f64> = (0..16).map(|i| terms.iter().skip(i).step_by(16).sum()).collect();
        assert_close(&sums, &finite_differences(&weight, loss));
    }

    #[test]
    fn the_way_back_is_the_gradient() {
        let heads = Heads::new(shape(2, 1, 8));
        let [x, c] = [1, 2].map(|seed| f64s(&random(3 * heads.width, seed)));
        let weight = f64s(&random(16, 3));
        let loss = |x: &[f64]| heads.normalised(x, &weight, None).iter().zip(&c).map(|(y, c)| y * c).sum();
        assert_close(&heads.normalised(&x, &weight, Some(&c)), &finite_differences(&x, loss));
    }
}
