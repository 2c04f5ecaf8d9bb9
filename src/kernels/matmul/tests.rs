//! Products against their f64 reference: every weight format, both directions, every store, every layout.

use super::*;
use crate::gpu::Step;
use crate::io::{DType, dequantize};
use crate::kernels::segments::Layout;
use crate::kernels::stride;
use crate::kernels::testing::*;
use crate::kernels::weight::{WeightFormat, random_blocks, repack};

const STRENGTH: f32 = 0.75;
const SCALE: f32 = 2.0;

/// A store without its matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Replace,
    Add,
    Residual,
    Gated { add: bool },
    GatedBackward { add: bool, finish: bool },
    Activated { add: bool },
    ActivatedBackward { add: bool, finish: bool },
}
use Kind::*;

/// A product to check.
#[derive(Debug, Clone)]
struct Spec {
    transposed: bool,
    dtype: DType,
    n_tokens: usize,
    /// Output widths of the linears; the weight is `[layout.width(widths), k]`.
    widths: Vec<usize>,
    layout: Layout,
    /// Which of them are adapted; none for a product without a tail.
    adapted: Vec<bool>,
    k: usize,
    rank: usize,
    kind: Kind,
    act: Activation,
    bias: bool,
    /// DoRA's factors of the columns, beside a bias.
    gain: bool,
}

impl Spec {
    fn new(transposed: bool, dtype: DType, n_tokens: usize, n: usize, k: usize, rank: usize, kind: Kind) -> Self {
        let (widths, layout, adapted) = (vec![n], Layout::SideBySide, vec![rank > 0]);
        let (act, bias, gain) = (Activation::Silu, false, false);
        Self { transposed, dtype, n_tokens, widths, layout, adapted, k, rank, kind, act, bias, gain }
    }

    fn gelu(self) -> Self {
        Self { act: Activation::GeluTanh, ..self }
    }

    fn biased(self) -> Self {
        Self { bias: true, ..self }
    }

    fn gained(self) -> Self {
        Self { gain: true, ..self.biased() }
    }

    /// A single linear may be as wide as it likes; several are padded to eights.
    fn n(&self) -> usize {
        if self.widths.len() == 1 && self.layout == Layout::SideBySide {
            self.widths[0]
        } else {
            self.layout.width(&self.widths)
        }
    }

    fn has_tail(&self) -> bool {
        self.adapted.contains(&true)
    }

    fn segments(&self) -> Segments {
        Segments::new(self.layout, &self.widths, &self.adapted, self.rank)
    }

    /// Columns of tail_x, and rows and columns of tail_w.
    fn tail_sizes(&self) -> [usize; 3] {
        match (self.has_tail(), self.transposed) {
            (false, _) => [1, 1, 1],
            (true, false) => [self.segments().rank(), self.n(), self.rank],
            (true, true) => [self.segments().rank(), self.segments().rank(), self.k],
        }
    }
}

/// Low-rank column `r` of tail_x for column `c` of the result, in f64 terms of what `Segments` promises.
fn slot_column(spec: &Spec, c: usize, r: usize) -> Option<usize> {
    let width = |index: usize| stride(spec.widths[index]);
    let index = match spec.layout {
        Layout::Interleaved => c / 4 % 2,
        Layout::Halves => 0,
        Layout::SideBySide => {
            (0..spec.widths.len()).find(|&i| c < (0..=i).map(width).sum()).unwrap_or(spec.widths.len() - 1)
        }
    };
    let slot = spec.adapted[..index].iter().filter(|&&adapted| adapted).count();
    spec.adapted[index].then_some(slot * stride(spec.rank) + r)
}

/// The products `[n_tokens, stride(width)]` in f64, pads zero.
fn products(spec: &Spec, x: &[f64], w: &[f64], tail_x: &[f64], tail_w: &[f64]) -> Vec<f64> {
    let (n, k) = (spec.n(), spec.k);
    let (x_width, y_width) = if spec.transposed { (n, k) } else { (k, n) };
    let [tail_columns, tail_rows, tail_cols] = spec.tail_sizes();
    let scale = f64::from(SCALE) * f64::from(STRENGTH);
    let mut y = vec![0.0; spec.n_tokens * stride(y_width)];
    for t in 0..spec.n_tokens {
        let x = &x[t * stride(x_width)..][..x_width];
        let tail_x = &tail_x[t * stride(tail_columns)..][..tail_columns];
        for c in 0..y_width {
            let main: f64 = match spec.transposed {
                false => (0..k).map(|i| x[i] * w[c * stride(k) + i]).sum(),
                true => (0..n).map(|j| x[j] * w[j * stride(k) + c]).sum(),
            };
            let tail: f64 = match (spec.has_tail(), spec.transposed) {
                (false, _) => 0.0,
                (true, true) => (0..tail_rows).map(|r| tail_x[r] * tail_w[r * stride(tail_cols) + c]).sum(),
                (true, false) => (0..spec.rank)
                    .filter_map(|r| slot_column(spec, c, r).map(|at| tail_x[at] * tail_w[c * stride(tail_cols) + r]))
                    .sum(),
            };
            y[t * stride(y_width) + c] = main + scale * tail;
        }
    }
    y
}

