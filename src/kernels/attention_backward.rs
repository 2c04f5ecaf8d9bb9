//! Gradients of [`super::attention`] (arXiv 2205.14135, algorithm 4): with the weights recomputed,
//! `p = exp(scale · q · k - lse)`, and `ds = p · (d_out · v - delta)` where `delta = d_out · out`,
//! `dq = scale · Σ ds k` over the keys of a query, `dk = scale · Σ ds q` and `dv = Σ p d_out` over the queries of a key.
//! dq and dk are turned back through [`super::rope`] where they are written. Rows are those of the batch: keys in a cache
//! have no gradient.

use super::attention::AttentionShape;
use super::eight::Eight;
use super::{Columns, Matrix};
use crate::gpu::{Extent, Recording, Slice};

/// What both kernels are given: a forward pass and the gradient of its result.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBackward {
    /// Heads and scale.
    pub shape: AttentionShape,
    /// `[n_tokens]` of [`super::Token`].
    pub tokens: Slice,
    /// Rotated queries and keys, and values: columns of one matrix, in this order and without gaps but pads.
    pub qkv: [Columns; 3],
    /// `[n_tokens, n_heads * head_dim]`.
    pub out: Matrix,
    /// Pairs of f32, `[n_tokens, n_heads]`, as the forward pass wrote them.
    pub lse_delta: Slice,
    /// The gradient of `out`.
    pub d_out: Matrix,
    /// cos and sin, `[n_positions, head_dim / 2]`.
    pub table: Slice,
    /// Where the gradients of queries, keys and values go: as the matrix of `qkv`, pads zero.
    pub d_qkv: Matrix,
}

impl AttentionBackward {
    fn check(&self, label: &str) {
        let [q, k, v] = self.qkv;
        assert!(q.first == 0 && [k, v].iter().all(|c| c.matrix.slice == q.matrix.slice), "{label}: one matrix");
        assert!([self.out, self.d_out].iter().all(|m| m.width == q.width), "{label}: widths of out and d_out");
        assert_eq!(self.d_qkv.width, q.matrix.width, "{label}: width of the gradients");
    }
}

/// Writes dq, and the deltas that [`attention_dkv`] needs.
pub fn attention_dq(rec: &mut Recording, label: &str, a: &AttentionBackward) {
    a.check(label);
    let params = a.shape.params();
    let rows = params.rows;
    let (eight, tile) = (Eight::of(rec.variant(), rec.capacity(rows)), a.shape.query_tile(rec.variant()));
    let kernel =
        [include_str!("../../shaders/shared/turn_back.wgsl"), include_str!("../../shaders/attention_dq.wgsl")].concat();
    let accessors: [&[&str]; 3] = [&["qkv", "out", "d_out"], &["qkv"], &["d_qkv"]];
    let shader = a.shape.shader("attention_dq", &kernel, tile, eight, a.qkv, accessors);
    let grid = [Extent::Rows { rows, per: tile.1 }, Extent::Fixed(a.shape.n_kv_heads as u32), Extent::Fixed(1)];
    let qkv = a.qkv[0].matrix.slice;
    let bindings = [a.tokens, qkv, a.out.slice, a.d_out.slice, a.lse_delta, a.table, a.d_qkv.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, a.shape.work(6));
}

/// Writes dk and dv, after [`attention_dq`]. Key rows are the rows of the batch.
pub fn attention_dkv(rec: &mut Recording, label: &str, a: &AttentionBackward) {
    a.check(label);
    let params = a.shape.params();
    let rows = params.rows;
    let (eight, tile) = (Eight::of(rec.variant(), rec.capacity(rows)), a.shape.key_tile(rec.variant()));
    let kernel =
        [include_str!("../../shaders/shared/turn_back.wgsl"), include_str!("../../shaders/attention_dkv.wgsl")]
            .concat();
    // The sums of a wide head in one thread take Mesa 22.3 minutes to compile.
    let n_slices = if a.shape.head_dim > 128 && a.shape.head_dim.is_multiple_of(32) { 4 } else { 1 };
    let kernel = format!("const N_SLICES: u32 = {n_slices}u;\n{kernel}");
    let accessors: [&[&str]; 3] = [&["q", "k", "v", "d_out"], &["q", "d_out", "lse_delta"], &["d_qkv"]];
    let shader = a.shape.shader("attention_dkv", &kernel, tile, eight, a.qkv, accessors);
    let n_kv_heads = Extent::Fixed(a.shape.n_kv_heads as u32);
    let grid = [Extent::Rows { rows, per: tile.1 }, n_kv_heads, Extent::Fixed(n_slices)];
    let [q, k, v] = a.qkv.map(|columns| columns.matrix.slice);
    let bindings = [a.tokens, q, k, v, a.lse_delta, a.d_out.slice, a.table, a.d_qkv.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, a.shape.work(8));
}

