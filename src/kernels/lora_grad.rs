//! Gradients of LoRA's factors (arXiv 2106.09685, section 4.1). For `y += s · (x Aᵀ) Bᵀ`, with `xa = x Aᵀ` and `dxa = dy B`:
//! `dA = s · dxaᵀ x` and `dB = s · dyᵀ xa`. All those of half a layer are one dispatch.

use bytemuck::{Pod, Zeroable};

use super::eight::Eight;
use super::segments::{Segments, SegmentsParams};
use super::{Matrix, stride};
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup. Few: a narrow weight has only as many blocks as it has columns in eights.
const WORKGROUP: u32 = 32;

/// Linears that read one matrix and write one, of which some are adapted.
#[derive(Debug, Clone, Copy)]
pub struct LoraGroup {
    /// `[n_tokens, in]`.
    pub x: Matrix,
    /// `[n_tokens, columns of the output]`.
    pub dy: Matrix,
    /// `x Aᵀ` `[n_tokens, segments.rank()]`, a part of the buffer that all groups share.
    pub xa: Matrix,
    /// `dy B`, the same.
    pub dxa: Matrix,
    /// Which columns of `dy` belong to which of `xa`.
    pub segments: Segments,
    /// LoRA's.
    pub scale: f32,
    /// Where dA `[segments.rank(), stride(in)]` starts in the gradients, in bytes.
    pub a_offset: u64,
    /// Where dB `[columns of the output, stride(r)]` starts in the gradients, in bytes.
    pub b_offset: u64,
}

/// `struct Group` of `shaders/lora_grad.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
struct GroupParams {
    x_stride4: u32,
    dy_stride4: u32,
    xa_at4: u32,
    xa_stride4: u32,
    da_at4: u32,
    db_at4: u32,
    da_across: u32,
    da_workgroups: u32,
    db_across: u32,
    db_workgroups: u32,
    scale: f32,
    _pad: u32,
    segments: SegmentsParams,
}

/// `struct Params` of `shaders/lora_grad.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct LoraGradParams {
    rows: Rows,
    rank4: u32,
    trained8: u32,
    _pad: [u32; 2],
    groups: [GroupParams; 2],
}

impl GroupParams {
    fn new(group: &LoraGroup, r: usize, xa: Slice) -> Self {
        let [x_stride4, dy_stride4] = [group.x, group.dy].map(|matrix| matrix.stride() as u32 / 4);
        // Two vec4s a thread.
        let across = |stride4: u32| stride4.div_ceil(2 * WORKGROUP);
        let blocks = |columns: usize| columns as u32 / 8;
        Self {
            x_stride4,
            dy_stride4,
            xa_at4: (group.xa.slice.offset_in(xa) / 16) as u32,
            xa_stride4: group.xa.stride() as u32 / 4,
            da_at4: (group.a_offset / 16) as u32,
            db_at4: (group.b_offset / 16) as u32,
            da_across: across(x_stride4),
            da_workgroups: across(x_stride4) * blocks(group.segments.rank()),
            db_across: across(dy_stride4),
            db_workgroups: across(dy_stride4) * blocks(stride(r)),
            scale: group.scale,
            _pad: 0,
            segments: group.segments.params,
        }
    }

    fn workgroups(&self) -> u32 {
        self.da_workgroups + self.db_workgroups
    }
}

