//! The gated activation of the feed-forward block: `h = silu(gate) · up`, `silu(x) = x · sigmoid(x)`
//! (arXiv 2002.05202, as transformers' `LlamaMLP`), and its backward pass.

use bytemuck::{Pod, Zeroable};

use super::Matrix;
use crate::gpu::{Extent, Grid, Recording, Rows, Shader};

/// `struct Params` of `shaders/swiglu.wgsl` and `shaders/swiglu_backward.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct SwigluParams {
    stride4: u32,
    _pad: [u32; 3],
}

impl SwigluParams {
    fn new(width: usize) -> Self {
        Self { stride4: super::stride(width) as u32 / 4, _pad: [0; 3] }
    }

    /// One thread a vec4: columns along x, token rows along y.
    fn grid(self) -> Grid {
        [Extent::cover(self.stride4, 64), Extent::Rows { rows: Rows::TOKENS, per: 1 }, Extent::Fixed(1)]
    }
}

/// Writes `h` from `gate` and `up`, all `[n_tokens, intermediate_size]`.
pub fn swiglu(rec: &mut Recording, label: &str, gate: Matrix, up: Matrix, h: Matrix) {
    assert!([gate.width, up.width].iter().all(|&width| width == h.width), "{label}: widths of gate, up and h");
    let sources = [include_str!("../../shaders/shared/math.wgsl"), include_str!("../../shaders/swiglu.wgsl")];
    let shader = Shader::new("swiglu", &[], &sources);
    let params = SwigluParams::new(h.width);
    let work = (Rows::TOKENS, 20 * h.width as u64);
    rec.dispatch(label, &shader, &[gate.slice, up.slice, h.slice], &params, params.grid(), work);
}

/// Writes the gradients of `gate` and `up` from `dh`, all `[n_tokens, intermediate_size]`.
pub fn swiglu_backward(
    rec: &mut Recording,
    label: &str,
    dh: Matrix,
    gate: Matrix,
    up: Matrix,
    d_gate: Matrix,
    d_up: Matrix,
) {
    let matrices = [dh, gate, up, d_gate, d_up];
    assert!(matrices.iter().all(|m| m.width == dh.width), "{label}: widths of dh, gate, up and their gradients");
    let sources = [include_str!("../../shaders/shared/math.wgsl"), include_str!("../../shaders/swiglu_backward.wgsl")];
    let shader = Shader::new("swiglu_backward", &[], &sources);
    let params = SwigluParams::new(dh.width);
    let work = (Rows::TOKENS, 25 * dh.width as u64);
    rec.dispatch(label, &shader, &matrices.map(|m| m.slice), &params, params.grid(), work);
}

#[cfg(test)]
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `h` in f64 over rows at the padded stride.
#[cfg(test)]
pub(crate) fn swiglu_reference(params: &SwigluParams, n_tokens: usize, gate: &[f64], up: &[f64]) -> Vec<f64> {
    (0..n_tokens * params.stride4 as usize * 4).map(|at| gate[at] * sigmoid(gate[at]) * up[at]).collect()
}

/// `(d_gate, d_up)` in f64 over rows at the padded stride.
#[cfg(test)]
pub(crate) fn swiglu_backward_reference(
    params: &SwigluParams,
    n_tokens: usize,
    dh: &[f64],
    gate: &[f64],
    up: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    (0..n_tokens * params.stride4 as usize * 4)
        .map(|at| {
            let s = sigmoid(gate[at]);
            (dh[at] * up[at] * s * (1.0 + gate[at] * (1.0 - s)), dh[at] * gate[at] * s)
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    const SIZES: [(usize, usize); 6] = [(1, 1), (3, 255), (2, 256), (5, 257), (17, 13), (33, 1536)];

    /// Gates up to 20 either way, where silu is all but zero and all but the identity.
    fn gates(n_tokens: usize, width: usize) -> Vec<f32> {
        random_matrix(n_tokens, width, 1).iter().map(|v| v * 20.0).collect()
    }

    fn step(n_tokens: usize) -> Step {
        Step { n_tokens: n_tokens as u32, ..Default::default() }
    }

    fn forward(n_tokens: usize, width: usize) -> Case {
        let mut case = Case::new(format!("{n_tokens}x{width}"), step(n_tokens));
        let (gate, up) = (gates(n_tokens, width), random_matrix(n_tokens, width, 2));
        let params = SwigluParams::new(width);
        let h = swiglu_reference(&params, n_tokens, &f64s(&gate), &f64s(&up));
        let (gate_at, up_at, h_at) = (case.buffer(&gate), case.buffer(&up), case.output(gate.len()));
        case.record(move |rec, b| {
            let matrix = |at: usize| Matrix { slice: b[at], width };
            swiglu(rec, "act", matrix(gate_at), matrix(up_at), matrix(h_at));
        });
        // The sigmoid is good to 4 ulps (an exponential, a division), then two products.
        case.expect(h_at, h, Tolerance { abs: 0.0, rel: 6.0 * f64::from(f32::EPSILON) });
        case
    }

    fn backward(n_tokens: usize, width: usize) -> Case {
        let mut case = Case::new(format!("{n_tokens}x{width}"), step(n_tokens));
        let (gate, up) = (gates(n_tokens, width), random_matrix(n_tokens, width, 2));
        let dh = random_matrix(n_tokens, width, 3);
        let params = SwigluParams::new(width);
        let (d_gate, d_up) = swiglu_backward_reference(&params, n_tokens, &f64s(&dh), &f64s(&gate), &f64s(&up));
        let [dh_at, gate_at, up_at] = [&dh, &gate, &up].map(|values| case.buffer(values));
        let [d_gate_at, d_up_at] = [(); 2].map(|()| case.output(dh.len()));
        case.record(move |rec, b| {
            let matrix = |at: usize| Matrix { slice: b[at], width };
            let [dh, gate, up, d_gate, d_up] = [dh_at, gate_at, up_at, d_gate_at, d_up_at].map(matrix);
            swiglu_backward(rec, "act", dh, gate, up, d_gate, d_up);
        });
        let eps = f64::from(f32::EPSILON);
        case.expect(d_up_at, d_up, Tolerance { abs: 0.0, rel: 6.0 * eps });
        // The derivative of silu passes through zero as a difference of terms below 1.
        case.expect(d_gate_at, d_gate, Tolerance { abs: 4.0 * eps, rel: 8.0 * eps });
        case
    }

    kernel_test!(swiglu_matches, SIZES.map(|(n, w)| forward(n, w)).into());
    kernel_test!(swiglu_backward_matches, SIZES.map(|(n, w)| backward(n, w)).into());

    #[test]
    fn swiglu_backward_is_the_derivative() {
        let params = SwigluParams::new(8);
        let [gate, up, dh] = [1, 2, 3].map(|seed| f64s(&random(16, seed)));
        let loss = |gate: &[f64], up: &[f64]| {
            swiglu_reference(&params, 2, gate, up).iter().zip(&dh).map(|(h, d)| h * d).sum::<f64>()
        };
        let (d_gate, d_up) = swiglu_backward_reference(&params, 2, &dh, &gate, &up);
        assert_close(&d_gate, &finite_differences(&gate, |gate| loss(gate, &up)));
        assert_close(&d_up, &finite_differences(&up, |up| loss(&gate, up)));
    }
}
