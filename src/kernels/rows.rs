//! Rows picked out of a matrix, `y[i] = x[index[i]]`, and put back, `y[index[i]] = x[i]`: the head looks at the rows
//! that have a target, and a cache takes new keys and values.

use bytemuck::{Pod, Zeroable};

use super::{Columns, Matrix};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `struct Params` of `shaders/rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RowsParams {
    rows: Rows,
    width4: u32,
    x_first4: u32,
    x_stride4: u32,
    y_stride4: u32,
}

impl RowsParams {
    fn new(rows: Rows, x: Columns, y: Matrix) -> Self {
        let [width, x_stride, y_stride] = [super::stride(x.width), x.matrix.stride(), y.stride()];
        Self {
            rows,
            width4: width as u32 / 4,
            x_first4: x.first as u32 / 4,
            x_stride4: x_stride as u32 / 4,
            y_stride4: y_stride as u32 / 4,
        }
    }
}

/// `y[i] = x[index[rows.start + i]]` for each of `rows`; `index` is `array<u32>`.
pub fn gather_rows(rec: &mut Recording, label: &str, rows: Rows, index: Slice, x: Matrix, y: Matrix) {
    move_rows(rec, label, 0, rows, index, x.into(), y);
}

/// `y[index[rows.start + i]] = x[i]` for each of `rows`; other rows of `y` stay as they are. `index` is `array<u32>`
/// and names no row twice.
pub fn scatter_rows(rec: &mut Recording, label: &str, rows: Rows, index: Slice, x: Columns, y: Matrix) {
    move_rows(rec, label, 1, rows, index, x, y);
}

fn move_rows(rec: &mut Recording, label: &str, scatter: u32, rows: Rows, index: Slice, x: Columns, y: Matrix) {
    assert_eq!(x.width, y.width, "{label}: widths of x and y");
    let shader = Shader::new("rows", &[("SCATTER", scatter)], &[include_str!("../../shaders/rows.wgsl")]);
    let params = RowsParams::new(rows, x, y);
    let grid = [Extent::cover(params.width4, 64), Extent::Rows { rows, per: 1 }, Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[index, x.matrix.slice, y.slice], &params, grid, (rows, x.width as u64));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    /// Picks rows 0, 3, 6 … of `x` and puts rows there; the window begins at row `start` of the targets.
    fn cases(n_rows: usize, start: usize, width: usize) -> [Case; 2] {
        let stride = super::super::stride(width);
        let rows = if start == 0 { Rows::TOKENS } else { Rows::targets(start as u32, n_rows as u32 + 5) };
        let n = n_rows as u32;
        let step = Step { n_tokens: n, n_targets: start as u32 + n, ..Default::default() };
        let index: Vec<u32> =
            (0..start + n_rows).map(|i| if i < start { u32::MAX } else { 3 * (i - start) as u32 }).collect();
        let exact = Tolerance { abs: 0.0, rel: 0.0 };
        let (packed, spread) = (random_matrix(n_rows, width, 1), random_matrix(3 * n_rows, width, 2));

        let mut gather = Case::new(format!("gather {n_rows}x{width} from {start}"), step);
        let (index_at, x_at) = (gather.buffer(&index), gather.buffer(&spread));
        let y_at = gather.output(packed.len());
        let y = (0..n_rows).flat_map(|i| &spread[3 * i * stride..][..stride]).map(|&v| f64::from(v)).collect();
        gather.record(move |rec, b| {
            let matrix = |at: usize| Matrix { slice: b[at], width };
            gather_rows(rec, "rows", rows, b[index_at], matrix(x_at), matrix(y_at));
        });
        gather.expect(y_at, y, exact);

        let mut scatter = Case::new(format!("scatter {n_rows}x{width} from {start}"), step);
        let [index_at, x_at, y_at] = [scatter.buffer(&index), scatter.buffer(&packed), scatter.buffer(&spread)];
        let mut y = f64s(&spread);
        for (i, row) in packed.chunks(stride).take(n_rows).enumerate() {
            y[3 * i * stride..][..stride].copy_from_slice(&f64s(row));
        }
        scatter.record(move |rec, b| {
            let matrix = |at: usize| Matrix { slice: b[at], width };
            scatter_rows(rec, "rows", rows, b[index_at], matrix(x_at).into(), matrix(y_at));
        });
        scatter.expect(y_at, y, exact);
        [gather, scatter]
    }

    kernel_test!(
        rows_match,
        [(1, 0, 1), (2, 0, 255), (3, 7, 256), (5, 1, 257), (16, 64, 192), (70, 0, 576)]
            .into_iter()
            .flat_map(|(n_rows, start, width)| cases(n_rows, start, width))
            .collect()
    );
}
