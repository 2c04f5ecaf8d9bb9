//! Products with a frozen weight, both ways, with LoRA's low-rank term as the last part of the same sum:
//! `y = x Wᵀ + s (x Aᵀ) Bᵀ` forward (arXiv 2106.09685, section 4.1), `dx = dy W + s (dy B) A` backward.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use super::weight::Weight;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice, Variant};

/// `struct Params` of `shaders/shared/product.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct MatmulParams {
    rows: Rows,
    n: u32,
    k8: u32,
    first: u32,
    x_stride4: u32,
    y_stride4: u32,
    tail_rank: u32,
    tail_x_stride4: u32,
    tail_w_stride4: u32,
    tail_scale: f32,
    accumulate: u32,
    _pad: [u32; 2],
}

/// The low-rank continuation of a product.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    /// `x Aᵀ` forward, `dy B` backward: `[rows, r]`.
    pub x: Matrix,
    /// B `[out, r]` forward, A `[r, in]` backward: f32, rows padded.
    pub w: Slice,
    /// Columns of `w`.
    pub w_cols: usize,
    /// `lora_alpha / r` or its rsLoRA form; multiplied by `step.strength`.
    pub scale: f32,
}

/// Whether a product replaces what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `y = …`
    Replace,
    /// `y += …`
    Add,
}

impl MatmulParams {
    fn new(rows: Rows, x: Matrix, w: &Weight, tail: Option<Tail>, y: Matrix, write: Write) -> Self {
        Self {
            rows,
            n: w.rows as u32,
            k8: w.k8(),
            first: w.first_row as u32,
            x_stride4: x.stride() as u32 / 4,
            y_stride4: y.stride() as u32 / 4,
            tail_rank: tail.map_or(0, |tail| tail.x.width as u32),
            tail_x_stride4: tail.map_or(0, |tail| tail.x.stride() as u32 / 4),
            tail_w_stride4: tail.map_or(0, |tail| super::stride(tail.w_cols) as u32 / 4),
            tail_scale: tail.map_or(0.0, |tail| tail.scale),
            accumulate: u32::from(write == Write::Add),
            _pad: [0; 2],
        }
    }
}

/// `y[t, w.first_row + j] = Σ_k x[t, k] w[j, k]` plus the tail, for the token or target `rows`.
///
/// `x` is `[rows, w.cols]`, `y` at least `w.first_row + w.rows` wide.
pub fn matmul(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    w: &Weight,
    tail: Option<Tail>,
    y: Matrix,
    write: Write,
) {
    assert_eq!(x.width, w.cols, "{label}: columns of x and of the weight");
    let params = MatmulParams::new(rows, x, w, tail, y, write);
    dispatch(rec, label, Direction::Forward, params, x, w, tail, y, w.rows);
}

/// `y[t, k] = Σ_j x[t, w.first_row + j] w[j, k]` plus the tail: the gradient on a linear's input from that on its output.
///
/// `x` is at least `w.first_row + w.rows` wide, `y` is `[rows, w.cols]`.
pub fn matmul_transposed(
    rec: &mut Recording,
    label: &str,
    rows: Rows,
    x: Matrix,
    w: &Weight,
    tail: Option<Tail>,
    y: Matrix,
    write: Write,
) {
    assert_eq!(y.width, w.cols, "{label}: columns of y and of the weight");
    let params = MatmulParams::new(rows, x, w, tail, y, write);
    dispatch(rec, label, Direction::Transposed, params, x, w, tail, y, w.cols);
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Forward,
    Transposed,
}

