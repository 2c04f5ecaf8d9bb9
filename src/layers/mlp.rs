//! The gated feed-forward block: `down(silu(gate(x)) · up(x))` (arXiv 2002.05202).

use super::{Linear, LowRank, matrix};
use crate::gpu::{Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::matmul::Store;
use crate::lora::AdapterView;

/// Three linears round a SwiGLU.
pub struct Mlp {
    /// gate_proj and up_proj, interleaved: `[intermediate_size, hidden_size]` each.
    pub gate_up_proj: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub down_proj: Linear,
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub struct MlpSaved {
    x: Matrix,
    gate_up: Matrix,
    /// `silu(gate) · up`.
    h: Matrix,
    xa: Option<LowRank>,
}

impl Mlp {
    /// True when `adapter` changes any part of it.
    pub fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.gate_up_proj.is_adapted(adapter) || self.down_proj.is_adapted(adapter)
    }

    /// Room for the low-rank values of all its linears.
    pub fn low_rank(&self, rec: &mut Recording, adapter: &AdapterView, label: &str) -> Option<LowRank> {
        LowRank::new(rec, adapter, label, [&self.gate_up_proj, &self.down_proj])
    }

    /// What the norm before it is to multiply its result by.
    pub fn projection(&self, adapter: &AdapterView, xa: Option<LowRank>) -> Option<(Slice, Matrix)> {
        self.gate_up_proj.projection(adapter, LowRank::part(xa, 0))
    }

    /// All but the last linear, from `x` and its projection in `xa`.
    pub fn inner(&self, rec: &mut Recording, adapter: &AdapterView, x: Matrix, xa: Option<LowRank>) -> MlpSaved {
        let gate_up = matrix(rec, "gate_up", Rows::TOKENS, self.gate_up_proj.width());
        let h = matrix(rec, "h", Rows::TOKENS, self.down_proj.weight.cols());
        let store = Store::Swiglu(h);
        self.gate_up_proj.forward(rec, adapter, "gate_up_proj", x, LowRank::part(xa, 0), gate_up, store);
        self.down_proj.project(rec, adapter, "down_proj", h, LowRank::part(xa, 1));
        MlpSaved { x, gate_up, h, xa }
    }

    /// `residual` and the block's output.
    pub fn output(&self, rec: &mut Recording, adapter: &AdapterView, saved: &MlpSaved, residual: Matrix) -> Matrix {
        let y = matrix(rec, "out", Rows::TOKENS, residual.width);
        let store = Store::Residual(residual);
        self.down_proj.forward(rec, adapter, "down_proj", saved.h, LowRank::part(saved.xa, 1), y, store);
        y
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
        let dxa = self.low_rank(rec, adapter, "dxa");
        let (gate_up, down) = (&self.gate_up_proj, &self.down_proj);
        down.backward_low_rank(rec, adapter, "down_proj", dy, LowRank::part(dxa, 1));
        let inner = needs_dx || gate_up.is_adapted(adapter);
        let d_gate_up = inner.then(|| matrix(rec, "d_gate_up", Rows::TOKENS, gate_up.width()));
        if let Some(d) = d_gate_up {
            down.backward(rec, adapter, "down_proj", dy, LowRank::part(dxa, 1), d, Some(saved.gate_up));
            gate_up.backward_low_rank(rec, adapter, "gate_up_proj", d, LowRank::part(dxa, 0));
        }
        let dx = d_gate_up.filter(|_| needs_dx).map(|d| {
            let dx = matrix(rec, "dx", Rows::TOKENS, saved.x.width);
            gate_up.backward(rec, adapter, "gate_up_proj", d, LowRank::part(dxa, 0), dx, None);
            dx
        });
        let linears = [(gate_up, saved.x, d_gate_up), (down, saved.h, Some(dy))];
        LowRank::backward(rec, adapter, "lora_grad", linears, saved.xa, dxa);
        dx
    }
}
