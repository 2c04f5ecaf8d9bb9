//! Rotary position embedding (arXiv 2104.09864) in the layout of transformers' Llama: pairs `(i, i + head_dim/2)` of
//! each head are turned by an angle of the token's position. Turning back is the backward pass.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/rope.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RopeParams {
    rows: Rows,
    n_heads: u32,
    half: u32,
    stride: u32,
    direction: f32,
}

impl RopeParams {
    fn new(n_heads: usize, head_dim: usize, inverse: bool) -> Self {
        Self {
            rows: Rows::TOKENS,
            n_heads: n_heads as u32,
            half: head_dim as u32 / 2,
            stride: super::stride(n_heads * head_dim) as u32,
            direction: if inverse { -1.0 } else { 1.0 },
        }
    }
}

/// Turns `x` `[n_tokens, n_heads * head_dim]` in place, by the angles of `table` (`[n_positions, head_dim / 2]` pairs
/// of cosine and sine) at the positions of `tokens` (`[n_tokens]` of [`super::Token`]), or by their negatives if
/// `inverse`.
pub fn rope(
    rec: &mut Recording,
    label: &str,
    tokens: Slice,
    table: Slice,
    x: Matrix,
    n_heads: usize,
    head_dim: usize,
    inverse: bool,
) {
    assert!(head_dim.is_multiple_of(2) && x.width == n_heads * head_dim, "{label}: {n_heads} heads of {head_dim}");
    let kernel = include_str!("../../shaders/rope.wgsl");
    let shader = Shader::new("rope", &[], &[include_str!("../../shaders/shared/token.wgsl"), kernel]);
    let params = RopeParams::new(n_heads, head_dim, inverse);
    // One thread for each pair of columns of a head and each row.
    let grid = [Extent::cover(params.half, 8), Extent::Rows { rows: params.rows, per: 8 }, Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[tokens, table, x.slice], &params, grid, (params.rows, 3 * x.width as u64));
}

/// The same in f64 over rows at the padded stride.
#[cfg(test)]
pub(crate) fn rope_reference(params: &RopeParams, tokens: &[super::Token], table: &[f64], x: &[f64]) -> Vec<f64> {
    let half = params.half as usize;
    let mut y = x.to_vec();
    for (token, row) in tokens.iter().zip(y.chunks_mut(params.stride as usize)) {
        for head in row.chunks_exact_mut(2 * half).take(params.n_heads as usize) {
            for i in 0..half {
                let at = 2 * (token.position as usize * half + i);
                let (cos, sin) = (table[at], table[at + 1] * f64::from(params.direction));
                (head[i], head[i + half]) =
                    (head[i] * cos - head[i + half] * sin, head[i + half] * cos + head[i] * sin);
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::Token;
    use crate::kernels::testing::*;

    /// Angles as Llama's: position · theta^(-i / half).
    fn angles(n_positions: usize, half: usize) -> Vec<f32> {
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

    fn case(n_tokens: usize, n_heads: usize, head_dim: usize, inverse: bool) -> Case {
        let mut case = Case::new(
            format!("{n_tokens} tokens, {n_heads} heads of {head_dim}, inverse: {inverse}"),
            Step { n_tokens: n_tokens as u32, ..Default::default() },
        );
        let params = RopeParams::new(n_heads, head_dim, inverse);
        let (tokens, table) = (positions(n_tokens), angles(5, head_dim / 2));
        let x = random_matrix(n_tokens, n_heads * head_dim, 1);
        let expected = rope_reference(&params, &tokens, &f64s(&table), &f64s(&x));
        let (tokens_at, table_at, x_at) = (case.buffer(&tokens), case.buffer(&table), case.buffer(&x));
        case.record(move |rec, b| {
            let x = Matrix { slice: b[x_at], width: n_heads * head_dim };
            rope(rec, "rope", b[tokens_at], b[table_at], x, n_heads, head_dim, inverse);
        });
        case.expect(x_at, expected, Tolerance::sum(2, 1.0));
        case
    }

    kernel_test!(
        rope_matches,
        [(1, 1, 2), (1, 9, 64), (7, 3, 10), (8, 2, 16), (9, 5, 18), (65, 9, 64), (17, 1, 256)]
            .into_iter()
            .flat_map(|(t, h, d)| [false, true].map(|inverse| case(t, h, d, inverse)))
            .collect()
    );

    #[test]
    fn inverse_is_the_gradient() {
        let (n_tokens, n_heads, head_dim) = (7, 2, 12);
        let (tokens, table) = (positions(n_tokens), f64s(&angles(5, head_dim / 2)));
        let [x, dy] = [1, 2].map(|seed| f64s(&random(n_tokens * n_heads * head_dim, seed)));
        let params = |inverse| RopeParams::new(n_heads, head_dim, inverse);
        let expected = finite_differences(&x, |x| {
            rope_reference(&params(false), &tokens, &table, x).iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        });
        assert_close(&rope_reference(&params(true), &tokens, &table, &dy), &expected);
    }
}
