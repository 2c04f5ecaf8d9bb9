//! What DoRA multiplies the columns of a product with (arXiv 2402.09353): `gain = m / ‖W + s B A‖`, a norm for each row
//! of W. Neither the sum nor its product is formed: a row is worked out eight columns at a time, and squared.

use bytemuck::{Pod, Zeroable};

use super::segments::{Segments, SegmentsParams};
use super::stride;
use super::weight::Weight;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup. Few: a narrow weight has no more rows than columns.
const WORKGROUP: u32 = 32;

/// `struct Params` of `shaders/dora_gain.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct DoraGainParams {
    n: u32,
    k8: u32,
    first: u32,
    rank4: u32,
    width: u32,
    scale: f32,
    _pad: [u32; 2],
    segments: SegmentsParams,
}

/// The adapter of a product's linears.
#[derive(Debug, Clone, Copy)]
pub struct DoraAdapter {
    /// `[segments.rank(), stride(in)]`.
    pub a: Slice,
    /// `[columns of the output, stride(r)]`.
    pub b: Slice,
    /// Columns of B.
    pub r: usize,
    /// f32 `[columns of the output]`.
    pub magnitude: Slice,
    /// LoRA's, multiplied by `step.strength`.
    pub scale: f32,
    /// Which columns are whose.
    pub segments: Segments,
}

/// Bytes of what is worked out for an output of so many columns, pads included: f32 `[3, width]`, gains, biases and norms.
pub fn gains_bytes(width: usize) -> u64 {
    3 * 4 * width as u64
}

/// Writes the gains, biases and norms of the columns that `w` is the weight of to `gains` ([`gains_bytes`] of `width`).
/// `bias` is f32 `[width]`; zeros without. At a `step.strength` other than 1 the magnitude is `(1 - strength) ‖W‖ + strength m`.
pub fn dora_gain(
    rec: &mut Recording,
    label: &str,
    w: &Weight,
    adapter: DoraAdapter,
    bias: Option<Slice>,
    width: usize,
    gains: Slice,
) {
    let DoraAdapter { a, b, r, magnitude, scale, segments } = adapter;
    assert_eq!(gains.size_bytes(), gains_bytes(width), "{label}: gains");
    assert!(magnitude.size_bytes() >= 4 * width as u64, "{label}: magnitudes of all columns");
    let params = DoraGainParams {
        n: w.rows as u32,
        k8: w.k8(),
        first: w.first_row as u32,
        rank4: stride(r) as u32 / 4,
        width: width as u32,
        scale,
        _pad: [0; 2],
        segments: segments.params,
    };
    let parts = [
        include_str!("../../shaders/shared/weight.wgsl"),
        w.format.shader(),
        include_str!("../../shaders/shared/segments.wgsl"),
        match bias {
            Some(_) => include_str!("../../shaders/shared/bias.wgsl"),
            None => include_str!("../../shaders/shared/bias_none.wgsl"),
        },
        include_str!("../../shaders/dora_gain.wgsl"),
    ];
    let [_, interleaved] = segments.constants();
    let shader = Shader::new("dora_gain", &[("WORKGROUP", WORKGROUP), interleaved], &parts);
    let bindings: Vec<Slice> = w.bindings().chain([a, b, magnitude, gains]).chain(bias).collect();
    let grid = [Extent::cover(params.n, WORKGROUP), Extent::Fixed(1), Extent::Fixed(1)];
    // However many tokens there are: a full pass has all of it.
    let flops = (2 * w.rows * w.cols * (r + 2)) as u64;
    rec.dispatch(label, &shader, &bindings, &params, grid, (Rows::TOKENS, flops / rec.capacity(Rows::TOKENS) as u64));
}

