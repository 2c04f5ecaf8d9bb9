//! One step of AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2, as `torch.optim.AdamW`).

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

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
) {
    let size_bytes = n.next_multiple_of(4) as u64 * 4;
    let arrays = [params, grads, exp_avg, exp_avg_sq];
    assert!(arrays.iter().all(|slice| slice.size_bytes() >= size_bytes), "{label}: sizes for {n} parameters");
    let shader = Shader::new("adamw", &[("WORKGROUP", WORKGROUP)], &[include_str!("../../shaders/adamw.wgsl")]);
    let n4 = n.div_ceil(4) as u32;
    // As many rows of workgroups as it takes, of about the same length.
    let groups = n4.div_ceil(WORKGROUP);
    let rows = groups.div_ceil(MAX_GROUPS);
    let row_groups = groups.div_ceil(rows.max(1));
    let uniform = AdamWParams { n4, row_threads: row_groups * WORKGROUP, _pad: [0; 2] };
    let grid = [row_groups, rows, 1].map(Extent::Fixed);
    let bindings = [grads, metrics, params, exp_avg, exp_avg_sq];
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
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn step(t: i32) -> Step {
        let (beta1, beta2) = (0.9f32, 0.999f32);
        Step {
            learning_rate: 1e-2,
            bias_correction1: (1.0 - f64::from(beta1).powi(t)) as f32,
            bias_correction2: (1.0 - f64::from(beta2).powi(t)) as f32,
            beta1,
            beta2,
            eps: 1e-8,
            weight_decay: 0.1,
            ..Default::default()
        }
    }

    fn case(n: usize, t: i32, finite: bool) -> Case {
        let step = step(t);
        let mut case = Case::new(format!("{n}, step {t}, finite {finite}"), step);
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
        let expected = if finite { adamw_reference(&step, clip.into(), &p, &g, &m, &v) } else { [p, m, v] };
        let [params_at, grads_at, exp_avg_at, exp_avg_sq_at] = inputs.map(|values| case.buffer(values));
        let metrics_at = case.buffer(&[1.0, 1.0, clip, f32::from(u8::from(finite))]);
        case.record(move |rec, b| {
            let [params, grads, m, v] = [params_at, grads_at, exp_avg_at, exp_avg_sq_at].map(|at| b[at]);
            adamw(rec, "adamw", params, grads, m, v, n, b[metrics_at]);
        });
        let eps = f64::from(f32::EPSILON);
        // m is a difference of terms below 0.3; the update is below lr times a few, to 8 roundings.
        let m_tolerance = Tolerance { abs: 0.3 * eps, rel: 2.0 * eps };
        let v_tolerance = Tolerance { abs: f64::from(f32::MIN_POSITIVE), rel: 3.0 * eps };
        let p_tolerance = Tolerance { abs: 8.0 * eps * f64::from(step.learning_rate), rel: 2.0 * eps };
        let exact = Tolerance { abs: 0.0, rel: 0.0 };
        let [p, m, v] = expected;
        case.expect(params_at, p, if finite { p_tolerance } else { exact });
        case.expect(exp_avg_at, m, if finite { m_tolerance } else { exact });
        case.expect(exp_avg_sq_at, v, if finite { v_tolerance } else { exact });
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
        .map(|(n, t, finite)| case(n, t, finite))
        .into()
    );
}
