//! A frozen linear, optionally with a LoRA pair: the only file that knows both.
//!
//! `y = x Wᵀ + s (x Aᵀ) Bᵀ` (arXiv 2106.09685). With `xa = x Aᵀ` and `dya = dy B`:
//! `dB += s dyᵀ xa`, `dA += s dyaᵀ x`, `dx = dy W + s dya A`. Nothing of the size of W is formed.

use super::{Frozen, matrix};
use crate::gpu::{Recording, Rows};
use crate::kernels::Matrix;
use crate::kernels::matmul::{Tail, Write, matmul, matmul_transposed};
use crate::kernels::weight::Weight;
use crate::kernels::weight_grad::weight_grad;
use crate::lora::{AdapterView, LoraFactors};

/// A linear without bias.
pub struct Linear {
    /// Hugging Face's module path, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// `[out_features, in_features]`.
    pub weight: Frozen,
}

/// What the backward pass reads.
pub struct LinearSaved {
    x: Matrix,
    /// `x Aᵀ` `[n_tokens, r]`, where the linear is adapted.
    xa: Option<Matrix>,
}

impl Linear {
    /// True when `adapter` changes it.
    pub fn is_adapted(&self, adapter: &AdapterView) -> bool {
        adapter.get(&self.name).is_some()
    }

    /// A transient for its output.
    pub fn output(&self, rec: &mut Recording, label: &str) -> Matrix {
        matrix(rec, label, Rows::TOKENS, self.weight.rows())
    }

    /// `y` from `x`, or added to what `y` holds.
    pub fn forward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        x: Matrix,
        y: Matrix,
        write: Write,
    ) -> LinearSaved {
        let lora = adapter.get(&self.name);
        let xa = lora.map(|lora| {
            let xa = matrix(rec, &format!("{label}.xa"), Rows::TOKENS, lora.r);
            let a = Weight::f32(lora.a, lora.r, self.weight.cols());
            matmul(rec, &format!("{label}.lora_A"), Rows::TOKENS, x, &a, None, xa, Write::Replace);
            xa
        });
        let tail = lora.zip(xa).map(|(lora, xa)| Tail { x: xa, w: lora.b, w_cols: lora.r, scale: lora.scaling });
        for weight in self.weight.weights(rec) {
            matmul(rec, label, Rows::TOKENS, x, &weight, tail, y, write);
        }
        LinearSaved { x, xa }
    }

    /// Adds to dA and dB; writes or adds the gradient on `x` where `dx` asks for it.
    pub fn backward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        saved: &LinearSaved,
        dy: Matrix,
        dx: Option<(Matrix, Write)>,
    ) {
        let lora = adapter.get(&self.name);
        let dya = lora.zip(saved.xa).map(|(lora, xa)| self.backward_factors(rec, label, lora, saved.x, xa, dy));
        let Some((dx, mut write)) = dx else { return };
        let mut tail = lora.zip(dya).map(|(lora, dya)| Tail {
            x: dya,
            w: lora.a,
            w_cols: self.weight.cols(),
            scale: lora.scaling,
        });
        for weight in self.weight.weights(rec) {
            matmul_transposed(rec, &format!("{label}.dx"), Rows::TOKENS, dy, &weight, tail.take(), dx, write);
            // The parts of a weight are terms of one sum.
            write = Write::Add;
        }
    }

    /// dA and dB; returns `dy B`.
    fn backward_factors(
        &self,
        rec: &mut Recording,
        label: &str,
        lora: LoraFactors,
        x: Matrix,
        xa: Matrix,
        dy: Matrix,
    ) -> Matrix {
        let (grad_a, grad_b) = lora.grads.expect("a backward pass has somewhere to put gradients");
        let dya = matrix(rec, &format!("{label}.dya"), Rows::TOKENS, lora.r);
        let b = Weight::f32(lora.b, self.weight.rows(), lora.r);
        matmul_transposed(rec, &format!("{label}.dya"), Rows::TOKENS, dy, &b, None, dya, Write::Replace);
        weight_grad(rec, &format!("{label}.dlora_B"), Rows::TOKENS, dy, xa, lora.scaling, grad_b);
        weight_grad(rec, &format!("{label}.dlora_A"), Rows::TOKENS, dya, x, lora.scaling, grad_a);
        dya
    }
}
