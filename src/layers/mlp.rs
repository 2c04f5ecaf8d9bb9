//! The feed-forward block: `down(act(gate(x)) · up(x))` (arXiv 2002.05202), or without a gate `down(act(up(x)))`.

use super::{Linear, LowRank, matrix};
use crate::gpu::{Recording, Rows};
use crate::kernels::Matrix;
use crate::kernels::matmul::{Activation, Store};
use crate::kernels::rms_norm::After;
use crate::kernels::segments::Layout;
use crate::lora::AdapterView;

/// Linears round an activation.
pub struct Mlp {
    /// gate and up, interleaved: `[intermediate_size, hidden_size]` each; without a gate only up.
    pub gate_up_proj: Linear,
    /// The function.
    pub act: Activation,
    /// `[hidden_size, intermediate_size]`.
    pub down_proj: Linear,
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub struct MlpSaved {
    x: Matrix,
    gate_up: Matrix,
    /// `act(gate) · up`, or `act(up)`.
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

    fn is_gated(&self) -> bool {
        self.gate_up_proj.layout != Layout::SideBySide
    }

    /// What the norm before it is to do with its result.
    pub fn projection(&self, adapter: &AdapterView, xa: Option<LowRank>) -> After {
        self.gate_up_proj.projection(adapter, LowRank::part(xa, 0))
    }

    /// All but the last linear, from `x` and its projection in `xa`.
    pub fn inner(&self, rec: &mut Recording, adapter: &AdapterView, x: Matrix, xa: Option<LowRank>) -> MlpSaved {
        let gate_up = matrix(rec, "gate_up", Rows::TOKENS, self.gate_up_proj.width());
        let h = matrix(rec, "h", Rows::TOKENS, self.down_proj.weight.cols());
        let (act, add) = (self.act, false);
        let store = if self.is_gated() { Store::Gated { act, h, add } } else { Store::Activated { act, h, add } };
        self.gate_up_proj.project_dropped(rec, adapter, "gate_up_proj", x, LowRank::part(xa, 0));
        self.gate_up_proj.forward(rec, adapter, "gate_up_proj", x, LowRank::part(xa, 0), gate_up, store);
        self.down_proj.project(rec, adapter, "down_proj", h, LowRank::part(xa, 1));
        MlpSaved { x, gate_up, h, xa }
    }

    /// The block's output, stored as `store` says.
    pub fn output(&self, rec: &mut Recording, adapter: &AdapterView, saved: &MlpSaved, store: Store) -> Matrix {
        let y = matrix(rec, "out", Rows::TOKENS, saved.x.width);
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
        down.backward_bias(rec, adapter, "down_proj", dy);
        let dy = down.backward_magnitude(rec, adapter, "down_proj", saved.h, LowRank::part(saved.xa, 1), dy);
        down.backward_low_rank(rec, adapter, "down_proj", dy.product, LowRank::part(dxa, 1));
        let inner = needs_dx || gate_up.is_adapted(adapter);
        let d_gate_up = inner.then(|| {
            let d = matrix(rec, "d_gate_up", Rows::TOKENS, gate_up.width());
            let (act, before, add, finish) = (self.act, saved.gate_up, false, true);
            let store = match self.is_gated() {
                true => Store::GatedBackward { act, gate_up: before, add, finish },
                false => Store::ActivatedBackward { act, before, add, finish },
            };
            down.backward(rec, adapter, "down_proj", dy, LowRank::part(dxa, 1), d, store);
            gate_up.backward_bias(rec, adapter, "gate_up_proj", d);
            let d = gate_up.backward_magnitude(rec, adapter, "gate_up_proj", saved.x, LowRank::part(saved.xa, 0), d);
            gate_up.backward_low_rank(rec, adapter, "gate_up_proj", d.product, LowRank::part(dxa, 0));
            d
        });
        let dx = d_gate_up.filter(|_| needs_dx).map(|d| {
            let dx = matrix(rec, "dx", Rows::TOKENS, saved.x.width);
            gate_up.backward(rec, adapter, "gate_up_proj", d, LowRank::part(dxa, 0), dx, Store::Replace);
            dx
        });
        let linears = [(gate_up, saved.x, d_gate_up.map(|d| d.product)), (down, saved.h, Some(dy.product))];
        LowRank::backward(rec, adapter, "lora_grad", linears, saved.xa, dxa);
        dx
    }
}