/// Adds the gradients of one or two `groups` of linears to `grads`. `xa` and `dxa` are the buffers that hold those of all
/// groups, laid out alike; `r` is the rank, of which the first `trained` have gradients.
pub fn lora_grad(
    rec: &mut Recording,
    label: &str,
    groups: &[LoraGroup],
    xa: Slice,
    dxa: Slice,
    r: usize,
    trained: usize,
    grads: Slice,
) {
    assert!((1..=2).contains(&groups.len()), "{label}: one or two groups");
    assert!(groups.iter().all(|g| g.xa.slice.offset_in(xa) == g.dxa.slice.offset_in(dxa)), "{label}: xa and dxa");
    let first = groups[0];
    let second = groups.last().copied().unwrap_or(first);
    let mut params = LoraGradParams {
        rows: Rows::TOKENS,
        rank4: stride(r) as u32 / 4,
        trained8: stride(trained) as u32 / 8,
        _pad: [0; 2],
        groups: [GroupParams::new(&first, r, xa), GroupParams::default()],
    };
    if groups.len() == 2 {
        params.groups[1] = GroupParams::new(&second, r, xa);
    }
    let [[(_, n_segments0), (_, interleaved0)], [(_, n_segments1), (_, interleaved1)]] =
        [&first, &second].map(|group| group.segments.constants());
    let constants = [
        ("WORKGROUP", WORKGROUP),
        ("N_SEGMENTS_0", n_segments0),
        ("N_SEGMENTS_1", n_segments1),
        ("INTERLEAVED_0", interleaved0),
        ("INTERLEAVED_1", interleaved1),
    ];
    let eight = Eight::of(rec.variant(), rec.capacity(params.rows));
    let group = |index: &str| include_str!("../../shaders/shared/lora_grad_group.wgsl").replace("INDEX", index);
    let parts = [
        eight.shader(),
        include_str!("../../shaders/shared/segments.wgsl"),
        include_str!("../../shaders/lora_grad.wgsl"),
        &eight.load("xa"),
        &eight.load("dxa"),
        &group("0"),
        &group("1"),
    ];
    let shader = Shader::new("lora_grad", &constants, &parts);
    let workgroups = params.groups.iter().map(GroupParams::workgroups).sum();
    let grid = [Extent::Fixed(workgroups), Extent::Fixed(1), Extent::Fixed(1)];
    let bindings = [first.x.slice, first.dy.slice, second.x.slice, second.dy.slice, xa, dxa, grads];
    let flops = groups.iter().map(|g| 2 * (g.x.width * g.segments.rank() + g.dy.width * r) as u64).sum();
    rec.dispatch(label, &shader, &bindings, &params, grid, (params.rows, flops));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::segments::Layout;
    use crate::kernels::testing::*;

    const SCALE: f32 = 1.5;

    /// Linears of a group: width of the input, widths of the outputs and which are adapted, how they lie.
    struct Spec(usize, &'static [usize], &'static [bool], Layout);

    fn case(n_tokens: usize, r: usize, specs: &[Spec]) -> Case {
        partly_trained(n_tokens, r, r, specs)
    }

    fn partly_trained(n_tokens: usize, r: usize, trained: usize, specs: &[Spec]) -> Case {
        let step = Step { n_tokens: n_tokens as u32, ..Default::default() };
        let names: Vec<String> = specs.iter().map(|s| format!("{} to {:?} {:?} {:?}", s.0, s.1, s.2, s.3)).collect();
        let mut case = Case::new(format!("{n_tokens} tokens, rank {r}, {trained}: {}", names.join(" and ")), step);
        let segments: Vec<Segments> = specs.iter().map(|s| Segments::new(s.3, s.1, s.2, r)).collect();
        // Pad columns of the low-rank values are zero; rows past the last are what nothing may depend on.
        let low_rank = |columns: usize, seed: u64| -> Vec<f32> {
            let mut values = random_matrix(n_tokens, columns, seed);
            for (at, value) in values.iter_mut().enumerate() {
                if at % columns % stride(r) >= r {
                    *value = 0.0;
                }
                if at / columns >= n_tokens {
                    *value = f32::NAN;
                }
            }
            values
        };
        let (mut xa, mut dxa) = (vec![], vec![]);
        let (mut grads, mut groups) = (vec![], vec![]);
        for (index, (spec, segments)) in specs.iter().zip(&segments).enumerate() {
            let seed = 10 * index as u64;
            let dy_width = spec.3.width(spec.1);
            let (x, dy) = (random_matrix(n_tokens, spec.0, seed), random_matrix(n_tokens, dy_width, seed + 1));
            let (this_xa, this_dxa) = (low_rank(segments.rank(), seed + 2), low_rank(segments.rank(), seed + 3));
            // dA, then dB from the next multiple of 256 bytes on; both hold something before.
            let a_offset = grads.len();
            let b_offset = a_offset + (segments.rank() * stride(spec.0)).next_multiple_of(64);
            grads.extend(random((b_offset - a_offset + dy_width * stride(r)).next_multiple_of(64), seed + 4));
            groups.push((case.buffer(&x), case.buffer(&dy), x, dy, xa.len(), this_xa.clone(), this_dxa.clone()));
            xa.extend(this_xa);
            dxa.extend(this_dxa);
            groups.last_mut().expect("just pushed").4 = 4 * (xa.len() - groups[index].5.len());
        }
        let mut expected = f64s(&grads);
        let mut at = 0;
        let mut offsets = vec![];
        for (index, (spec, segments)) in specs.iter().zip(&segments).enumerate() {
            let (_, _, x, dy, _, xa, dxa) = &groups[index];
            let (in_stride, rank, dy_width) = (stride(spec.0), segments.rank(), spec.3.width(spec.1));
            let b_at = at + (rank * in_stride).next_multiple_of(64);
            offsets.push((4 * at as u64, 4 * b_at as u64));
            let is_trained = |i: usize| if i % stride(r) < stride(trained) { f64::from(SCALE) } else { 0.0 };
            let sum = |a: &[f32], a_columns: usize, i: usize, b: &[f32], b_columns: usize, j: usize| -> f64 {
                let products = (0..n_tokens).map(|t| f64::from(a[t * a_columns + i]) * f64::from(b[t * b_columns + j]));
                products.sum::<f64>()
            };
            for (i, j) in (0..rank).flat_map(|i| (0..in_stride).map(move |j| (i, j))) {
                expected[at + i * in_stride + j] += is_trained(i) * sum(dxa, rank, i, x, in_stride, j);
            }
            let slots = (0..spec.1.len()).filter(|&linear| spec.2[linear]);
            for (slot, linear) in slots.enumerate() {
                for (row, i) in (0..spec.1[linear]).flat_map(|row| (0..stride(r)).map(move |i| (row, i))) {
                    let j = spec.3.column(spec.1, linear, row);
                    let sum = sum(dy, dy_width, j, xa, rank, slot * stride(r) + i);
                    expected[b_at + j * stride(r) + i] += is_trained(i) * sum;
                }
                // Pad columns of dy are zero in a real pass; here their rows of dB are left out of the comparison.
                for row in spec.1[linear]..stride(spec.1[linear]) {
                    let j = spec.3.column(spec.1, linear, row);
                    for i in 0..stride(r) {
                        let sum = sum(dy, dy_width, j, xa, rank, slot * stride(r) + i);
                        expected[b_at + j * stride(r) + i] += is_trained(i) * sum;
                    }
                }
            }
            at = (b_at + dy_width * stride(r)).next_multiple_of(64);
        }
        let (xa_at, dxa_at, grads_at) = (case.buffer(&xa), case.buffer(&dxa), case.buffer(&grads));
        let parts: Vec<_> = groups.iter().map(|group| (group.0, group.1, group.4, group.5.len())).collect();
        let widths: Vec<(usize, usize)> = specs.iter().map(|s| (s.0, s.3.width(s.1))).collect();
        case.record(move |rec, b| {
            let group = |index: usize| {
                let (x, dy, at, n) = parts[index];
                let part = |whole: Slice| Matrix {
                    slice: whole.range(at as u64..(at + 4 * n) as u64),
                    width: segments[index].rank(),
                };
                LoraGroup {
                    x: Matrix { slice: b[x], width: widths[index].0 },
                    dy: Matrix { slice: b[dy], width: widths[index].1 },
                    xa: part(b[xa_at]),
                    dxa: part(b[dxa_at]),
                    segments: segments[index],
                    scale: SCALE,
                    a_offset: offsets[index].0,
                    b_offset: offsets[index].1,
                }
            };
            let groups: Vec<LoraGroup> = (0..parts.len()).map(group).collect();
            lora_grad(rec, "grad", &groups, b[xa_at], b[dxa_at], r, trained, b[grads_at]);
        });
        case.expect(grads_at, expected, Tolerance::sum(n_tokens, 1.5));
        case
    }

    use Layout::{Interleaved, SideBySide};
    fn cases() -> Vec<Case> {
        vec![
            case(1, 1, &[Spec(1, &[1], &[true], SideBySide)]),
            case(
                33,
                5,
                &[Spec(60, &[60, 20, 20], &[true, false, true], SideBySide), Spec(60, &[60], &[true], SideBySide)],
            ),
            case(70, 8, &[Spec(72, &[300, 300], &[true, true], Interleaved), Spec(300, &[72], &[true], SideBySide)]),
            case(9, 20, &[Spec(40, &[77, 77], &[false, true], Interleaved)]),
            partly_trained(21, 13, 5, &[Spec(60, &[60, 20], &[true, true], SideBySide)]),
            case(17, 16, &[Spec(576, &[576, 192, 192], &[true, true, true], SideBySide)]),
        ]
    }

    kernel_test!(lora_grad_matches, cases());
    subgroup_test!(lora_grad_matches_in_subgroups, cases());

    /// The products in the reference are the gradients of a loss `Σ c · s · (x Aᵀ) Bᵀ`.
    #[test]
    fn the_products_are_the_gradients() {
        let (t, n_in, n_out, r) = (3, 5, 4, 2);
        let [x, c] = [(t * n_in, 1), (t * n_out, 2)].map(|(n, seed)| f64s(&random(n, seed)));
        let [a, b] = [(r * n_in, 3), (n_out * r, 4)].map(|(n, seed)| f64s(&random(n, seed)));
        let low = |left: &[f64], right: &dyn Fn(usize, usize) -> f64, width: usize| -> Vec<f64> {
            let at = (0..t).flat_map(|row| (0..r).map(move |q| (row, q)));
            at.map(|(row, q)| (0..width).map(|i| left[row * width + i] * right(q, i)).sum()).collect()
        };
        let loss = |a: &[f64], b: &[f64]| -> f64 {
            let xa = low(&x, &|q, i| a[q * n_in + i], n_in);
            let y = |row: usize, o: usize| (0..r).map(|q| xa[row * r + q] * b[o * r + q]).sum::<f64>();
            (0..t * n_out).map(|at| f64::from(SCALE) * c[at] * y(at / n_out, at % n_out)).sum()
        };
        let (xa, dxa) = (low(&x, &|q, i| a[q * n_in + i], n_in), low(&c, &|q, o| b[o * r + q], n_out));
        let product = |left: &[f64], n: usize, right: &[f64], m: usize| -> Vec<f64> {
            let at = (0..n).flat_map(|i| (0..m).map(move |j| (i, j)));
            let sum = |(i, j)| f64::from(SCALE) * (0..t).map(|row| left[row * n + i] * right[row * m + j]).sum::<f64>();
            at.map(sum).collect()
        };
        assert_close(&product(&dxa, r, &x, n_in), &finite_differences(&a, |a| loss(a, &b)));
        assert_close(&product(&c, n_out, &xa, r), &finite_differences(&b, |b| loss(&a, b)));
    }
}
