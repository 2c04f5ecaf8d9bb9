//! The loss that is reported: the mean over all supervised tokens of the optimiser step, collected pass by pass.

use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// `metrics[0] += step.loss_scale · Σ losses[i]` over the step's targets. `losses` is a whole number of vec4s, with
/// anything past the last target.
pub fn loss_sum(rec: &mut Recording, label: &str, losses: Slice, metrics: Slice) {
    let sources = [include_str!("../../shaders/shared/pairwise.wgsl"), include_str!("../../shaders/loss_sum.wgsl")];
    let shader = Shader::new("loss_sum", &[], &sources);
    rec.dispatch(
        label,
        &shader,
        &[losses, metrics],
        &[0u32; 4],
        [Extent::Fixed(1); 3],
        (Rows::targets(0, u32::MAX), 1),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn case(n_targets: usize) -> Case {
        let step = Step { n_targets: n_targets as u32, loss_scale: 1.0 / 7.0, ..Default::default() };
        let mut case = Case::new(format!("{n_targets}"), step);
        let losses: Vec<f32> = random(n_targets, 1).iter().map(|v| 6.0 + 6.0 * v).collect();
        let sum: f64 = f64s(&losses).iter().sum();
        let past_the_end = losses.iter().copied().chain([f32::NAN; 9]).collect::<Vec<f32>>();
        let (losses_at, metrics_at) = (case.buffer(&past_the_end), case.buffer(&[0.5f32]));
        case.record(move |rec, b| loss_sum(rec, "loss", b[losses_at], b[metrics_at]));
        // Half an ulp at each level of the tree at random, and a few more roundings at its top.
        let rel = f64::from(f32::EPSILON);
        case.expect(metrics_at, vec![0.5 + f64::from(step.loss_scale) * sum], Tolerance { abs: 0.0, rel });
        case
    }

    kernel_test!(loss_sum_matches, [0, 1, 2, 3, 4, 7, 64, 1000, 8191, 32_771].map(case).into());
}
