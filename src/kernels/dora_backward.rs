//! The way back through DoRA's gains (arXiv 2402.09353, section 4.3): of `y = gain ⊙ z + bias` with `gain = m / norm` and a
//! norm that counts as a constant, `dm = Σ_t dy ⊙ z / norm` and `dz = gain ⊙ dy`.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup. Few: there is one for four columns.
const WORKGROUP: u32 = 32;

/// `struct Params` of `shaders/dora_backward.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct DoraBackwardParams {
    rows: Rows,
    stride4: u32,
    _pad: [u32; 3],
}

/// Adds to `dm` (f32, as long as a row of `dy`) and turns `z` into the gradient on it; with `dropped`, that becomes
/// `(gain - 1) ⊙ dy`. `gains` are as [`super::dora_gain::dora_gain`] leaves them; the matrices are `[n_tokens, width]`.
pub fn dora_backward(
    rec: &mut Recording,
    label: &str,
    dy: Matrix,
    gains: Slice,
    z: Matrix,
    dropped: Option<Matrix>,
    dm: Slice,
) {
    assert_eq!(dy.stride(), z.stride(), "{label}: columns of dy and z");
    let rows = Rows::TOKENS;
    let params = DoraBackwardParams { rows, stride4: dy.stride() as u32 / 4, _pad: [0; 3] };
    let parts = [
        match dropped {
            Some(_) => include_str!("../../shaders/shared/dora_under_dropout.wgsl"),
            None => include_str!("../../shaders/shared/dora_all_kept.wgsl"),
        },
        include_str!("../../shaders/dora_backward.wgsl"),
    ];
    let shader = Shader::new("dora_backward", &[("WORKGROUP", WORKGROUP)], &parts);
    let bindings: Vec<Slice> =
        [dy.slice, gains, z.slice, dm].into_iter().chain(dropped.map(|dropped| dropped.slice)).collect();
    let grid = [Extent::cover(params.stride4, WORKGROUP), Extent::Fixed(1), Extent::Fixed(1)];
    rec.dispatch(label, &shader, &bindings, &params, grid, (rows, 3 * dy.width as u64));
}

/// The same in f64 without dropout: `(dz, what is added to dm)`, rows as long as `gains`.
#[cfg(test)]
fn dora_backward_reference(dy: &[f64], z: &[f64], gains: &[f64], norms: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let width = gains.len();
    let dz = (0..dy.len()).map(|at| gains[at % width] * dy[at]).collect();
    let sum = |j: usize| (j..dy.len()).step_by(width).map(|at| dy[at] * z[at]).sum::<f64>();
    (dz, (0..width).map(|j| if norms[j] > 0.0 { sum(j) / norms[j] } else { 0.0 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::dora_gain::gains_bytes;
    use crate::kernels::stride;
    use crate::kernels::testing::*;

    fn case(n_tokens: usize, width: usize, dropout: bool) -> Case {
        let mut case = Case::new(
            format!("{n_tokens}x{width}, dropout: {dropout}"),
            Step { n_tokens: n_tokens as u32, ..Default::default() },
        );
        let s = stride(width);
        let [dy, z] = [1, 2].map(|seed| random_matrix(n_tokens, width, seed));
        let before = random(s, 3);
        let gains = random(s, 4);
        // A column without an adapter has no norm, nor have pads.
        let norms: Vec<f32> = random(s, 5)
            .iter()
            .enumerate()
            .map(|(j, v)| if j % 7 == 3 || j >= width { 0.0 } else { 2.0 + v })
            .collect();
        let n = n_tokens * s;
        let (dz, dm) = dora_backward_reference(&f64s(&dy[..n]), &f64s(&z[..n]), &f64s(&gains), &f64s(&norms));
        let all: Vec<f32> = [gains, vec![0.0; s], norms].concat();
        let [dy_at, gains_at, z_at, dm_at] = [&dy, &all, &z, &before].map(|values| case.buffer(values));
        let dropped_at = case.output(dy.len());
        case.record(move |rec, b| {
            let [dy, z, dropped] = [dy_at, z_at, dropped_at].map(|at| Matrix { slice: b[at], width });
            let gains = b[gains_at].range(0..gains_bytes(s));
            dora_backward(rec, "dora", dy, gains, z, dropout.then_some(dropped), b[dm_at]);
        });
        if dropout {
            let difference = dz.iter().zip(&dy).map(|(dz, &dy)| dz - f64::from(dy)).collect();
            case.expect(dropped_at, difference, Tolerance { abs: 1e-6, rel: 1e-6 });
        }
        case.expect(z_at, dz, Tolerance { abs: 0.0, rel: 1e-6 });
        let dm = dm.iter().zip(&before).map(|(d, &before)| d + f64::from(before)).collect();
        case.expect(dm_at, dm, Tolerance::sum(n_tokens, 1.0));
        case
    }

    kernel_test!(
        dora_backward_matches,
        [(1, 1, false), (33, 60, true), (70, 300, false)].map(|(n, width, dropout)| case(n, width, dropout)).into()
    );

    /// Those of a loss `Σ c ⊙ (m / norm ⊙ z)` whose norm is held still.
    #[test]
    fn they_are_the_gradients() {
        let (t, width) = (3, 5);
        let [c, z] = [1, 2].map(|seed| f64s(&random(t * width, seed)));
        let [m, norms] = [3, 4].map(|seed| random(width, seed).iter().map(|&v| 2.0 + f64::from(v)).collect::<Vec<_>>());
        let loss = |m: &[f64], z: &[f64]| -> f64 {
            (0..t * width).map(|at| c[at] * m[at % width] / norms[at % width] * z[at]).sum()
        };
        let gains: Vec<f64> = m.iter().zip(&norms).map(|(m, norm)| m / norm).collect();
        let (dz, dm) = dora_backward_reference(&c, &z, &gains, &norms);
        assert_close(&dz, &finite_differences(&z, |z| loss(&m, z)));
        assert_close(&dm, &finite_differences(&m, |m| loss(m, &z)));
    }
}