/// The function and its derivative.
fn act(act: Activation, x: f64) -> (f64, f64) {
    match act {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (c * (x + 0.044715 * x.powi(3))).tanh();
            let slope = (1.0 - tanh * tanh) * c * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * slope)
        }
    }
}

/// What `kind` makes of a product of rows `width` wide (a multiple of eight): y, and h where there is one. `y` and
/// `other` are what was there before.
fn stored(
    (kind, f): (Kind, Activation),
    width: usize,
    product: &[f64],
    y: &[f64],
    other: &[f64],
) -> (Vec<f64>, Option<Vec<f64>>) {
    let sum = |a: &[f64]| -> Vec<f64> { product.iter().zip(a).map(|(p, a)| p + a).collect() };
    match kind {
        Replace => (product.to_vec(), None),
        Add => (sum(y), None),
        Residual => (sum(other), None),
        Gated { add } => {
            let product = if add { sum(y) } else { product.to_vec() };
            let eights = product.chunks(8);
            let h = eights.flat_map(|eight| (0..4).map(|i| act(f, eight[i]).0 * eight[i + 4])).collect();
            (product, Some(h))
        }
        Activated { add } => {
            let product = if add { sum(y) } else { product.to_vec() };
            let h = product.iter().map(|&x| act(f, x).0).collect();
            (product, Some(h))
        }
        ActivatedBackward { add, finish } => {
            let dh = if add { sum(y) } else { product.to_vec() };
            let slope = |(dh, &x): (&f64, &f64)| if finish { dh * act(f, x).1 } else { *dh };
            (dh.iter().zip(other).map(slope).collect(), None)
        }
        GatedBackward { add, finish } => {
            let mut out = y.to_vec();
            for (at, &d) in product.iter().enumerate() {
                let (row, c) = (at / width, at % width);
                let gate = row * 2 * width + c / 4 * 8 + c % 4;
                let dh = d + if add { y[gate] } else { 0.0 };
                if finish {
                    let (value, slope) = act(f, other[gate]);
                    (out[gate], out[gate + 4]) = (dh * other[gate + 4] * slope, dh * value);
                } else {
                    out[gate] = dh;
                }
            }
            (out, None)
        }
    }
}

