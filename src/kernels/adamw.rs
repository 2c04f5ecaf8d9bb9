//! One step of AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2, as `torch.optim.AdamW`).

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Extent, Grid, Recording, Rows, Shader, Slice};

/// Workgroups that WebGPU allows along an axis.
const MAX_GROUPS: u32 = 65_535;
/// Threads of a workgroup.
const WORKGROUP: u32 = 64;

/// `struct Params` of `shaders/adamw.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct AdamWParams {
    n4: u32,
    row_threads: u32,
    _pad: [u32; 2],
}

/// Which learning rate a parameter has.
#[derive(Debug, Clone, Copy)]
pub enum Rates {
    /// `step.learning_rate`.
    One,
    /// Those of every B `step.learning_rate_b`, and all others that one (LoRA+, arXiv 2402.12354). The slice, `array<u32>`,
    /// has a bit for every [`RATE_BLOCK_BYTES`] of parameters, the lowest bits first: 1 for B.
    OfB(Slice),
    /// A [`Rate`] for every vec4, as [`rate_codes`] packs them.
    Each(Slice),
    /// `step.learning_rate_b`, and no weight decay.
    Undecayed,
}

/// The learning rate of four neighbouring parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// `step.learning_rate`.
    One = 0,
    /// `step.learning_rate_b`.
    OfB = 1,
    /// None: they stay as they are.
    None = 2,
}

/// Two bits for every rate, `array<u32>`, the lowest first.
pub fn rate_codes(rates: &[Rate]) -> Vec<u32> {
    let pack = |rates: &[Rate]| rates.iter().rev().fold(0, |codes, &rate| codes << 2 | rate as u32);
    rates.chunks(16).map(pack).collect()
}

/// Parameters have one learning rate in blocks of so many bytes.
pub const RATE_BLOCK_BYTES: u64 = 256;

impl Rates {
    pub(super) fn shader(self) -> &'static str {
        match self {
            Self::One => include_str!("../../shaders/shared/rate_one.wgsl"),
            Self::OfB(_) => include_str!("../../shaders/shared/rate_of_b.wgsl"),
            Self::Each(_) => include_str!("../../shaders/shared/rate_each.wgsl"),
            Self::Undecayed => include_str!("../../shaders/shared/rate_undecayed.wgsl"),
        }
    }

    pub(super) fn binding(self) -> Option<Slice> {
        match self {
            Self::One | Self::Undecayed => None,
            Self::OfB(is_b) => Some(is_b),
            Self::Each(codes) => Some(codes),
        }
    }
}

/// The bits of [`Rates::OfB`] for parameters of `size_bytes` of which `ranges`, in bytes, are those of Bs. These begin
/// where a block does, and nothing else is in the block where one ends.
pub fn rate_bits(size_bytes: u64, ranges: impl Iterator<Item = std::ops::Range<u64>>) -> Vec<u32> {
    let mut bits = vec![0u32; size_bytes.div_ceil(32 * RATE_BLOCK_BYTES) as usize];
    for range in ranges {
        assert!(range.start % RATE_BLOCK_BYTES == 0, "a B within a block");
        for block in range.start / RATE_BLOCK_BYTES..range.end.div_ceil(RATE_BLOCK_BYTES) {
            bits[block as usize / 32] |= 1 << (block % 32);
        }
    }
    bits
}

/// As many rows of workgroups as it takes, of about the same length: `(workgroups in a row, grid)`.
pub(super) fn grid(groups: u32) -> (u32, Grid) {
    let rows = groups.div_ceil(MAX_GROUPS);
    let row_groups = groups.div_ceil(rows.max(1));
    (row_groups, [row_groups, rows, 1].map(Extent::Fixed))
}

