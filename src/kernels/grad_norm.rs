//! The global L2 norm of all gradients, the factor that clips it (`torch.nn.utils.clip_grad_norm_`), and whether this
//! step may be taken at all.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads that sum squares; a last one adds up their sums.
const N_PARTIALS: u32 = 2048;

/// `struct Params` of `shaders/grad_norm.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct GradNormParams {
    n4: u32,
    _pad: [u32; 3],
}

/// From `n` gradients, padded with zeros to a whole vec4, and the loss in `metrics[0]`, writes the rest of `metrics`:
/// `[1]` the norm, `[2]` the factor that clips it to `step.max_grad_norm` (1 where that is not positive), `[3]` 1.0 if
/// loss and norm are finite, else 0.0.
pub fn grad_norm(rec: &mut Recording, label: &str, grads: Slice, n: usize, metrics: Slice) {
    assert!(grads.size_bytes() >= n.next_multiple_of(4) as u64 * 4, "{label}: size of the gradients");
    let constants = [("N_PARTIALS", N_PARTIALS)];
    let scaled_squares = include_str!("../../shaders/shared/scaled_squares.wgsl");
    let pairwise = include_str!("../../shaders/shared/pairwise.wgsl");
    let [largest, sums] = ["largest", "sums"].map(|name| rec.floats(name, u64::from(N_PARTIALS)));

    let sources = [scaled_squares, include_str!("../../shaders/grad_norm.wgsl")];
    let partial = Shader::new("grad_norm", &constants, &sources);
    let params = GradNormParams { n4: n.div_ceil(4) as u32, _pad: [0; 3] };
    let grid = [Extent::cover(N_PARTIALS, 64), Extent::Fixed(1), Extent::Fixed(1)];
    rec.dispatch(label, &partial, &[grads, largest, sums], &params, grid, (Rows::TOKENS, 0));

    let sources = [scaled_squares, pairwise, include_str!("../../shaders/grad_norm_total.wgsl")];
    let total = Shader::new("grad_norm_total", &constants, &sources);
    rec.dispatch(label, &total, &[largest, sums, metrics], &[0u32; 4], [Extent::Fixed(1); 3], (Rows::TOKENS, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn case(name: &str, loss: f32, grads: &[f32], max_grad_norm: f32) -> Case {
        let mut case = Case::new(format!("{name} {}", grads.len()), Step { max_grad_norm, ..Default::default() });
        let n = grads.len();
        let (grads_at, metrics_at) = (case.buffer(grads), case.buffer(&[loss, 5.0, 5.0, 5.0]));
        let flag_at = case.output(1);
        case.record(move |rec, b| {
            grad_norm(rec, "norm", b[grads_at], n, b[metrics_at]);
            rec.copy(b[metrics_at].range(12..16), b[flag_at].range(0..4));
        });
        let norm = f64s(grads).iter().map(|g| g * g).sum::<f64>().sqrt();
        let finite = norm.is_finite() && norm < f64::from(f32::MAX) && loss.is_finite();
        if finite {
            let max_norm = f64::from(max_grad_norm);
            let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
            // Chains of sums are short and thousands of them average out; then roundings of a root and a quotient.
            let tolerance = Tolerance { abs: 0.0, rel: 5.0 * f64::from(f32::EPSILON) };
            case.expect(metrics_at, vec![f64::from(loss), norm, clip, 1.0], tolerance);
        }
        case.expect(flag_at, vec![f64::from(u8::from(finite))], Tolerance { abs: 0.0, rel: 0.0 });
        case
    }

    fn cases() -> Vec<Case> {
        let scaled = |n: usize, scale: f32| random(n, n as u64).iter().map(|v| v * scale).collect::<Vec<_>>();
        let with = |n: usize, at: usize, value: f32| {
            let mut grads = random(n, 1);
            grads[at] = value;
            grads
        };
        let mut cases: Vec<Case> =
            [1, 3, 4, 255, 256, 257, 8191, 8193, 100_000].map(|n| case("clipped", 2.0, &scaled(n, 1.0), 0.25)).into();
        cases.extend([
            case("larger than a square can be", 2.0, &scaled(1000, 1e30), 1.0),
            case("smaller than a square can be", 2.0, &scaled(1000, 1e-28), 1.0),
            case("all scales", 2.0, &(0..70_000).map(|i| 1.5f32.powi(i % 180 - 120)).collect::<Vec<_>>(), 1.0),
            case("not clipped", 2.0, &scaled(300, 1e-3), 1.0),
            case("no clipping", 2.0, &scaled(300, 1e3), 0.0),
            case("zero", 2.0, &[0.0; 70], 1.0),
            case("infinite", 2.0, &with(20_000, 19_999, f32::INFINITY), 1.0),
            case("NaN", 2.0, &with(9, 4, f32::NAN), 1.0),
            case("negative NaN", 2.0, &with(9, 0, -f32::NAN), 1.0),
            case("an infinite norm", 2.0, &[3e38; 9], 1.0),
            case("a loss of NaN", f32::NAN, &scaled(9, 1.0), 1.0),
            case("an infinite loss", f32::NEG_INFINITY, &scaled(9, 1.0), 0.0),
        ]);
        cases
    }

    kernel_test!(grad_norm_matches, cases());
}