fn case(spec: &Spec) -> Case {
    let step = Step { n_tokens: spec.n_tokens as u32, strength: STRENGTH, ..Default::default() };
    let mut case = Case::new(format!("{spec:?}"), step);
    let spec = spec.clone();
    let (n, k, n_tokens) = (spec.n(), spec.k, spec.n_tokens);
    let blocks = random_blocks(spec.dtype, n * k, 1);
    let (values, scales) = repack(spec.dtype, &blocks, k);
    let (x_width, product_width) = if spec.transposed { (n, k) } else { (k, n) };
    // Where gate and up are the result, their matrix is twice as wide.
    let gated_backward = matches!(spec.kind, GatedBackward { .. });
    let y_width = if gated_backward { 2 * stride(product_width) } else { product_width };
    let x = random_matrix(n_tokens, x_width, 2);
    let y = match spec.kind {
        Add
        | Gated { add: true }
        | Activated { add: true }
        | GatedBackward { add: true, .. }
        | ActivatedBackward { add: true, .. } => random_matrix(n_tokens, y_width, 3),
        // Columns that are not written stay.
        GatedBackward { finish: false, .. } => vec![7.0; Matrix::size_bytes(n_tokens, y_width) as usize / 4],
        _ => vec![f32::NAN; Matrix::size_bytes(n_tokens, y_width) as usize / 4],
    };
    let writes_h = matches!(spec.kind, Gated { .. } | Activated { .. });
    let other_width = if matches!(spec.kind, Gated { .. }) { y_width / 2 } else { y_width };
    let other = random_matrix(n_tokens, other_width, 6);
    let [tail_columns, tail_rows, tail_cols] = spec.tail_sizes();
    let tail_x = random_matrix(n_tokens, tail_columns, 4);
    let tail_w = random_matrix(tail_rows, tail_cols, 5);

    let w = f64s(&pad_rows(&dequantize(spec.dtype, &blocks), k));
    let mut product = products(&spec, &f64s(&x), &w, &f64s(&tail_x), &f64s(&tail_w));
    let [bias, gain] = [7, 8].map(|seed| random_matrix(1, y_width, seed)[..stride(y_width)].to_vec());
    if spec.gain {
        product.iter_mut().zip(gain.iter().cycle()).for_each(|(y, &gain)| *y *= f64::from(gain));
    }
    if spec.bias {
        let columns = bias.iter().cycle();
        product.iter_mut().zip(columns).for_each(|(y, &b)| *y += f64::from(b));
    }
    let rows = n_tokens * stride(y_width);
    let width = stride(product_width);
    let (expected, h) = stored((spec.kind, spec.act), width, &product, &f64s(&y)[..rows], &f64s(&other));

    let [x_at, y_at, tail_x_at, tail_w_at] = [&x, &y, &tail_x, &tail_w].map(|values| case.buffer(values));
    let (values_at, scales_at) = (case.buffer(&values), case.buffer(&scales));
    let other_at = if writes_h { case.output(other.len()) } else { case.buffer(&other) };
    let affine_at = case.buffer(&if spec.gain { [gain, bias].concat() } else { bias });
    // Weights reach 1 in magnitude, 2.5 in the widest block types; tail products scale·strength = 1.5.
    let sum = Tolerance::sum(x_width + tail_columns, 2.5);
    // Gate and up multiply each other, and both may reach the root of their number of terms.
    let grown = ((x_width + tail_columns) as f64).sqrt();
    let activated = Tolerance { abs: 2.0 * grown * sum.abs, rel: sum.rel };
    let backward = gated_backward || matches!(spec.kind, ActivatedBackward { .. });
    case.expect(y_at, expected, if backward { activated } else { sum });
    if let Some(h) = h {
        case.expect(other_at, h, activated);
    }
    case.record(move |rec, b| {
        let format = WeightFormat::of(spec.dtype);
        let scales = (format.row_bytes(k).1 > 0).then_some(b[scales_at]);
        let w = Weight { format, rows: n, cols: k, first_row: 0, values: b[values_at], scales };
        let matrix = |at: usize, width: usize| Matrix { slice: b[at], width };
        let other = matrix(other_at, other_width);
        let tail = spec.has_tail().then(|| Tail {
            x: matrix(tail_x_at, tail_columns),
            w: b[tail_w_at],
            w_cols: tail_cols,
            scale: SCALE,
            segments: spec.segments(),
        });
        let store = match spec.kind {
            Replace => Store::Replace,
            Add => Store::Add,
            Residual => Store::Residual(other),
            Gated { add } => Store::Gated { act: spec.act, h: other, add },
            GatedBackward { add, finish } => Store::GatedBackward { act: spec.act, gate_up: other, add, finish },
            Activated { add } => Store::Activated { act: spec.act, h: other, add },
            ActivatedBackward { add, finish } => Store::ActivatedBackward { act: spec.act, before: other, add, finish },
        };
        let (x, y) = (matrix(x_at, x_width), matrix(y_at, y_width));
        if spec.transposed {
            matmul_transposed(rec, "product", Rows::TOKENS, x, &w, tail, y, store);
        } else {
            let affine = match spec.gain {
                true => Some(Affine::Gain(b[affine_at])),
                false => spec.bias.then_some(Affine::Bias(b[affine_at])),
            };
            matmul(rec, "product", Rows::TOKENS, x, &w, tail, affine, y, store);
        }
    });
    case
}

fn pad_rows(values: &[f32], k: usize) -> Vec<f32> {
    let mut padded = pad(values, k);
    padded.truncate(values.len() / k * stride(k));
    padded
}

