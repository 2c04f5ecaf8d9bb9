//! Rotary position embedding (arXiv 2104.09864) in the layout of transformers' Llama: pairs `(i, i + head_dim/2)` of
//! each head are turned by an angle of the token's position. The backward pass turns back where it writes the gradients
//! ([`super::attention_backward`]).

use bytemuck::{Pod, Zeroable};

use super::Columns;
use super::attention::AttentionShape;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/rope.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RopeParams {
    rows: Rows,
    n_heads: u32,
    n_kv_heads: u32,
    half: u32,
    stride: u32,
    k_first: u32,
    _pad: [u32; 3],
}

impl RopeParams {
    fn new(shape: AttentionShape, stride: usize, k_first: usize) -> Self {
        Self {
            rows: Rows::TOKENS,
            n_heads: shape.n_heads as u32,
            n_kv_heads: shape.n_kv_heads as u32,
            half: shape.head_dim as u32 / 2,
            stride: stride as u32,
            k_first: k_first as u32,
            _pad: [0; 3],
        }
    }
}

/// Turns `q` and `k`, columns of one matrix, in place, by the angles of `table` (`[n_positions, head_dim / 2]` pairs of
/// cosine and sine) at the positions of `tokens` (`[n_tokens]` of [`super::Token`]).
pub fn rope(
    rec: &mut Recording,
    label: &str,
    shape: AttentionShape,
    tokens: Slice,
    table: Slice,
    q: Columns,
    k: Columns,
) {
    assert!(shape.head_dim.is_multiple_of(2) && (q.width, k.width) == shape.widths(), "{label}: widths for {shape:?}");
    assert!(q.matrix.slice == k.matrix.slice && q.first == 0, "{label}: q and k lie in one matrix, q first");
    let kernel = include_str!("../../shaders/rope.wgsl");
    let shader = Shader::new("rope", &[], &[include_str!("../../shaders/shared/token.wgsl"), kernel]);
    let params = RopeParams::new(shape, q.matrix.stride(), k.first);
    // One thread for each pair of columns of a head and each row.
    let grid = [Extent::cover(params.half, 8), Extent::Rows { rows: params.rows, per: 8 }, Extent::Fixed(1)];
    let work = (params.rows, 3 * (q.width + k.width) as u64);
    rec.dispatch(label, &shader, &[tokens, table, q.matrix.slice], &params, grid, work);
}

/// Every head of rows of `width` columns turned in f64, at the positions of `tokens`, or turned back.
#[cfg(test)]
pub(crate) fn turned(
    tokens: &[super::Token],
    table: &[f64],
    head_dim: usize,
    stride: usize,
    columns: std::ops::Range<usize>,
    back: bool,
    x: &[f64],
) -> Vec<f64> {
    let half = head_dim / 2;
    let mut y = x.to_vec();
    for (token, row) in tokens.iter().zip(y.chunks_mut(stride)) {
        for head in row[columns.clone()].chunks_exact_mut(head_dim) {
            for i in 0..half {
                let at = 2 * (token.position as usize * half + i);
                let (cos, sin) = (table[at], if back { -table[at + 1] } else { table[at + 1] });
                (head[i], head[i + half]) =
                    (head[i] * cos - head[i + half] * sin, head[i + half] * cos + head[i] * sin);
            }
        }
    }
    y
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::attention::tests::shape;
    use crate::kernels::testing::*;
    use crate::kernels::{Matrix, Token, stride};

    /// Angles as Llama's: position · theta^(-i / half).
    pub(in crate::kernels) fn angles(n_positions: usize, half: usize) -> Vec<f32> {
        (0..n_positions * half)
            .flat_map(|at| {
                let angle = (at / half) as f64 * 10000f64.powf(-((at % half) as f64) / half as f64);
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect()
    }

    /// Positions start again every five rows, and those of the first rows are not the smallest.
    fn positions(n_tokens: usize) -> Vec<Token> {
        (0..n_tokens as u32).map(|t| Token { position: (t + 3) % 5, ..Default::default() }).collect()
    }

    fn case(n_tokens: usize, n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Case {
        let shape = shape(n_heads, n_kv_heads, head_dim);
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("{n_tokens} tokens, {shape:?}"), step);
        let (q_width, kv_width) = shape.widths();
        let k_first = stride(q_width);
        // Keys are followed by values, which stay as they are.
        let width = k_first + 2 * stride(kv_width);
        let (tokens, table) = (positions(n_tokens), angles(5, head_dim / 2));
        let x = random_matrix(n_tokens, width, 1);
        let turn = |columns, x: &[f64]| turned(&tokens, &f64s(&table), head_dim, width, columns, false, x);
        let expected = turn(k_first..k_first + kv_width, &turn(0..q_width, &f64s(&x)));
        let (tokens_at, table_at, x_at) = (case.buffer(&tokens), case.buffer(&table), case.buffer(&x));
        case.record(move |rec, b| {
            let matrix = Matrix { slice: b[x_at], width };
            let q = Columns { matrix, first: 0, width: q_width };
            let k = Columns { matrix, first: k_first, width: kv_width };
            rope(rec, "rope", shape, b[tokens_at], b[table_at], q, k);
        });
        case.expect(x_at, expected, Tolerance::sum(2, 1.0));
        case
    }

    kernel_test!(
        rope_matches,
        vec![
            case(1, 1, 1, 2),
            case(1, 9, 3, 64),
            case(7, 3, 3, 10),
            case(8, 2, 1, 16),
            case(9, 5, 5, 18),
            case(65, 9, 3, 64),
            case(17, 1, 1, 256),
        ]
    );

    #[test]
    fn turning_back_is_the_gradient() {
        let (n_tokens, head_dim) = (7, 12);
        let (tokens, table) = (positions(n_tokens), f64s(&angles(5, head_dim / 2)));
        let [x, dy] = [1, 2].map(|seed| f64s(&random(n_tokens * 2 * head_dim, seed)));
        let turn = |back, x: &[f64]| turned(&tokens, &table, head_dim, 2 * head_dim, 0..2 * head_dim, back, x);
        let loss = |x: &[f64]| turn(false, x).iter().zip(&dy).map(|(y, dy)| y * dy).sum();
        assert_close(&turn(true, &dy), &finite_differences(&x, loss));
    }
}