/// The same in f64 for whole rows at their padded strides: `(gains, norms)` of columns of which each has the rows of `a`
/// from its slot on, or none.
#[cfg(test)]
pub(super) fn dora_gain_reference(
    (w, cols): (&[f64], usize),
    (a, b, r): (&[f64], &[f64], usize),
    magnitude: &[f64],
    (scale, strength): (f64, f64),
    slot_of: &dyn Fn(usize) -> Option<(usize, f64)>,
) -> (Vec<f64>, Vec<f64>) {
    let (s, places) = (stride(cols), stride(r));
    let norm = |row: &dyn Fn(usize) -> f64| (0..cols).map(|k| row(k).powi(2)).sum::<f64>().sqrt();
    let of = |column: usize| {
        let Some((slot, factor)) = slot_of(column) else { return (1.0, 0.0) };
        let low_rank = |k: usize| -> f64 {
            (0..places).map(|i| b[column * places + i] * a[(slot * places + i) * s + k]).sum::<f64>()
        };
        let adapted = norm(&|k| w[column * s + k] + scale * strength * factor * low_rank(k));
        let own = norm(&|k| w[column * s + k]);
        let m = (1.0 - strength) * own + strength * magnitude[column];
        (if adapted > 0.0 { m / adapted } else { 1.0 }, adapted)
    };
    (0..magnitude.len()).map(of).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::io::{DType, dequantize};
    use crate::kernels::segments::Layout;
    use crate::kernels::testing::*;
    use crate::kernels::weight::{WeightFormat, random_blocks, repack};

    /// Widths of linears and which of them are adapted, in how they lie; with a weight in two parts where that is asked for.
    fn case(
        dtype: DType,
        cols: usize,
        r: usize,
        (layout, widths, adapted): (Layout, &[usize], &[bool]),
        strength: f32,
        parts: bool,
    ) -> Case {
        let step = Step { n_tokens: 1, strength, ..Default::default() };
        let name = format!("{dtype} {cols}, rank {r}, {widths:?} {adapted:?} {layout:?}, strength {strength}");
        let mut case = Case::new(name, step);
        let width = layout.width(widths);
        let factors = [1.0, 0.5, 2.0];
        let segments = Segments::new(layout, widths, adapted, r).with_factors(&factors[..widths.len()]);
        // Pads are rows of zeros in a model, and so are they here.
        let columns: Vec<Option<usize>> = (0..width)
            .map(|at| {
                let of = |&linear: &usize| (0..widths[linear]).any(|row| layout.column(widths, linear, row) == at);
                (0..widths.len()).find(of)
            })
            .collect();
        let mut blocks = random_blocks(dtype, width * cols, 1);
        let row_bytes = blocks.len() / width;
        let mut b = random_matrix(width, r, 3);
        let mut magnitude = random(width, 4);
        for at in (0..width).filter(|&at| columns[at].is_none()) {
            blocks[at * row_bytes..][..row_bytes].fill(0);
            b[at * stride(r)..][..stride(r)].fill(0.0);
            magnitude[at] = 0.0;
        }
        let w = pad(&dequantize(dtype, &blocks), cols);
        let a = random_matrix(segments.rank(), cols, 2);
        let bias = random(width, 5);
        let n_before = |linear: usize| adapted[..linear].iter().filter(|adapted| **adapted).count();
        let slot_of = |column: usize| {
            let segment = columns[column]?;
            adapted[segment].then(|| (n_before(segment), f64::from(factors[n_before(segment)])))
        };
        let (gains, norms) = dora_gain_reference(
            (&f64s(&w), cols),
            (&f64s(&a), &f64s(&b), r),
            &f64s(&magnitude),
            (1.5, strength.into()),
            &slot_of,
        );
        let at = [&a, &b, &magnitude, &bias].map(|values| case.buffer(values));
        let first = if parts { 8 } else { width };
        let weights: Vec<_> = [0..first, first..width]
            .into_iter()
            .filter(|rows| !rows.is_empty())
            .map(|rows| {
                let (values, scales) = repack(dtype, &blocks[rows.start * row_bytes..rows.end * row_bytes], cols);
                (rows, case.buffer(&values), case.buffer(&scales))
            })
            .collect();
        let gains_at = case.output(3 * width);
        // Sums of squares of sums of r terms, and a quotient and a root of them.
        let sum = Tolerance::sum(r, 1.0);
        let tolerance = Tolerance { abs: 4.0 * sum.abs, rel: 4e-6 };
        let mut expected = gains;
        expected.extend(f64s(&bias));
        expected.extend(norms);
        case.expect(gains_at, expected, tolerance);
        case.record(move |rec, buffers| {
            let [a, b, magnitude, bias] = at.map(|at| buffers[at]);
            let adapter = DoraAdapter { a, b, r, magnitude, scale: 1.5, segments };
            for (rows, values, scales) in &weights {
                let format = WeightFormat::of(dtype);
                let scales = (format.row_bytes(cols).1 > 0).then_some(buffers[*scales]);
                let (first_row, rows) = (rows.start, rows.len());
                let w = Weight { format, rows, cols, first_row, values: buffers[*values], scales };
                let gains = buffers[gains_at].range(0..gains_bytes(width));
                dora_gain(rec, "gain", &w, adapter, Some(bias), width, gains);
            }
        });
        case
    }

    use Layout::{Halves, Interleaved, SideBySide};
    kernel_test!(
        dora_gain_matches,
        vec![
            case(DType::F32, 1, 1, (SideBySide, &[1], &[true]), 1.0, false),
            case(DType::F32, 60, 5, (SideBySide, &[20, 12, 9], &[true, false, true]), 1.0, false),
            case(DType::Q4_1, 64, 13, (SideBySide, &[40, 24], &[true, true]), 1.0, true),
            case(DType::F16, 33, 8, (Interleaved, &[21, 21], &[true, true]), 1.0, false),
            case(DType::Q8_0, 96, 4, (Interleaved, &[16, 16], &[false, true]), 0.75, true),
            case(DType::F32, 20, 3, (Halves, &[24], &[true]), 2.0, false),
            case(DType::F32, 20, 3, (SideBySide, &[24], &[true]), 0.0, false),
        ]
    );

    /// A fresh adapter, and any at strength 0, multiplies with 1.
    #[test]
    fn the_norm_itself_gives_a_gain_of_one() {
        let (cols, rows, r) = (11, 6, 2);
        let [w, a, b] =
            [(rows, cols, 1), (stride(r), cols, 2), (rows, r, 3)].map(|(n, c, s)| f64s(&random_matrix(n, c, s)));
        let of = |m: &[f64], b: &[f64], strength: f64| {
            dora_gain_reference((&w, cols), (&a, b, r), m, (1.5, strength), &|_| Some((0, 1.0)))
        };
        let (_, norms) = of(&[1.0; 6], &vec![0.0; b.len()], 1.0);
        for gains in [of(&norms, &vec![0.0; b.len()], 1.0).0, of(&[9.0; 6], &b, 0.0).0] {
            assert!(gains.iter().all(|gain| (gain - 1.0).abs() < 1e-15), "{gains:?}");
        }
    }
}