/// The way back is the derivative of the way there, LoRA's term and the activation included.
#[test]
fn the_way_back_is_the_gradient() {
    let (t, n, k, r) = (3, 8, 11, 2);
    let spec = |transposed, kind| Spec::new(transposed, DType::F32, t, n, k, r, kind);
    let padded = |rows: usize, cols: usize, seed: u64| f64s(&pad_rows(&random(rows * cols, seed), cols));
    let (w, a, b) = (padded(n, k, 1), padded(stride(r), k, 2), padded(n, r, 3));
    let (x, c) = (padded(t, k, 4), padded(t, n / 2, 5));
    // Rows of `left` against rows or columns of `right`, at padded strides.
    let low_rank = |left: &[f64], width: usize, right: &dyn Fn(usize, usize) -> f64| {
        let mut out = vec![0.0; t * stride(r)];
        for (row, q) in (0..t).flat_map(|row| (0..r).map(move |q| (row, q))) {
            out[row * stride(r) + q] = (0..width).map(|i| left[row * stride(width) + i] * right(q, i)).sum();
        }
        out
    };
    // Gate and up by turns of four, then act(gate) · up, weighed by c.
    let gate_up = |x: &[f64]| {
        let xa = low_rank(x, k, &|q, i| a[q * stride(k) + i]);
        products(&spec(false, Replace), x, &w, &xa, &b)
    };
    let loss = |x: &[f64]| -> f64 {
        let (_, h) = stored((Gated { add: false }, Activation::GeluTanh), n, &gate_up(x), &[], &[]);
        h.unwrap_or_default().iter().zip(c.chunks(8).flat_map(|row| &row[..n / 2])).map(|(h, c)| h * c).sum()
    };
    let dh: Vec<f64> = c.chunks(8).flat_map(|row| row[..n / 2].to_vec()).collect();
    let dy: Vec<f64> = dh
        .chunks(4)
        .zip(gate_up(&x).chunks(8))
        .flat_map(|(dh, gate_up)| {
            let mut both = vec![0.0; 8];
            for (i, dh) in dh.iter().enumerate() {
                let (value, slope) = act(Activation::GeluTanh, gate_up[i]);
                (both[i], both[i + 4]) = (dh * gate_up[i + 4] * slope, dh * value);
            }
            both
        })
        .collect();
    let dxa = low_rank(&dy, n, &|q, j| b[j * stride(r) + q]);
    let dx = products(&spec(true, Replace), &dy, &w, &dxa, &a);
    let expected = finite_differences(&x, loss);
    for row in 0..t {
        let columns = row * stride(k)..row * stride(k) + k;
        assert_close(&dx[columns.clone()], &expected[columns]);
    }
}

fn cases(transposed: bool) -> Vec<Case> {
    let new = |dtype, t, n, k, rank, kind| Spec::new(transposed, dtype, t, n, k, rank, kind);
    let mut specs: Vec<Spec> = DType::ALL
        .into_iter()
        .map(|dtype| new(dtype, 19, 45, if dtype.block_len() == 1 { 72 } else { 256 }, 4, Replace))
        .collect();
    for (t, n, k, rank) in
        [(1, 1, 1, 0), (1, 3, 5, 1), (7, 8, 8, 3), (8, 9, 13, 8), (9, 311, 72, 0), (64, 64, 64, 16), (65, 70, 66, 5)]
    {
        specs.extend(
            [Replace, Add, Residual].map(|kind| new(DType::F32, t, n, k, rank, kind)).into_iter().take(if transposed {
                2
            } else {
                3
            }),
        );
    }
    // Large enough for four blocks a thread, with a block of rows and one of columns left over.
    specs.push(new(DType::F32, 73, 137, 150, 5, Add));
    specs.push(new(DType::Q4_1, 65, 150, 160, 8, Replace));
    // One row of each format, as in generating.
    for dtype in DType::ALL {
        specs.push(new(dtype, 1, 45, if dtype.block_len() == 1 { 333 } else { 512 }, 20, Add));
    }
    // SmolLM2's down_proj, its head's width, and its decoding.
    specs.push(new(DType::Q4_1, 16, 576, 1536, 8, Add));
    specs.push(new(DType::Q8_0, 3, 49152, 576, 0, Replace));
    specs.push(new(DType::Q4_1, 1, 1536, 576, 8, Replace));
    let several = |widths: &[usize], adapted: &[bool], layout, t, k, rank, kind| Spec {
        widths: widths.to_vec(),
        adapted: adapted.to_vec(),
        layout,
        ..new(DType::F32, t, 0, k, rank, kind)
    };
    for t in [1, 17, 70] {
        let beside = Layout::SideBySide;
        specs.push(several(&[60, 20, 20], &[true, false, true], beside, t, 44, 5, Replace));
        specs.push(several(&[576, 192, 192], &[true, true, true], beside, t, 64, 8, Replace));
        let turns = Layout::Interleaved;
        if transposed {
            specs.push(several(&[20, 20], &[true, true], turns, t, 12, 9, Replace));
            for (add, finish) in [(false, true), (false, false), (true, true)] {
                specs.push(new(DType::F32, t, 31, 77, 3, GatedBackward { add, finish }));
                specs.push(new(DType::F32, t, 31, 77, 3, ActivatedBackward { add, finish }).gelu());
            }
            specs.push(new(DType::F32, t, 31, 77, 3, GatedBackward { add: false, finish: true }).gelu());
        } else {
            specs.push(several(&[20, 20], &[false, true], turns, t, 12, 3, Gated { add: false }).gelu());
            specs.push(several(&[77, 77], &[true, true], turns, t, 40, 9, Gated { add: false }));
            specs.push(several(&[80, 80], &[false, false], turns, t, 40, 1, Gated { add: false }));
            specs.push(several(&[156], &[true], Layout::Halves, t, 40, 3, Gated { add: false }));
            specs.push(new(DType::F32, t, 77, 31, 3, Activated { add: false }).gelu().biased());
            specs.push(several(&[60, 20, 20], &[true, false, true], beside, t, 44, 5, Replace).biased());
            specs.push(new(DType::Q8_0, t, 45, 64, 0, Residual).biased());
            specs.push(new(DType::Q8_0, t, 45, 64, 3, Residual).gained());
            specs.push(several(&[77, 77], &[true, true], turns, t, 40, 9, Gated { add: true }).gained());
            specs.push(new(DType::F32, t, 77, 31, 3, Activated { add: true }).gained());
            specs.push(several(&[60, 20, 20], &[true, false, true], beside, t, 44, 5, Replace).gained());
        }
    }
    specs.iter().map(case).collect()
}

