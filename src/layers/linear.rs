//! Frozen linears that read one matrix, optionally with LoRA pairs: the only file that knows both.
//!
//! `y = x Wᵀ + s (x Aᵀ) Bᵀ` (arXiv 2106.09685). With `xa = x Aᵀ` and `dxa = dy B`:
//! `dB += s dyᵀ xa`, `dA += s dxaᵀ x`, `dx = dy W + s dxa A`. Nothing of the size of W is formed. Under dropout, `xa` and
//! dA are of `kept ⊙ x`, and `s dxa A` comes back to x through `kept` as well: one mask for all linears that read x.

use super::dora::OutputGrad;
use super::{Frozen, Vector, matrix};
use crate::gpu::{Recording, Rows, Slice};
use crate::kernels::column_sum::Terms;
use crate::kernels::dropout::{dropped, dropped_gradient, lora_project};
use crate::kernels::lora_grad::{LoraGroup, lora_grad};
use crate::kernels::matmul::{Affine, Store, Tail, lora_dxa, matmul, matmul_transposed};
use crate::kernels::rms_norm::After;
use crate::kernels::segments::Layout;
use crate::kernels::weight::Weight;
use crate::kernels::{Columns, Matrix};
use crate::lora::{AdapterView, DoraFactors, LoraFactors, ModuleShape};

/// Linears whose outputs lie in one matrix.
pub struct Linear {
    /// Names, as Hugging Face's module paths, and shapes.
    pub modules: Vec<ModuleShape>,
    /// How the outputs lie.
    pub layout: Layout,
    /// `[width, in_features]`.
    pub weight: Frozen,
    /// f32 `[width]`, laid out as the outputs are.
    pub bias: Option<Vector>,
}

/// The low-rank values (`x Aᵀ`, or their gradient) of two linears that follow each other, in one buffer.
#[derive(Debug, Clone, Copy)]
pub struct LowRank {
    whole: Slice,
    parts: [Option<Matrix>; 2],
}

impl Linear {
    /// True when `adapter` changes any of them.
    pub fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.factors(adapter).is_some() || self.bias.as_ref().is_some_and(|bias| bias.is_trained(adapter))
    }

    /// Adds to the gradients of the biases that are trained, from that on the output.
    pub fn backward_bias(&self, rec: &mut Recording, adapter: &AdapterView, label: &str, dy: Matrix) {
        if let Some(bias) = &self.bias {
            bias.backward(rec, adapter, &format!("{label}.db"), Rows::TOKENS, dy, Terms::Plain);
        }
    }

    /// Columns of the output, pads included.
    pub fn width(&self) -> usize {
        self.weight.rows()
    }

    /// The output of linear `index` within `y`, where they lie side by side.
    pub fn output(&self, y: Matrix, index: usize) -> Columns {
        let widths: Vec<usize> = self.modules.iter().map(|module| module.out_features).collect();
        Columns { matrix: y, first: self.layout.column(&widths, index, 0), width: widths[index] }
    }

    fn factors<'a>(&self, adapter: &'a AdapterView) -> Option<&'a LoraFactors> {
        adapter.get(&self.modules[0].name)
    }

    /// The factors with what DoRA adds to them, where it does.
    pub(super) fn dora<'a>(&self, adapter: &'a AdapterView) -> Option<(&'a LoraFactors, &'a DoraFactors)> {
        self.factors(adapter).and_then(|lora| Some((lora, lora.dora.as_ref()?)))
    }

    /// `x Aᵀ` as a product of its own.
    pub fn project(&self, rec: &mut Recording, adapter: &AdapterView, label: &str, x: Matrix, xa: Option<Matrix>) {
        let Some((lora, xa)) = self.factors(adapter).zip(xa) else { return };
        if lora.dropout.is_some() {
            return self.project_dropped(rec, adapter, label, x, Some(xa));
        }
        let a = Weight::f32(lora.a, xa.width, self.weight.cols());
        matmul(rec, &format!("{label}.lora_A"), Rows::TOKENS, x, &a, None, None, xa, Store::Replace);
    }

    /// `x̃ Aᵀ` under dropout, which a norm does not know of; nothing without.
    pub fn project_dropped(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        x: Matrix,
        xa: Option<Matrix>,
    ) {
        let Some((lora, xa)) = self.factors(adapter).zip(xa) else { return };
        let Some(dropout) = lora.dropout else { return };
        lora_project(rec, &format!("{label}.lora_A"), dropout, x, lora.a, lora.segments, xa);
    }

    /// What a norm whose result they read is to do with it.
    pub fn projection(&self, adapter: &AdapterView, xa: Option<Matrix>) -> After {
        let factors = self.factors(adapter).filter(|lora| lora.dropout.is_none());
        factors.zip(xa).map_or(After::Nothing, |(lora, xa)| After::Project { a: lora.a, xa, segments: lora.segments })
    }

    /// `y` from `x` and `xa = x Aᵀ`.
    pub fn forward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        x: Matrix,
        xa: Option<Matrix>,
        y: Matrix,
        store: Store,
    ) {
        let tail = self.tail(adapter, xa);
        let affine = match (self.dora(adapter), &self.bias) {
            (Some((_, dora)), _) => Some(Affine::Gain(dora.gains)),
            (None, Some(bias)) => Some(Affine::Bias(bias.slice(rec, adapter))),
            (None, None) => None,
        };
        let (x, store) = self.forward_taken_away(rec, adapter, label, x, y, store);
        for weight in self.weight.weights(rec) {
            matmul(rec, label, Rows::TOKENS, x, &weight, tail, affine, y, store);
        }
    }

    /// LoRA's term of the output.
    pub(super) fn tail(&self, adapter: &AdapterView, xa: Option<Matrix>) -> Option<Tail> {
        self.factors(adapter).zip(xa).map(|(lora, xa)| Tail {
            x: xa,
            w: lora.b,
            w_cols: lora.r,
            scale: lora.scaling,
            segments: lora.segments,
        })
    }

    /// The gradient on `xa` from that on the product.
    pub fn backward_low_rank(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        dy: Matrix,
        dxa: Option<Matrix>,
    ) {
        let Some((lora, dxa)) = self.factors(adapter).zip(dxa) else { return };
        lora_dxa(rec, &format!("{label}.dxa"), dy, lora.b, lora.r, lora.segments, dxa);
    }

    /// The gradient on the input, written to `dx`; or, as `store` says, that on what the input was made of.
    pub fn backward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        dy: OutputGrad,
        dxa: Option<Matrix>,
        dx: Matrix,
        store: Store,
    ) {
        let factors = self.factors(adapter).zip(dxa);
        let dropped = factors.and_then(|(lora, dxa)| Some((lora, lora.dropout?, dxa)));
        let mut tail = factors.map(|(lora, dxa)| Tail {
            x: dxa,
            w: lora.a,
            w_cols: self.weight.cols(),
            scale: lora.scaling,
            segments: lora.segments,
        });
        if let Some((lora, dropout, dxa)) = dropped {
            // The first term of the sum, as what comes back through the mask cannot be part of one product.
            let (rank, cols) = (dxa.width, self.weight.cols());
            let branch = matrix(rec, "d_dropped", Rows::TOKENS, cols);
            let tail = tail.take();
            let scale = match dy.dropped {
                None => {
                    let a = Weight::f32(lora.a, rank, cols);
                    let label = format!("{label}.dxa_A");
                    matmul_transposed(rec, &label, Rows::TOKENS, dxa, &a, None, branch, Store::Replace);
                    lora.scaling
                }
                // With DoRA the weight is in the branch as well.
                Some(d) => {
                    self.product_transposed(rec, &format!("{label}.d_dropped"), d, tail, branch, Store::Replace, false);
                    1.0
                }
            };
            let apart = matches!(store, Store::GatedBackward { .. });
            dropped_gradient(rec, &format!("{label}.dropout"), dropout, branch, scale, dx, apart);
        }
        self.product_transposed(rec, &format!("{label}.dx"), dy.weight, tail, dx, store, dropped.is_some());
    }

    /// `y = x W` and the tail, after earlier terms where it `is_later`.
    fn product_transposed(
        &self,
        rec: &mut Recording,
        label: &str,
        x: Matrix,
        mut tail: Option<Tail>,
        y: Matrix,
        store: Store,
        is_later: bool,
    ) {
        let weights = self.weight.weights(rec);
        for (index, weight) in weights.iter().enumerate() {
            let store = store.term(is_later || index > 0, index + 1 == weights.len());
            matmul_transposed(rec, label, Rows::TOKENS, x, weight, tail.take(), y, store);
        }
    }
}