fn dispatch(
    rec: &mut Recording,
    label: &str,
    direction: Direction,
    params: MatmulParams,
    x: Matrix,
    w: &Weight,
    tail: Option<Tail>,
    y: Matrix,
    y_cols: usize,
) {
    let rank = tail.map_or(0, |tail| tail.x.width);
    let tail_shader = match tail {
        Some(_) => include_str!("../../shaders/shared/tail_lora.wgsl"),
        None => include_str!("../../shaders/shared/tail_none.wgsl"),
    };
    let capacity = rec.capacity(params.rows);
    // LoRA's ranks make products with a block of columns or two: their threads lie along the rows.
    let down = y_cols <= 64;
    let on_gpu = rec.variant() != Variant::Direct;
    // A single row's sums are too long and too few for a thread each.
    let split = on_gpu && capacity == 1 && matches!(direction, Direction::Forward);
    let tiled = on_gpu && capacity > 1 && !down;
    // Programs on the CPU spend most of their time on loads, one lane at a time: a thread with four blocks loads half
    // as much for the same products. It also takes four times as long to compile, which a small product never repays.
    let side = if !tiled && capacity >= 64 && y_cols >= 128 { 2 } else { 1 };
    let workgroup: u32 = match capacity {
        _ if split => 32,
        // Small workgroups share out evenly over the CPU's cores.
        1 => 8,
        _ if down || side == 2 => 16,
        _ => 64,
    };
    let (rows_per_thread, rows_shader) = match capacity {
        1 => (1, include_str!("../../shaders/shared/rows_1.wgsl")),
        _ => (8, include_str!("../../shaders/shared/rows_8.wgsl")),
    };
    let mut parts = vec![
        include_str!("../../shaders/shared/weight.wgsl"),
        w.format.shader(),
        include_str!("../../shaders/shared/product.wgsl"),
        tail_shader,
        rows_shader,
    ];
    if !tiled && matches!(direction, Direction::Forward) {
        parts.push(include_str!("../../shaders/shared/weight_columns.wgsl"));
    }
    if tiled {
        // Gradients would vanish in f16: the way back keeps f32.
        parts.push(match direction {
            Direction::Forward if rec.variant() == Variant::TiledF16 => {
                include_str!("../../shaders/shared/value_f16.wgsl")
            }
            _ => include_str!("../../shaders/shared/value_f32.wgsl"),
        });
        parts.push(include_str!("../../shaders/shared/tiles.wgsl"));
    }
    let (name, kernel) = match (direction, tiled) {
        (Direction::Forward, false) if split => ("matvec", include_str!("../../shaders/matvec.wgsl")),
        (Direction::Forward, false) => ("matmul", include_str!("../../shaders/matmul.wgsl")),
        (Direction::Forward, true) => ("matmul_tiled", include_str!("../../shaders/matmul_tiled.wgsl")),
        (Direction::Transposed, false) => ("matmul_transposed", include_str!("../../shaders/matmul_transposed.wgsl")),
        (Direction::Transposed, true) => {
            ("matmul_transposed_tiled", include_str!("../../shaders/matmul_transposed_tiled.wgsl"))
        }
    };
    parts.push(kernel);
    let constants = [("WORKGROUP", workgroup), ("DOWN", u32::from(down)), ("SIDE", side)];
    let shader = Shader::new(name, &constants, &parts);
    let bindings: Vec<Slice> =
        w.bindings().chain([x.slice, y.slice]).chain(tail.iter().flat_map(|tail| [tail.x.slice, tail.w])).collect();
    let flops_per_row = 2 * (w.rows * w.cols + rank * y_cols) as u64;
    // Rows and columns of a workgroup.
    let (tall, wide) = match (tiled, down) {
        _ if split => (1, 8),
        (true, _) => (64, 64),
        (false, true) => (side * rows_per_thread * workgroup, side * 8),
        (false, false) => (side * rows_per_thread, side * 8 * workgroup),
    };
    let (rows, columns) = (Extent::Rows { rows: params.rows, per: tall }, Extent::cover(y_cols as u32, wide));
    let grid = if down && !split { [rows, columns] } else { [columns, rows] };
    let grid = [grid[0], grid[1], Extent::Fixed(1)];
    rec.dispatch(label, &shader, &bindings, &params, grid, (params.rows, flops_per_row));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::io::{DType, dequantize};
    use crate::kernels::stride;
    use crate::kernels::testing::*;
    use crate::kernels::weight::{WeightFormat, random_blocks, repack};

    const STRENGTH: f32 = 0.75;

    /// f64 values of the parts of a product, laid out as the kernel's own buffers.
    struct Product {
        w: Vec<f64>,
        tail: Option<(Vec<f64>, Vec<f64>)>,
    }

    /// The same arithmetic in f64; `y` is what was there before.
    fn reference(
        params: &MatmulParams,
        p: &Product,
        transposed: bool,
        n_rows: usize,
        x: &[f64],
        y: &[f64],
    ) -> Vec<f64> {
        let k = params.k8 as usize * 8;
        let (xs, ys) = (params.x_stride4 as usize * 4, params.y_stride4 as usize * 4);
        let (n, first, r) = (params.n as usize, params.first as usize, params.tail_rank as usize);
        let (tx, tw) = (params.tail_x_stride4 as usize * 4, params.tail_w_stride4 as usize * 4);
        let scale = f64::from(params.tail_scale) * f64::from(STRENGTH);
        let mut out = y.to_vec();
        for t in 0..n_rows {
            for c in 0..if transposed { k } else { n } {
                let main: f64 = match transposed {
                    false => (0..k).map(|i| x[t * xs + i] * p.w[c * k + i]).sum(),
                    true => (0..n).map(|j| x[t * xs + first + j] * p.w[j * k + c]).sum(),
                };
                let tail: f64 = p.tail.as_ref().map_or(0.0, |(a, b)| {
                    let w = |r: usize| if transposed { b[r * tw + c] } else { b[(first + c) * tw + r] };
                    scale * (0..r).map(|r| a[t * tx + r] * w(r)).sum::<f64>()
                });
                let at = t * ys + if transposed { c } else { first + c };
                let before = if params.accumulate == 1 { y[at] } else { 0.0 };
                out[at] = before + main + tail;
            }
        }
        out
    }

    fn case(transposed: bool, dtype: DType, n_tokens: usize, n: usize, k: usize, rank: usize, write: Write) -> Case {
        let step = Step { n_tokens: n_tokens as u32, strength: STRENGTH, ..Default::default() };
        let mut case =
            Case::new(format!("{dtype} {n_tokens}x{n}x{k} rank {rank} {write:?} transposed {transposed}"), step);
        let blocks = random_blocks(dtype, n * k, 1);
        let (values, scales) = repack(dtype, &blocks, k);
        let (x_width, y_width) = if transposed { (n, k) } else { (k, n) };
        let x = random_matrix(n_tokens, x_width, 2);
        let y = match write {
            Write::Add => random_matrix(n_tokens, y_width, 3),
            Write::Replace => vec![f32::NAN; Matrix::size_bytes(n_tokens, y_width) as usize / 4],
        };
        let (tail_rows, tail_cols) = if transposed { (rank, k) } else { (n, rank) };
        let (tail_x, tail_w) =
            (random_matrix(n_tokens, rank.max(1), 4), random_matrix(tail_rows.max(1), tail_cols.max(1), 5));

        let at = [
            case.buffer(&x),
            case.buffer(&y),
            case.buffer(&values),
            case.buffer(&scales),
            case.buffer(&tail_x),
            case.buffer(&tail_w),
        ];
        let record = move |rec: &mut Recording, b: &[Slice]| {
            let scales = (WeightFormat::of(dtype).row_bytes(k).1 > 0).then_some(b[at[3]]);
            let w =
                Weight { format: WeightFormat::of(dtype), rows: n, cols: k, first_row: 0, values: b[at[2]], scales };
            let x = Matrix { slice: b[at[0]], width: x_width };
            let y = Matrix { slice: b[at[1]], width: y_width };
            let tail = (rank > 0).then_some(Tail {
                x: Matrix { slice: b[at[4]], width: rank },
                w: b[at[5]],
                w_cols: tail_cols,
                scale: 2.0,
            });
            let run = if transposed { matmul_transposed } else { matmul };
            run(rec, "product", Rows::TOKENS, x, &w, tail, y, write);
        };
        let params = MatmulParams {
            rows: Rows::TOKENS,
            n: n as u32,
            k8: stride(k) as u32 / 8,
            first: 0,
            x_stride4: stride(x_width) as u32 / 4,
            y_stride4: stride(y_width) as u32 / 4,
            tail_rank: rank as u32,
            tail_x_stride4: stride(rank) as u32 / 4,
            tail_w_stride4: stride(tail_cols) as u32 / 4,
            tail_scale: 2.0,
            accumulate: u32::from(write == Write::Add),
            _pad: [0; 2],
        };
        let product = Product {
            w: f64s(&pad_rows(&dequantize(dtype, &blocks), k)),
            tail: (rank > 0).then(|| (f64s(&tail_x), f64s(&tail_w))),
        };
        // Columns past the last must come out as zero.
        let before: Vec<f64> = y.iter().map(|&v| if write == Write::Add { f64::from(v) } else { 0.0 }).collect();
        let mut expected = reference(&params, &product, transposed, n_tokens, &f64s(&x), &before);
        expected.truncate(n_tokens * stride(y_width));
        case.record(record);
        let terms = x_width + rank;
        // Weights reach 1 in magnitude, 2.5 in the widest block types; tail products scale·strength = 1.5.
        case.expect(at[1], expected, Tolerance::sum(terms, 2.5));
        case
    }

    /// The way back is the derivative of the way there, LoRA's term included: with `f = Σ c · y(x)`, df/dx is the
    /// transposed product of `c` and its own low-rank term `(c B) A`.
    #[test]
    fn matmul_transposed_is_the_gradient() {
        let (t, n, k, r) = (3, 5, 11, 2);
        let params = |x: usize, y: usize, w_cols: usize| MatmulParams {
            rows: Rows::TOKENS,
            n: n as u32,
            k8: stride(k) as u32 / 8,
            first: 0,
            x_stride4: stride(x) as u32 / 4,
            y_stride4: stride(y) as u32 / 4,
            tail_rank: r as u32,
            tail_x_stride4: stride(r) as u32 / 4,
            tail_w_stride4: stride(w_cols) as u32 / 4,
            tail_scale: 2.0,
            accumulate: 0,
            _pad: [0; 2],
        };
        let padded = |rows: usize, cols: usize, seed: u64| f64s(&pad_rows(&random(rows * cols, seed), cols));
        let (w, a, b) = (padded(n, k, 1), padded(r, k, 2), padded(n, r, 3));
        let (x, c) = (padded(t, k, 4), padded(t, n, 5));
        // Rows of `left` against rows or columns of `right`, at padded strides.
        let low_rank = |left: &[f64], width: usize, right: &dyn Fn(usize, usize) -> f64| {
            let mut out = vec![0.0; t * stride(r)];
            for (row, q) in (0..t).flat_map(|row| (0..r).map(move |q| (row, q))) {
                out[row * stride(r) + q] = (0..width).map(|i| left[row * stride(width) + i] * right(q, i)).sum();
            }
            out
        };
        let forward = |x: &[f64]| {
            let xa = low_rank(x, k, &|q, i| a[q * stride(k) + i]);
            let product = Product { w: w.clone(), tail: Some((xa, b.clone())) };
            let y = reference(&params(k, n, r), &product, false, t, x, &vec![0.0; t * stride(n)]);
            y.iter().zip(&c).map(|(y, c)| y * c).sum::<f64>()
        };
        let dya = low_rank(&c, n, &|q, j| b[j * stride(r) + q]);
        let product = Product { w: w.clone(), tail: Some((dya, a.clone())) };
        let dx = reference(&params(n, k, k), &product, true, t, &c, &vec![0.0; t * stride(k)]);
        let expected = finite_differences(&x, forward);
        for row in 0..t {
            let columns = row * stride(k)..row * stride(k) + k;
            assert_close(&dx[columns.clone()], &expected[columns]);
        }
    }

    fn pad_rows(values: &[f32], k: usize) -> Vec<f32> {
        let mut padded = pad(values, k);
        padded.truncate(values.len() / k * stride(k));
        padded
    }

    fn cases(transposed: bool) -> Vec<Case> {
        let mut cases: Vec<Case> = DType::ALL
            .into_iter()
            .map(|dtype| {
                case(transposed, dtype, 19, 45, if dtype.block_len() == 1 { 72 } else { 256 }, 4, Write::Replace)
            })
            .collect();
        for (t, n, k, rank) in [
            (1, 1, 1, 0),
            (1, 3, 5, 1),
            (7, 8, 8, 3),
            (8, 9, 13, 8),
            (9, 311, 72, 0),
            (64, 64, 64, 16),
            (65, 70, 66, 5),
        ] {
            cases.push(case(transposed, DType::F32, t, n, k, rank, Write::Replace));
            cases.push(case(transposed, DType::F32, t, n, k, rank, Write::Add));
        }
        // Large enough for four blocks a thread, with a block of rows and one of columns left over.
        cases.push(case(transposed, DType::F32, 73, 137, 150, 5, Write::Add));
        cases.push(case(transposed, DType::Q4_1, 65, 150, 160, 8, Write::Replace));
        // SmolLM2's down_proj and its head's width.
        cases.push(case(transposed, DType::Q4_1, 16, 576, 1536, 8, Write::Add));
        cases.push(case(transposed, DType::Q8_0, 3, 49152, 576, 0, Write::Replace));
        cases.push(case(transposed, DType::Q4_1, 1, 1536, 576, 8, Write::Replace));
        // One row of each format, as in generating.
        for dtype in DType::ALL {
            let k = if dtype.block_len() == 1 { 333 } else { 512 };
            cases.push(case(transposed, dtype, 1, 45, k, 20, Write::Add));
        }
        cases
    }

    fn variant_cases(transposed: bool, variant: Variant) -> Vec<Case> {
        cases(transposed).into_iter().map(|case| case.variant(variant)).collect()
    }

    kernel_test!(matmul_matches, variant_cases(false, Variant::Direct));
    kernel_test!(matmul_transposed_matches, variant_cases(true, Variant::Direct));
    /// f16 rounds 8,192 times as coarsely, but the sums are f32: their share of the tolerance stays as it is.
    #[cfg(not(target_arch = "wasm32"))]
    #[test]
    fn matmul_tiled_f16_matches() {
        let options = crate::gpu::DeviceOptions { variant: Some(Variant::TiledF16), ..Default::default() };
        match pollster::block_on(crate::gpu::Gpu::request(options)) {
            Ok(gpu) => {
                let cases = variant_cases(false, Variant::TiledF16).into_iter().map(|case| case.loosened(1024.0));
                pollster::block_on(check_on(&gpu, cases.collect()));
            }
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    kernel_test!(matmul_tiled_matches, variant_cases(false, Variant::Tiled));
    kernel_test!(matmul_transposed_tiled_matches, variant_cases(true, Variant::Tiled));
}