fn variant_cases(transposed: bool, variant: Variant) -> Vec<Case> {
    cases(transposed).into_iter().map(|case| case.variant(variant)).collect()
}

kernel_test!(matmul_matches, variant_cases(false, Variant::Direct));
kernel_test!(matmul_transposed_matches, variant_cases(true, Variant::Direct));
kernel_test!(matmul_tiled_matches, variant_cases(false, Variant::Tiled));
kernel_test!(matmul_transposed_tiled_matches, variant_cases(true, Variant::Tiled));

/// f16 rounds 8,192 times as coarsely, but the sums are f32: their share of the tolerance stays as it is.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn matmul_tiled_f16_matches() {
    let cases = variant_cases(false, Variant::TiledF16).into_iter().map(|case| case.loosened(1024.0));
    pollster::block_on(check_optional(Variant::TiledF16, cases.collect()));
}

subgroup_test!(matmul_matches_in_subgroups, cases(false));
subgroup_test!(matmul_transposed_matches_in_subgroups, cases(true));

fn dxa_case(n_tokens: usize, widths: &[usize], adapted: &[bool], layout: Layout, r: usize) -> Case {
    let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
    let mut case = Case::new(format!("{n_tokens} x {widths:?} {adapted:?} {layout:?}, rank {r}"), step);
    let factors = [0.5, 2.0, 1.0];
    let segments = Segments::new(layout, widths, adapted, r).with_factors(&factors);
    let width = layout.width(widths);
    let (dy, b) = (random_matrix(n_tokens, width, 1), random_matrix(width, r, 2));
    let mut expected = vec![0.0; n_tokens * segments.rank()];
    let slots = (0..widths.len()).filter(|&index| adapted[index]);
    for (slot, index) in slots.enumerate() {
        for (t, i) in (0..n_tokens).flat_map(|t| (0..r).map(move |i| (t, i))) {
            // Pads of an output have no gradient; here they hold numbers that nothing may depend on but zeros of b.
            let sum: f64 = (0..stride(widths[index]))
                .map(|column| layout.column(widths, index, column))
                .map(|j| f64::from(dy[t * stride(width) + j]) * f64::from(b[j * stride(r) + i]))
                .sum();
            expected[t * segments.rank() + slot * stride(r) + i] = f64::from(factors[slot]) * sum;
        }
    }
    let (dy_at, b_at) = (case.buffer(&dy), case.buffer(&b));
    let y_at = case.output(n_tokens.next_multiple_of(16) * segments.rank());
    case.record(move |rec, buffers| {
        let matrix = |at: usize, width| Matrix { slice: buffers[at], width };
        lora_dxa(rec, "dxa", matrix(dy_at, width), buffers[b_at], r, segments, matrix(y_at, segments.rank()));
    });
    case.expect(y_at, expected, Tolerance::sum(width, 2.0));
    case
}

kernel_test!(
    lora_dxa_matches,
    vec![
        dxa_case(1, &[1], &[true], Layout::SideBySide, 1),
        dxa_case(130, &[576], &[true], Layout::SideBySide, 8),
        dxa_case(17, &[60, 20, 20], &[true, false, true], Layout::SideBySide, 5),
        dxa_case(9, &[576, 192, 192], &[true, true, true], Layout::SideBySide, 16),
        dxa_case(33, &[77, 77], &[true, true], Layout::Interleaved, 12),
        dxa_case(8, &[20, 20], &[false, true], Layout::Interleaved, 70),
    ]
);
