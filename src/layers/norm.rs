//! Norms over the columns of a row, with a frozen weight.

use super::matrix;
use crate::gpu::{Buffer, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::layer_norm::layer_norm;
use crate::kernels::layer_norm_backward::layer_norm_backward;
use crate::kernels::matmul::{Store, matmul};
use crate::kernels::rms_norm::{After, rms_norm};
use crate::kernels::rms_norm_backward::rms_norm_backward;
use crate::kernels::weight::Weight;

/// A norm.
pub struct Norm {
    /// f32 `[stride(width)]`.
    pub weight: Buffer,
    /// The same: it makes this a layer norm rather than an RMS norm.
    pub bias: Option<Buffer>,
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
        label: &str,
        rows: Rows,
        x: Matrix,
        after: After,
    ) -> (Matrix, NormSaved) {
        let y = matrix(rec, label, rows, self.width);
        let n_rows = rec.capacity(rows) as u64;
        let weight = rec.external(&self.weight);
        let Some(bias) = &self.bias else {
            let moments = rec.floats(&format!("{label}.rstd"), n_rows);
            rms_norm(rec, label, rows, x, weight, self.eps, y, moments, after);
            return (y, NormSaved { x, moments });
        };
        let moments = rec.floats(&format!("{label}.moments"), 2 * n_rows);
        let bias = rec.external(bias);
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

    /// The gradient on `x`, written to or (`accumulate`) added to `dx`.
    pub fn backward(
        &self,
        rec: &mut Recording,
        label: &str,
        rows: Rows,
        saved: &NormSaved,
        dy: Matrix,
        dx: Matrix,
        accumulate: bool,
    ) {
        let weight = rec.external(&self.weight);
        let backward = if self.bias.is_some() { layer_norm_backward } else { rms_norm_backward };
        backward(rec, &format!("{label}.dx"), rows, dy, saved.x, weight, saved.moments, dx, accumulate);
    }
}