/// Updates `n` parameters and their moments `exp_avg` and `exp_avg_sq` from `grads`; all are padded with zeros to a
/// whole vec4, and these stay zero. `metrics` are as [`super::grad_norm::grad_norm`] leaves them: gradients are
/// multiplied by `metrics[2]`, and nothing changes at all when `metrics[3]` is 0.
pub fn adamw(
    rec: &mut Recording,
    label: &str,
    params: Slice,
    grads: Slice,
    exp_avg: Slice,
    exp_avg_sq: Slice,
    n: usize,
    metrics: Slice,
    rates: Rates,
) {
    let size_bytes = n.next_multiple_of(4) as u64 * 4;
    let arrays = [params, grads, exp_avg, exp_avg_sq];
    assert!(arrays.iter().all(|slice| slice.size_bytes() >= size_bytes), "{label}: sizes for {n} parameters");
    let parts =
        [include_str!("../../shaders/shared/adamw.wgsl"), rates.shader(), include_str!("../../shaders/adamw.wgsl")];
    let shader = Shader::new("adamw", &[("WORKGROUP", WORKGROUP)], &parts);
    let n4 = n.div_ceil(4) as u32;
    let (row_groups, grid) = grid(n4.div_ceil(WORKGROUP));
    let uniform = AdamWParams { n4, row_threads: row_groups * WORKGROUP, _pad: [0; 2] };
    let bindings = [grads, metrics, params, exp_avg, exp_avg_sq];
    let bindings: Vec<Slice> = bindings.into_iter().chain(rates.binding()).collect();
    rec.dispatch(label, &shader, &bindings, &uniform, grid, (Rows::TOKENS, 0));
}

