//! Token lookup: row `id` of the embedding table for each token, dequantised on the way.

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
    _pad: u32,
}

/// `y[t] = w[id of token t]`, `y` `[n_tokens, w.cols]`, for ids in `w`'s part of the table. `tokens` is `array<Token>`.
pub fn embedding(rec: &mut Recording, label: &str, tokens: Slice, w: &Weight, y: Matrix) {
    assert_eq!(y.width, w.cols, "{label}: columns of y and of the table");
    let params =
        EmbeddingParams { rows: Rows::TOKENS, n: w.rows as u32, k8: w.k8(), first: w.first_row as u32, _pad: 0 };
    let parts = [
        include_str!("../../shaders/shared/token.wgsl"),
        include_str!("../../shaders/shared/weight.wgsl"),
        w.format.shader(),
        include_str!("../../shaders/embedding.wgsl"),
    ];
    let shader = Shader::new("embedding", &[], &parts);
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
                embedding(rec, "embedding", b[tokens_at], &w, Matrix { slice: b[y_at], width: cols });
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

    kernel_test!(embedding_matches, cases());
}
