//! RMS norm with a frozen weight.

use super::matrix;
use crate::gpu::{Buffer, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rms_norm_backward::rms_norm_backward;

/// Normalisation over the columns of a row.
pub struct RmsNorm {
    /// f32 `[stride(width)]`.
    pub weight: Buffer,
    /// Columns.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub struct NormSaved {
    x: Matrix,
    /// f32 `[rows]`.
    rstd: Slice,
}

impl RmsNorm {
    /// The normalised rows, in a transient; and their product with `project`'s low-rank factor, where there is one.
    pub fn forward(
        &self,
        rec: &mut Recording,
        label: &str,
        rows: Rows,
        x: Matrix,
        project: Option<(Slice, Matrix)>,
    ) -> (Matrix, NormSaved) {
        let y = matrix(rec, label, rows, self.width);
        let rstd = rec.floats(&format!("{label}.rstd"), rec.capacity(rows) as u64);
        let weight = rec.external(&self.weight);
        rms_norm(rec, label, rows, x, weight, self.eps, y, rstd, project);
        (y, NormSaved { x, rstd })
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
        rms_norm_backward(rec, &format!("{label}.dx"), rows, dy, saved.x, weight, saved.rstd, dx, accumulate);
    }
}
