//! DoRA (arXiv 2402.09353): a linear's weight by its rows' magnitudes and directions, `W' = m ⊙ V / ‖V‖` with LoRA's sum
//! `V = W + s B A`, of which m is trained beside A and B.
//!
//! Forward it is LoRA's product with a factor for each column, `y = gain ⊙ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias` with
//! `gain = m / ‖V‖`, applied as the product is stored. The gains depend on no token, so that a pass works them out first,
//! and the passes of single tokens that follow it take them from there. The norm counts as a constant on the way back, as
//! in PEFT: `dm = Σ_t dy ⊙ z / ‖V‖` with the product z itself, and all else is LoRA's way back with `gain ⊙ dy` for dy. z is
//! not kept but computed again: it is as wide as the output, and nothing else needs it.
//!
//! Under dropout PEFT's product is that of the dropped input x̃, the weight's part of it too, and what is missing then is the
//! weight's alone: `y = (x - x̃) Wᵀ + gain ⊙ (x̃ Wᵀ + s (x̃ Aᵀ) Bᵀ) + bias`.

use super::{Linear, matrix};
use crate::gpu::{Recording, Rows};
use crate::kernels::Matrix;
use crate::kernels::dora_backward::dora_backward;
use crate::kernels::dora_gain::{DoraAdapter, dora_gain};
use crate::kernels::dropout::{dropped, taken_away};
use crate::kernels::matmul::{Store, matmul};
use crate::lora::AdapterView;

/// The gradient on a linear's output, and what of it goes where. Without DoRA all is one.
#[derive(Debug, Clone, Copy)]
pub struct OutputGrad {
    /// On LoRA's product: the factors' gradients are made of it.
    pub product: Matrix,
    /// What comes back to the whole of the input through the weight.
    pub(super) weight: Matrix,
    /// What comes back through the weight to the dropped input alone.
    pub(super) dropped: Option<Matrix>,
}

impl Linear {
    /// Works out the gains for what the recording does next; nothing where it has none, or where they are known.
    pub fn gains(&self, rec: &mut Recording, adapter: &AdapterView) {
        let Some((lora, dora)) = self.dora(adapter) else { return };
        if adapter.gains_are_known {
            return;
        }
        let pair = DoraAdapter {
            a: lora.a,
            b: lora.b,
            r: lora.r,
            magnitude: dora.magnitude,
            scale: lora.scaling,
            segments: lora.segments,
        };
        let bias = self.bias.as_ref().map(|bias| bias.slice(rec, adapter));
        for weight in self.weight.weights(rec) {
            let label = format!("{}.gain", self.modules[0].kind());
            dora_gain(rec, &label, &weight, pair, bias, self.width(), dora.gains);
        }
    }

    /// Sets the magnitudes to the norms that there are, so that the adapter as it is changes the weight by `s B A`.
    pub fn begin_magnitude(&self, rec: &mut Recording, adapter: &AdapterView) {
        let Some((_, dora)) = self.dora(adapter) else { return };
        self.gains(rec, adapter);
        let bytes = dora.magnitude.size_bytes();
        rec.copy(dora.gains.range(2 * bytes..3 * bytes), dora.magnitude);
    }

    /// Under dropout, writes what the weight makes of the part of `x` that is dropped; and what the product is to be of, and
    /// how it is to be stored. Without, as they are.
    pub(super) fn forward_taken_away(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        x: Matrix,
        y: Matrix,
        store: Store,
    ) -> (Matrix, Store) {
        let Some(dropout) = self.dora(adapter).and_then(|(lora, _)| lora.dropout) else { return (x, store) };
        let rest = matrix(rec, "taken_away", Rows::TOKENS, x.width);
        taken_away(rec, &format!("{label}.taken_away"), dropout, x, rest);
        for weight in self.weight.weights(rec) {
            let store = store.term(false, false);
            matmul(rec, &format!("{label}.rest"), Rows::TOKENS, rest, &weight, None, None, y, store);
        }
        (self.dropped(rec, adapter, label, x), store.term(true, true))
    }

    /// The input that the product is of.
    fn dropped(&self, rec: &mut Recording, adapter: &AdapterView, label: &str, x: Matrix) -> Matrix {
        let Some(dropout) = self.dora(adapter).and_then(|(lora, _)| lora.dropout) else { return x };
        let copy = matrix(rec, "dropped", Rows::TOKENS, x.width);
        dropped(rec, &format!("{label}.dropped"), dropout, x, copy);
        copy
    }

    /// What of `dy`, the gradient on the output, goes where; `x` is the input, `xa` its low-rank values. Adds to dm.
    pub fn backward_magnitude(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        x: Matrix,
        xa: Option<Matrix>,
        dy: Matrix,
    ) -> OutputGrad {
        let Some((lora, dora)) = self.dora(adapter) else {
            return OutputGrad { product: dy, weight: dy, dropped: None };
        };
        let x = self.dropped(rec, adapter, label, x);
        let z = matrix(rec, "d_product", Rows::TOKENS, dy.width);
        let tail = self.tail(adapter, xa);
        for weight in self.weight.weights(rec) {
            matmul(rec, &format!("{label}.again"), Rows::TOKENS, x, &weight, tail, None, z, Store::Replace);
        }
        let grads = adapter.grads().expect("a backward pass has somewhere to put gradients");
        let dm = grads.range(lora.range.start + dora.magnitude_start..lora.range.end);
        let dropped = lora.dropout.map(|_| matrix(rec, "d_dropped_product", Rows::TOKENS, dy.width));
        dora_backward(rec, &format!("{label}.dm"), dy, dora.gains, z, dropped, dm);
        OutputGrad { product: z, weight: if dropped.is_some() { dy } else { z }, dropped }
    }
}
