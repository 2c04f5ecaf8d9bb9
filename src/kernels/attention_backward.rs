//! Gradients of [`super::attention`] (arXiv 2205.14135, algorithm 4): with the weights recomputed,
//! `p = exp(scale · q · k - lse)`, and `ds = p · (d_out · v - delta)` where `delta = d_out · out`,
//! `dq = scale · Σ ds k` over the keys of a query, `dk = scale · Σ ds q` and `dv = Σ p d_out` over the queries of a key.
//! Rows are those of the batch: keys in a cache have no gradient.

use super::Matrix;
use super::attention::AttentionShape;
use crate::gpu::{Extent, Recording, Slice};

/// Writes `dq`, and to `delta` the pairs `(lse, delta)`, `[n_tokens, n_heads]` of two f32, that [`attention_dkv`] needs.
/// The other arguments are those of the forward pass and `d_out`, the gradient of its result.
pub fn attention_dq(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    tokens: Slice,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    out: Matrix,
    lse: Slice,
    d_out: Matrix,
    dq: Matrix,
    delta: Slice,
) {
    assert_eq!((q.width, k.width), shape.widths(), "{label}: widths of q and k for {shape:?}");
    assert!([out, d_out, dq].iter().all(|m| m.width == q.width) && v.width == k.width, "{label}: widths");
    assert!(delta.size_bytes() >= 2 * lse.size_bytes(), "{label}: delta holds a pair for each lse");
    let params = shape.params();
    let rows = params.rows;
    let blocks = shape.query_blocks();

    let kernel = include_str!("../../shaders/attention_delta.wgsl");
    let shader = shape.shader("attention_delta", kernel, blocks, &["out", "d_out"], &[]);
    // One thread for each row and head.
    let grid = [Extent::cover(shape.n_heads as u32, 8), Extent::Rows { rows, per: 8 }, Extent::Fixed(1)];
    let bindings = [tokens, out.slice, d_out.slice, lse, delta];
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, 2 * q.width as u64));

    let kernel = include_str!("../../shaders/attention_dq.wgsl");
    let shader = shape.shader("attention_dq", kernel, blocks, &["q", "k", "v", "d_out"], &["dq"]);
    // One thread for four queries of a key head.
    let grid = [Extent::Rows { rows, per: 4 * blocks }, Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [tokens, q.slice, k.slice, v.slice, delta, d_out.slice, dq.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, shape.work(6));
}

/// Writes `dk` and `dv`. `delta` is what [`attention_dq`] wrote; key rows must be the rows of the batch.
pub fn attention_dkv(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    tokens: Slice,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    delta: Slice,
    d_out: Matrix,
    dk: Matrix,
    dv: Matrix,
) {
    assert_eq!((q.width, k.width), shape.widths(), "{label}: widths of q and k for {shape:?}");
    assert!([v, dk, dv].iter().all(|m| m.width == k.width) && d_out.width == q.width, "{label}: widths");
    let params = shape.params();
    let rows = params.rows;
    let blocks = (32 / shape.n_kv_heads as u32).max(1);
    let kernel = include_str!("../../shaders/attention_dkv.wgsl");
    let shader = shape.shader("attention_dkv", kernel, blocks, &["q", "k", "v", "d_out"], &["dk", "dv"]);
    // One thread for four keys.
    let grid = [Extent::Rows { rows, per: 4 * blocks }, Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [tokens, q.slice, k.slice, v.slice, delta, d_out.slice, dk.slice, dv.slice];
    rec.dispatch(label, &shader, &bindings, &params, grid, shape.work(8));
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
    use crate::kernels::Token;
    use crate::kernels::attention::attention_reference;
    use crate::kernels::attention::tests::{packed, poison, shape};
    use crate::kernels::testing::*;

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
        let [mut out, lse] = [out, lse].map(|values| values.iter().map(|&v| v as f32).collect::<Vec<f32>>());
        out.resize(q.len(), 0.0);

        let tokens_at = case.buffer(&tokens);
        let [q_at, d_out_at, out_at] = [&q, &d_out, &out].map(|values| case.buffer(&poison(values, n, q_width)));
        let [k_at, v_at] = [&k, &v].map(|values| case.buffer(&poison(values, n, kv_width)));
        let lse_at = case.buffer(&lse);
        let (dq_at, delta_at) = (case.output(q.len()), case.output(2 * lse.len().next_multiple_of(4)));
        let [dk_at, dv_at] = [k.len(), v.len()].map(|n| case.output(n));
        case.record(move |rec, b| {
            let [q, d_out, out, dq] = [q_at, d_out_at, out_at, dq_at].map(|at| Matrix { slice: b[at], width: q_width });
            let [k, v, dk, dv] = [k_at, v_at, dk_at, dv_at].map(|at| Matrix { slice: b[at], width: kv_width });
            let (tokens, lse, delta) = (b[tokens_at], b[lse_at], b[delta_at]);
            attention_dq(rec, "dq", shape, tokens, q, k, v, out, lse, d_out, dq, delta);
            attention_dkv(rec, "dkv", shape, tokens, q, k, v, delta, d_out, dk, dv);
        });

        // A weight is off by as much, relatively, as its score (a sum of head_dim products); a score's gradient also
        // by as much as d_out · v and delta are. Weights of a query add up to one, its score gradients to a few:
        // dq is an average. A key adds up what the queries of its segment, of all heads of its group, think of it.
        let head = Tolerance::sum(shape.head_dim, 1.0).abs;
        let score = f64::from(shape.scale) * head;
        let gradient = head + score * (shape.head_dim as f64).sqrt();
        let queries = lengths.iter().max().map_or(1, |&n| n as usize) * shape.n_heads / shape.n_kv_heads;
        let sum = 1.0 + (queries as f64).sqrt() / 4.0;
        let tolerance = |abs: f64| Tolerance { abs: abs + 1e-6, rel: 1e-6 };
        case.expect(delta_at, expected.delta, tolerance(head));
        case.expect(dq_at, expected.dq, tolerance(gradient));
        let rows = n * crate::kernels::stride(kv_width);
        case.expect(dk_at, expected.dk[..rows].to_vec(), tolerance(gradient * sum));
        case.expect(dv_at, expected.dv[..rows].to_vec(), tolerance(score * sum));
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
            case(shape(5, 5, 7), &[33]),
            case(shape(70, 2, 8), &[3, 6]),
            case(shape(4, 1, 128), &[33]),
            case(shape(4, 1, 256), &[3, 18]),
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
