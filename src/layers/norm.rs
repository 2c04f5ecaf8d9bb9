//! Norms over the columns of a row, whose weight (and bias) is frozen unless the adapter trains it.

use super::{Vector, matrix};
use crate::gpu::{Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::column_sum::Terms;
use crate::kernels::layer_norm::layer_norm;
use crate::kernels::layer_norm_backward::layer_norm_backward;
use crate::kernels::matmul::{Store, matmul};
use crate::kernels::rms_norm::{After, rms_norm};
use crate::kernels::rms_norm_backward::rms_norm_backward;
use crate::kernels::weight::Weight;
use crate::lora::AdapterView;

/// A norm.
pub struct Norm {
    /// f32 `[stride(width)]`.
    pub weight: Vector,
    /// The same: it makes this a layer norm rather than an RMS norm.
    pub bias: Option<Vector>,
    /// Columns.
    pub width: usize,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub struct NormSaved {
    x: Matrix,
    /// f32: rstd `[rows]`; of a layer norm (mean, rstd) `[rows]`.
    moments: Slice,
}

impl Norm {
    /// The normalised rows, in a transient, with what [`After`] asks for. (After a layer norm nothing is added.)
    pub fn forward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        rows: Rows,
        x: Matrix,
        after: After,
    ) -> (Matrix, NormSaved) {
        let y = matrix(rec, label, rows, self.width);
        let n_rows = rec.capacity(rows) as u64;
        let weight = self.weight.slice(rec, adapter);
        let Some(bias) = &self.bias else {
            let moments = rec.floats(&format!("{label}.rstd"), n_rows);
            rms_norm(rec, label, rows, x, weight, self.eps, y, moments, after);
            return (y, NormSaved { x, moments });
        };
        let moments = rec.floats(&format!("{label}.moments"), 2 * n_rows);
        let bias = bias.slice(rec, adapter);
        layer_norm(rec, label, rows, x, [weight, bias], self.eps, y, moments);
        match after {
            After::Nothing => {}
            After::Project { a, xa, .. } => {
                let a = Weight::f32(a, xa.width, self.width);
                matmul(rec, &format!("{label}.lora_A"), rows, y, &a, None, None, xa, Store::Replace);
            }
            After::Add(_) => unreachable!("no architecture adds the result of a layer norm"),
        }
        (y, NormSaved { x, moments })
    }

    /// True when `adapter` trains any of it.
    pub fn is_trained(&self, adapter: &AdapterView) -> bool {
        self.vectors().any(|vector| vector.is_trained(adapter))
    }

    /// Its weight, and its bias where it has one.
    pub fn vectors(&self) -> impl Iterator<Item = &Vector> {
        [&self.weight].into_iter().chain(&self.bias)
    }

    /// Adds to the gradients of what is trained of it, and gives that on `x`: written, or (`true`) added to what `dx` holds,
    /// where that is wanted.
    pub fn backward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        rows: Rows,
        saved: &NormSaved,
        dy: Matrix,
        dx: Option<(Matrix, bool)>,
    ) {
        let &NormSaved { x, moments } = saved;
        let terms = match &self.bias {
            Some(_) => Terms::Layer { x, moments },
            None => Terms::Rms { x, rstd: moments },
        };
        self.weight.backward(rec, adapter, &format!("{label}.dw"), rows, dy, terms);
        if let Some(bias) = &self.bias {
            bias.backward(rec, adapter, &format!("{label}.db"), rows, dy, Terms::Plain);
        }
        let Some((dx, accumulate)) = dx else { return };
        let weight = self.weight.slice(rec, adapter);
        let backward = if self.bias.is_some() { layer_norm_backward } else { rms_norm_backward };
        backward(rec, &format!("{label}.dx"), rows, dy, x, weight, moments, dx, accumulate);
    }
}
