//! The gated feed-forward block: `down(silu(gate(x)) · up(x))` (arXiv 2002.05202).

use super::{Linear, LinearSaved};
use crate::gpu::{Recording, Rows};
use crate::kernels::Matrix;
use crate::kernels::matmul::Write;
use crate::kernels::swiglu::{swiglu, swiglu_backward};
use crate::layers::matrix;
use crate::lora::AdapterView;

/// Three linears round a SwiGLU.
pub struct Mlp {
    /// `[intermediate_size, hidden_size]`.
    pub gate_proj: Linear,
    /// `[intermediate_size, hidden_size]`.
    pub up_proj: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub down_proj: Linear,
}

/// What the backward pass reads.
pub struct MlpSaved {
    gate: Matrix,
    up: Matrix,
    gate_proj: LinearSaved,
    up_proj: LinearSaved,
    down_proj: LinearSaved,
}

impl Mlp {
    /// True when `adapter` changes any part of it.
    pub fn is_adapted(&self, adapter: &AdapterView) -> bool {
        [&self.gate_proj, &self.up_proj, &self.down_proj].iter().any(|linear| linear.is_adapted(adapter))
    }

    /// Adds the block's output to `residual`.
    pub fn forward(&self, rec: &mut Recording, adapter: &AdapterView, x: Matrix, residual: Matrix) -> MlpSaved {
        let gate = self.gate_proj.output(rec, "gate");
        let up = self.up_proj.output(rec, "up");
        let gate_proj = self.gate_proj.forward(rec, adapter, "gate_proj", x, gate, Write::Replace);
        let up_proj = self.up_proj.forward(rec, adapter, "up_proj", x, up, Write::Replace);
        let h = matrix(rec, "h", Rows::TOKENS, gate.width);
        swiglu(rec, "swiglu", gate, up, h);
        let down_proj = self.down_proj.forward(rec, adapter, "down_proj", h, residual, Write::Add);
        MlpSaved { gate, up, gate_proj, up_proj, down_proj }
    }

    /// The gradient on `x` from `dy`, that on the output, in a transient; none unless `needs_dx`.
    pub fn backward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        saved: &MlpSaved,
        dy: Matrix,
        needs_dx: bool,
    ) -> Option<Matrix> {
        let inner = needs_dx || self.gate_proj.is_adapted(adapter) || self.up_proj.is_adapted(adapter);
        let dh = inner.then(|| matrix(rec, "dh", Rows::TOKENS, saved.gate.width));
        self.down_proj.backward(rec, adapter, "down_proj", &saved.down_proj, dy, dh.map(|dh| (dh, Write::Replace)));
        let dh = dh?;
        let d_gate = matrix(rec, "d_gate", Rows::TOKENS, saved.gate.width);
        let d_up = matrix(rec, "d_up", Rows::TOKENS, saved.up.width);
        swiglu_backward(rec, "swiglu.dx", dh, saved.gate, saved.up, d_gate, d_up);
        let dx = needs_dx.then(|| matrix(rec, "dx", Rows::TOKENS, self.gate_proj.weight.cols()));
        self.gate_proj.backward(rec, adapter, "gate_proj", &saved.gate_proj, d_gate, dx.map(|dx| (dx, Write::Replace)));
        self.up_proj.backward(rec, adapter, "up_proj", &saved.up_proj, d_up, dx.map(|dx| (dx, Write::Add)));
        dx
    }
}
