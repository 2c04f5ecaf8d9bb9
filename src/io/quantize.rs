//! Weights made smaller while they are read: ggml's reference quantisers, and the error that they cost.

use half::f16;
use serde::{Deserialize, Serialize};

use super::DType;

/// A block type that plain numbers can be made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(non_camel_case_types, reason = "the names are ggml's, so that they can be searched for")]
pub enum Quantization {
    /// 8.5 bits a number: [`DType::Q8_0`].
    Q8_0,
    /// 4.5 bits a number: [`DType::Q4_0`].
    Q4_0,
}

impl Quantization {
    /// What the blocks are.
    pub const fn dtype(self) -> DType {
        match self {
            Self::Q8_0 => DType::Q8_0,
            Self::Q4_0 => DType::Q4_0,
        }
    }
}

/// Blocks of `values`, bit for bit as `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` of `ggml-quants.c` make them.
///
/// Values after the last whole 32 are ignored. What is not finite, or too large for an f16 scale, does not come back.
pub fn quantize(to: Quantization, values: &[f32]) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(values.len() / 32 * to.dtype().block_bytes());
    let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
    for values in values.as_chunks::<32>().0 {
        match to {
            Quantization::Q8_0 => {
                let d = values.iter().fold(0f32, |largest, value| largest.max(value.abs())) / 127.0;
                blocks.extend(f16::from_f32(d).to_le_bytes());
                blocks.extend(values.iter().map(|value| (value * inverse(d)).round() as i8 as u8));
            }
            Quantization::Q4_0 => {
                // Quants reach from -8 to 7: the value farthest from zero, whatever its sign, becomes -8.
                let farther = |far: f32, &value: &f32| if value.abs() > far.abs() { value } else { far };
                let d = values.iter().fold(0.0, farther) / -8.0;
                let nibble = |value: f32| ((value * inverse(d) + 8.5) as u8).min(15);
                blocks.extend(f16::from_f32(d).to_le_bytes());
                blocks.extend((0..16).map(|at| nibble(values[at]) | nibble(values[at + 16]) << 4));
            }
        }
    }
    blocks
}

/// What quantising a model's weights did to them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuantizationError {
    /// What they were made into.
    pub dtype: String,
    /// How many matrices.
    pub tensors: usize,
    /// `‖W - Q(W)‖ / ‖W‖` over all of them together.
    pub relative: f64,
    /// The largest of a single matrix.
    pub worst: f64,
    /// The name of that one.
    pub worst_tensor: String,
}

/// Sums of squares over some numbers: their own, and of how far quantising moved them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    all: f64,
    moved: f64,
}

impl Loss {
    /// Counts `values` that became `quantized`.
    pub(super) fn count(&mut self, values: &[f32], quantized: &[f32]) {
        for (&value, &quantized) in values.iter().zip(quantized) {
            self.all += f64::from(value).powi(2);
            self.moved += (f64::from(value) - f64::from(quantized)).powi(2);
        }
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { all: self.all + other.all, moved: self.moved + other.moved }
    }

    /// The relative error: not finite where a number was not, or its block's scale.
    pub(super) fn relative(self) -> f64 {
        if self.moved == 0.0 { 0.0 } else { (self.moved / self.all).sqrt() }
    }
}