impl LowRank {
    /// Room for the low-rank values of two linears, or nothing where neither is adapted.
    pub fn new(rec: &mut Recording, adapter: &AdapterView, label: &str, linears: [&Linear; 2]) -> Option<Self> {
        let widths = linears.map(|linear| linear.factors(adapter).map_or(0, |lora| lora.segments.rank()));
        let n_rows = rec.capacity(Rows::TOKENS);
        let bytes = widths.map(|width| Matrix::size_bytes(n_rows, width));
        if bytes == [0, 0] {
            return None;
        }
        let whole = rec.transient(label, bytes[0] + bytes[1]);
        let part = |start: u64, bytes: u64, width: usize| {
            (width > 0).then(|| Matrix { slice: whole.range(start..start + bytes), width })
        };
        Some(Self { whole, parts: [part(0, bytes[0], widths[0]), part(bytes[0], bytes[1], widths[1])] })
    }

    /// The values of one of the two.
    pub fn part(low_rank: Option<Self>, index: usize) -> Option<Matrix> {
        low_rank.and_then(|low_rank| low_rank.parts[index])
    }

    /// Adds to dA and dB of two linears, given as (linear, x, dy) with their `xa` and `dxa`.
    pub fn backward(
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        linears: [(&Linear, Matrix, Option<Matrix>); 2],
        xa: Option<Self>,
        dxa: Option<Self>,
    ) {
        let Some((xa, dxa)) = xa.zip(dxa) else { return };
        let mut groups = vec![];
        let mut range: Option<std::ops::Range<u64>> = None;
        let mut shared = None;
        for (index, (linear, x, dy)) in linears.into_iter().enumerate() {
            let (Some(lora), Some(dy)) = (linear.factors(adapter), dy) else { continue };
            let (Some(xa), Some(dxa)) = (xa.parts[index], dxa.parts[index]) else { continue };
            let start = range.as_ref().map_or(lora.range.start, |range| range.start);
            range = Some(start..lora.range.end);
            shared = Some(lora);
            let x = match lora.dropout {
                Some(dropout) => {
                    let copy = matrix(rec, "dropped", Rows::TOKENS, x.width);
                    dropped(rec, &format!("{label}.dropout"), dropout, x, copy);
                    copy
                }
                None => x,
            };
            let [a_offset, b_offset] = [lora.range.start, lora.range.start + lora.b_start].map(|at| at - start);
            let (segments, scale) = (lora.segments, lora.scaling);
            groups.push(LoraGroup { x, dy, xa, dxa, segments, scale, a_offset, b_offset });
        }
        let (Some(range), Some(lora)) = (range, shared) else { return };
        let grads = adapter.grads().expect("a backward pass has somewhere to put gradients").range(range);
        lora_grad(rec, label, &groups, xa.whole, dxa.whole, lora.r, lora.trained, grads);
    }
}