/// `(params, exp_avg, exp_avg_sq)` afterwards in f64.
#[cfg(test)]
pub(crate) fn adamw_reference(
    step: &crate::gpu::Step,
    clip: f64,
    params: &[f64],
    grads: &[f64],
    exp_avg: &[f64],
    exp_avg_sq: &[f64],
) -> [Vec<f64>; 3] {
    let [lr, beta1, beta2] = [step.learning_rate, step.beta1, step.beta2].map(f64::from);
    let [correction1, correction2] = [step.bias_correction1, step.bias_correction2].map(f64::from);
    let lerp = |from: &[f64], beta: f64, to: &dyn Fn(usize) -> f64| -> Vec<f64> {
        from.iter().enumerate().map(|(i, from)| beta * from + (1.0 - beta) * to(i)).collect()
    };
    let m = lerp(exp_avg, beta1, &|i| clip * grads[i]);
    let v = lerp(exp_avg_sq, beta2, &|i| (clip * grads[i]).powi(2));
    let updated = (0..params.len())
        .map(|i| {
            let denom = (v[i] / correction2).sqrt() + f64::from(step.eps);
            params[i] * (1.0 - lr * f64::from(step.weight_decay)) - lr / correction1 * m[i] / denom
        })
        .collect();
    [updated, m, v]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    pub(in crate::kernels) fn step(t: i32) -> Step {
        let (beta1, beta2) = (0.9f32, 0.999f32);
        Step {
            learning_rate: 1e-2,
            learning_rate_b: 4e-2,
            bias_correction1: (1.0 - f64::from(beta1).powi(t)) as f32,
            bias_correction2: (1.0 - f64::from(beta2).powi(t)) as f32,
            beta1,
            beta2,
            eps: 1e-8,
            weight_decay: 0.1,
            ..Default::default()
        }
    }

    /// Bs in `b_ranges`, in bytes.
    fn case(n: usize, t: i32, finite: bool, b_ranges: &[std::ops::Range<u64>]) -> Case {
        let step = step(t);
        let mut case = Case::new(format!("{n}, step {t}, finite {finite}, Bs in {b_ranges:?}"), step);
        // All scales of gradient; moments zero before the first step.
        let grads: Vec<f32> = random(n, 2).iter().enumerate().map(|(i, g)| g * 10f32.powi(i as i32 % 12 - 8)).collect();
        let before = f32::from(u8::from(t > 1));
        let params = random(n, 1);
        let exp_avg: Vec<f32> = random(n, 3).iter().map(|m| 0.1 * m * before).collect();
        // A mean square is at least the squared mean.
        let spread = random(n, 4).into_iter().map(|v| 0.01 * v * v * before);
        let exp_avg_sq: Vec<f32> = exp_avg.iter().zip(spread).map(|(m, spread)| m * m + spread).collect();
        let clip = 0.3f32;
        let inputs = [&params, &grads, &exp_avg, &exp_avg_sq];
        let [p, g, m, v] = inputs.map(|values| f64s(values));
        let step_b = Step { learning_rate: step.learning_rate_b, ..step };
        let [expected, expected_b] = [step, step_b].map(|step| match finite {
            true => adamw_reference(&step, clip.into(), &p, &g, &m, &v),
            false => [p.clone(), m.clone(), v.clone()],
        });
        let is_b = |at: usize| b_ranges.iter().any(|range| range.contains(&(at as u64 * 4)));
        let updated = (0..n).map(|at| if is_b(at) { expected_b[0][at] } else { expected[0][at] });
        let updated: Vec<f64> = updated.collect();
        let [params_at, grads_at, exp_avg_at, exp_avg_sq_at] = inputs.map(|values| case.buffer(values));
        let metrics_at = case.buffer(&[1.0, 1.0, clip, f32::from(u8::from(finite))]);
        let bits_at = case.buffer(&rate_bits(n.next_multiple_of(4) as u64 * 4, b_ranges.iter().cloned()));
        let all_alike = b_ranges.is_empty();
        case.record(move |rec, b| {
            let [params, grads, m, v] = [params_at, grads_at, exp_avg_at, exp_avg_sq_at].map(|at| b[at]);
            let rates = if all_alike { Rates::One } else { Rates::OfB(b[bits_at]) };
            adamw(rec, "adamw", params, grads, m, v, n, b[metrics_at], rates);
        });
        let eps = f64::from(f32::EPSILON);
        // m is a difference of terms below 0.3; the update is below lr times a few, to 8 roundings.
        let m_tolerance = Tolerance { abs: 0.3 * eps, rel: 2.0 * eps };
        let v_tolerance = Tolerance { abs: f64::from(f32::MIN_POSITIVE), rel: 3.0 * eps };
        let rate = if b_ranges.is_empty() { step.learning_rate } else { step.learning_rate_b };
        let p_tolerance = Tolerance { abs: 8.0 * eps * f64::from(rate), rel: 2.0 * eps };
        let exact = Tolerance { abs: 0.0, rel: 0.0 };
        let [_, m, v] = expected;
        case.expect(params_at, updated, if finite { p_tolerance } else { exact });
        case.expect(exp_avg_at, m, if finite { m_tolerance } else { exact });
        case.expect(exp_avg_sq_at, v, if finite { v_tolerance } else { exact });
        case
    }

    /// Every rate by turns of four numbers, or that of Bs without decay for all.
    fn each_case(n: usize, undecayed: bool) -> Case {
        let step = step(3);
        let mut case = Case::new(format!("{n}, each rate or undecayed: {undecayed}"), step);
        let [params, grads, moments] = [1, 2, 3].map(|seed| random(n, seed));
        let squares: Vec<f32> = moments.iter().map(|m| m * m).collect();
        let [p, g, m, v] = [&params, &grads, &moments, &squares].map(|values| f64s(values));
        let of = |learning_rate: f32| {
            let weight_decay = if undecayed { 0.0 } else { step.weight_decay };
            let [updated, ..] = adamw_reference(&Step { learning_rate, weight_decay, ..step }, 1.0, &p, &g, &m, &v);
            updated
        };
        let all = [Rate::One, Rate::OfB, Rate::None];
        let by_rate = [step.learning_rate, step.learning_rate_b, 0.0].map(of);
        let rate_at = |at: usize| if undecayed { 1 } else { at / 4 % 3 };
        let expected = (0..n).map(|at| by_rate[rate_at(at)][at]).collect();
        let rates: Vec<Rate> = (0..n.div_ceil(4)).map(|at| all[at % 3]).collect();
        let inputs = [&params, &grads, &moments, &squares].map(|values| case.buffer(values));
        let metrics_at = case.buffer(&[1.0, 1.0, 1.0, 1.0f32]);
        let codes_at = case.buffer(&rate_codes(&rates));
        case.record(move |rec, b| {
            let [params, grads, m, v] = inputs.map(|at| b[at]);
            let rates = if undecayed { Rates::Undecayed } else { Rates::Each(b[codes_at]) };
            adamw(rec, "adamw", params, grads, m, v, n, b[metrics_at], rates);
        });
        // As above, to 8 roundings of an update.
        let abs = 8.0 * f64::from(f32::EPSILON) * f64::from(step.learning_rate_b);
        case.expect(inputs[0], expected, Tolerance { abs, rel: 2.0 * f64::from(f32::EPSILON) });
        case
    }

    kernel_test!(
        adamw_matches,
        [
            (1, 1, true),
            (3, 2, true),
            (255, 1, true),
            (256, 7, true),
            (257, 1000, true),
            (100_003, 10, true),
            (70, 3, false)
        ]
        .map(|(n, t, finite)| case(n, t, finite, &[]))
        .into_iter()
        .chain([
            case(64, 1, true, std::slice::from_ref(&(0..256))),
            case(1000, 5, true, &[256..1280, 3840..4000]),
            case(100_003, 10, true, &[1024..40_960, 65_536..65_792, 300_032..399_872]),
            each_case(130, false),
            each_case(130, true),
        ])
        .collect()
    );
}
