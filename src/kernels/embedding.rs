//! Table lookup: row `id` of the embedding table for each token, or row `position` of one of learned positions, dequantised
//! on the way.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use super::weight::Weight;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/embedding.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct EmbeddingParams {
    rows: Rows,
    n: u32,
    k8: u32,
    first: u32,
    scale: f32,
}

/// `y[t] = scale · w[id of token t]`, `y` `[n_tokens, w.cols]`, for ids in `w`'s part of the table. `tokens` is
/// `array<Token>`.
pub fn embedding(rec: &mut Recording, label: &str, tokens: Slice, w: &Weight, scale: f32, y: Matrix) {
    dispatch(rec, label, 0, tokens, w, scale, y);
}

/// `y[t] += w[position of token t]`, for positions in `w`'s part of the table.
pub fn add_positions(rec: &mut Recording, label: &str, tokens: Slice, w: &Weight, y: Matrix) {
    dispatch(rec, label, 1, tokens, w, 1.0, y);
}

fn dispatch(rec: &mut Recording, label: &str, positions: u32, tokens: Slice, w: &Weight, scale: f32, y: Matrix) {
    assert_eq!(y.width, w.cols, "{label}: columns of y and of the table");
    let params = EmbeddingParams { rows: Rows::TOKENS, n: w.rows as u32, k8: w.k8(), first: w.first_row as u32, scale };
    let parts = [
        include_str!("../../shaders/shared/token.wgsl"),
        include_str!("../../shaders/shared/weight.wgsl"),
        w.format.shader(),
        include_str!("../../shaders/embedding.wgsl"),
    ];
    let shader = Shader::new("embedding", &[("POSITIONS", positions)], &parts);
    let bindings: Vec<Slice> = w.bindings().chain([tokens, y.slice]).collect();
    let grid = [Extent::cover(params.k8, 64), Extent::Rows { rows: params.rows, per: 1 }, Extent::Fixed(1)];
    rec.dispatch(label, &shader, &bindings, &params, grid, (params.rows, w.cols as u64));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::io::{DType, dequantize};
    use crate::kernels::testing::*;
    use crate::kernels::weight::{WeightFormat, random_blocks, repack};
    use crate::kernels::{Token, stride};

    /// Every element of every format comes out as the file format's own definition has it.
    fn case(dtype: DType, cols: usize, n_tokens: usize) -> Case {
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("{dtype} {cols} columns, {n_tokens} tokens"), step);
        // Two parts of a table of 24 rows.
        let blocks = random_blocks(dtype, 24 * cols, 1);
        let table = dequantize(dtype, &blocks);
        let half = blocks.len() / 3;
        let parts = [(0, 8, &blocks[..half]), (8, 16, &blocks[half..])].map(|(first, rows, blocks)| {
            let (values, scales) = repack(dtype, blocks, cols);
            (first, rows, case.buffer(&values), case.buffer(&scales))
        });
        let tokens: Vec<Token> =
            (0..n_tokens).map(|t| Token { id: (t * 7 % 24) as u32, ..Default::default() }).collect();
        let tokens_at = case.buffer(&tokens);
        let y_at = case.output(n_tokens * stride(cols));
        case.record(move |rec, b| {
            for (first_row, rows, values, scales) in parts {
                let format = WeightFormat::of(dtype);
                let scales = (format.row_bytes(cols).1 > 0).then_some(b[scales]);
                let w = Weight { format, rows, cols, first_row, values: b[values], scales };
                embedding(rec, "embedding", b[tokens_at], &w, 1.0, Matrix { slice: b[y_at], width: cols });
            }
        });
        let mut expected = vec![0.0; n_tokens * stride(cols)];
        for (t, token) in tokens.iter().enumerate() {
            let row = &table[token.id as usize * cols..][..cols];
            expected[t * stride(cols)..][..cols].copy_from_slice(&f64s(row));
        }
        // All products are exact in f32, so `d q + m` rounds once, fused or not.
        case.expect(y_at, expected, Tolerance { abs: 0.0, rel: 0.0 });
        case
    }

    fn cases() -> Vec<Case> {
        DType::ALL
            .into_iter()
            .flat_map(|dtype| match dtype.block_len() {
                1 => vec![case(dtype, 1, 1), case(dtype, 13, 24), case(dtype, 576, 3)],
                len => vec![case(dtype, len, 24), case(dtype, 3 * len, 5)],
            })
            .collect()
    }

    /// Learned positions on top of scaled tokens, from tables of their own.
    fn scaled_with_positions(cols: usize, n_tokens: usize) -> Case {
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let mut case = Case::new(format!("positions, {cols} columns, {n_tokens} tokens"), step);
        let [words, places] = [1, 2].map(|seed| random_matrix(24, cols, seed));
        let at = |t: usize| (t * 7 % 24, (t + 3) % 24);
        let token = |t| Token { id: at(t).0 as u32, position: at(t).1 as u32, ..Default::default() };
        let tokens: Vec<Token> = (0..n_tokens).map(token).collect();
        let scale = 8.0;
        let expected = (0..n_tokens * stride(cols)).map(|i| {
            let ((word, place), c) = (at(i / stride(cols)), i % stride(cols));
            f64::from(scale) * f64::from(words[word * stride(cols) + c]) + f64::from(places[place * stride(cols) + c])
        });
        let expected = expected.collect();
        let [words_at, places_at] = [&words, &places].map(|values| case.buffer(values));
        let (tokens_at, y_at) = (case.buffer(&tokens), case.output(n_tokens * stride(cols)));
        case.record(move |rec, b| {
            let y = Matrix { slice: b[y_at], width: cols };
            embedding(rec, "words", b[tokens_at], &Weight::f32(b[words_at], 24, cols), scale, y);
            add_positions(rec, "places", b[tokens_at], &Weight::f32(b[places_at], 24, cols), y);
        });
        // One sum.
        case.expect(y_at, expected, Tolerance { abs: 1e-6, rel: 0.0 });
        case
    }

    kernel_test!(embedding_matches, {
        let mut cases = cases();
        cases.push(scaled_with_positions(60, 9));
        cases
    });
}