/// Gradients in f64 over rows at the padded stride, from those of the forward reference.
#[cfg(test)]
struct Gradients {
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
    delta: Vec<f64>,
}

#[cfg(test)]
fn attention_backward_reference(
    shape: &AttentionShape,
    tokens: &[super::Token],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    d_out: &[f64],
) -> Gradients {
    use super::attention::{attention_reference, visible};
    let params = shape.params();
    let (out, lse) = attention_reference(&params, shape, tokens, q, k, v);
    let (q_stride, kv_stride) = (super::stride(shape.widths().0), super::stride(shape.widths().1));
    let [dq, dk, dv] = [out.len(), k.len(), v.len()].map(|n| vec![0.0; n]);
    let mut gradients = Gradients { dq, dk, dv, delta: vec![] };
    let scale = f64::from(shape.scale);
    for (t, token) in tokens.iter().enumerate() {
        for head in 0..shape.n_heads {
            let at = t * q_stride + head * shape.head_dim;
            let dot = |a: &[f64], b: &[f64], b_at: usize| -> f64 {
                (0..shape.head_dim).map(|d| a[at + d] * b[b_at + d]).sum()
            };
            let (lse, delta) = (lse[t * shape.n_heads + head], dot(d_out, &out, at));
            gradients.delta.extend([lse, delta]);
            for j in visible(&params, token) {
                let kv_at = j * kv_stride + head / (shape.n_heads / shape.n_kv_heads) * shape.head_dim;
                let p = (scale * dot(q, k, kv_at) - lse).exp();
                let ds = p * (dot(d_out, v, kv_at) - delta);
                for d in 0..shape.head_dim {
                    gradients.dq[at + d] += scale * ds * k[kv_at + d];
                    gradients.dk[kv_at + d] += scale * ds * q[at + d];
                    gradients.dv[kv_at + d] += p * d_out[at + d];
                }
            }
        }
    }
    gradients
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::attention::attention_reference;
    use crate::kernels::attention::tests::{packed, poison, shape};
    use crate::kernels::rope::tests::angles;
    use crate::kernels::rope::turned;
    use crate::kernels::testing::*;
    use crate::kernels::{Token, stride};

    fn case(shape: AttentionShape, lengths: &[u32]) -> Case {
        let tokens = packed(lengths);
        let n = tokens.len();
        let step = Step { n_tokens: n as u32, ..Default::default() };
        let mut case = Case::new(format!("{lengths:?}, {shape:?}"), step);
        let (q_width, kv_width) = shape.widths();
        let [q, d_out] = [1, 2].map(|seed| random_matrix(n, q_width, seed));
        let [k, v] = [3, 4].map(|seed| random_matrix(n, kv_width, seed));
        let [q64, k64, v64, d_out64] = [&q, &k, &v, &d_out].map(|values| f64s(values));
        let expected = attention_backward_reference(&shape, &tokens, &q64, &k64, &v64, &d_out64);
        let (out, lse) = attention_reference(&shape.params(), &shape, &tokens, &q64, &k64, &v64);
        let mut out: Vec<f32> = out.iter().map(|&v| v as f32).collect();
        out.resize(q.len(), 0.0);

        // Side by side, as the kernels take them.
        let (q_stride, kv_stride) = (stride(q_width), stride(kv_width));
        let width = q_stride + 2 * kv_stride;
        let beside = |[q, k, v]: [&[f64]; 3]| -> Vec<f64> {
            let row = |t: usize| {
                let part = |m: &[f64], stride: usize| m[t * stride..][..stride].to_vec();
                [part(q, q_stride), part(k, kv_stride), part(v, kv_stride)].concat()
            };
            (0..n).flat_map(row).collect()
        };
        let mut qkv: Vec<f32> = beside([&q64, &k64, &v64]).iter().map(|&v| v as f32).collect();
        qkv.resize(n.next_multiple_of(16) * width, f32::NAN);
        let longest = lengths.iter().max().map_or(1, |&n| n as usize);
        let table = angles(longest, (shape.head_dim / 2).max(1));
        let table64 = f64s(&table);
        let back = |x: &[f64], stride: usize, width: usize| {
            turned(&tokens, &table64, shape.head_dim, stride, 0..width, true, x)
        };
        let dq = back(&expected.dq, q_stride, q_width);
        let dk = back(&expected.dk, kv_stride, kv_width);

        let tokens_at = case.buffer(&tokens);
        let [d_out_at, out_at] = [&d_out, &out].map(|values| case.buffer(&poison(values, n, q_width)));
        let (qkv_at, table_at) = (case.buffer(&qkv), case.buffer(&table));
        let lse_at = case.buffer(&lse.iter().flat_map(|&lse| [lse as f32, f32::NAN]).collect::<Vec<_>>());
        let d_qkv_at = case.output(qkv.len());
        case.record(move |rec, b| {
            let qkv = Matrix { slice: b[qkv_at], width };
            let columns = |first, width| Columns { matrix: qkv, first, width };
            let backward = AttentionBackward {
                shape,
                tokens: b[tokens_at],
                qkv: [columns(0, q_width), columns(q_stride, kv_width), columns(q_stride + kv_stride, kv_width)],
                out: Matrix { slice: b[out_at], width: q_width },
                lse_delta: b[lse_at],
                d_out: Matrix { slice: b[d_out_at], width: q_width },
                table: b[table_at],
                d_qkv: Matrix { slice: b[d_qkv_at], width },
            };
            attention_dq(rec, "dq", &backward);
            attention_dkv(rec, "dkv", &backward);
        });

        // A weight is off by as much, relatively, as its score (a sum of head_dim products); a score's gradient also
        // by as much as d_out · v and delta are. A key adds up what the queries of its segment, of all heads of its group, think of it.
        let head = Tolerance::sum(shape.head_dim, 1.0).abs;
        let score = f64::from(shape.scale) * head;
        let gradient = head + score * (shape.head_dim as f64).sqrt();
        let queries = lengths.iter().max().map_or(1, |&n| n as usize) * shape.n_heads / shape.n_kv_heads;
        let sum = 1.0 + (queries as f64).sqrt() / 4.0;
        let tolerance = |abs: f64| Tolerance { abs: abs + 1e-6, rel: 1e-6 };
        case.expect(lse_at, expected.delta, tolerance(head));
        case.expect(d_qkv_at, beside([&dq, &dk, &expected.dv]), tolerance(gradient * sum));
        case
    }

    kernel_test!(
        attention_backward_matches,
        vec![
            case(shape(1, 1, 2), &[1]),
            case(shape(3, 3, 10), &[7, 1, 1, 20]),
            case(AttentionShape { sliding_window: Some(3), ..shape(4, 2, 12) }, &[5, 9, 30]),
            case(AttentionShape { sliding_window: Some(1), ..shape(2, 1, 16) }, &[8, 17]),
            case(AttentionShape { sliding_window: Some(40), ..shape(9, 3, 64) }, &[100, 1, 29]),
            case(shape(9, 3, 64), &[16, 47, 1, 1, 100]),
            case(shape(5, 5, 6), &[33]),
            case(shape(70, 2, 8), &[3, 6]),
            case(shape(4, 1, 128), &[33]),
            case(shape(4, 1, 256), &[3, 18]),
        ]
    );

    // Fewer, as each takes Mesa 22.3 up to nine seconds to compile.
    subgroup_test!(
        attention_backward_matches_in_subgroups,
        vec![
            case(AttentionShape { sliding_window: Some(3), ..shape(4, 2, 12) }, &[5, 9, 30]),
            case(AttentionShape { sliding_window: Some(40), ..shape(9, 3, 64) }, &[100, 1, 29]),
            case(shape(70, 2, 8), &[3, 6]),
        ]
    );

    #[test]
    fn attention_backward_is_the_gradient() {
        let shape = AttentionShape { sliding_window: Some(4), ..shape(4, 2, 4) };
        let tokens: Vec<Token> = packed(&[6, 1, 3]);
        let [q, d_out] = [1, 2].map(|seed| f64s(&random(tokens.len() * 16, seed)));
        let [k, v] = [3, 4].map(|seed| f64s(&random(tokens.len() * 8, seed)));
        let gradients = attention_backward_reference(&shape, &tokens, &q, &k, &v, &d_out);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| {
            let (out, _) = attention_reference(&shape.params(), &shape, &tokens, q, k, v);
            out.iter().zip(&d_out).map(|(out, d_out)| out * d_out).sum()
        };
        assert_close(&gradients.dq, &finite_differences(&q, |q| loss(q, &k, &v)));
        assert_close(&gradients.dk, &finite_differences(&k, |k| loss(&q, k, &v)));
        assert_close(&gradients.dv, &finite_differences(&v, |v| loss(&q, &k, v)));
    }
}
