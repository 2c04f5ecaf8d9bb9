//! One `.rs` here for each `.wgsl` in `shaders/`: the parameter struct, a function that appends the kernel to a
//! recording, the same arithmetic in f64 on plain slices, and the cases that compare the two.
//!
//! A `var` in a loop is written with its zero (`var m = mat4x4<f32>();`): without, Chromium on SwiftShader was seen to keep the
//! last round's value.

pub mod adamw;
pub mod adamw_8bit;
pub mod attention;
pub mod attention_backward;
pub mod blend;
pub mod column_sum;
pub mod cross_entropy;
pub mod dora_backward;
pub mod dora_gain;
pub mod dropout;
mod eight;
pub mod embedding;
pub mod grad_norm;
pub mod layer_norm;
pub mod layer_norm_backward;
pub mod lora_grad;
pub mod loss_sum;
#[cfg(test)]
mod math;
pub mod matmul;
pub mod neftune;
pub mod preference;
pub mod probe;
pub mod qk_norm;
pub mod random;
pub mod rms_norm;
pub mod rms_norm_backward;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod segments;
#[cfg(test)]
pub(crate) mod testing;
pub mod weight;

use bytemuck::{Pod, Zeroable};

use crate::gpu::Slice;

/// Rows of every matrix on the GPU are a multiple of this many columns apart, so that kernels can load eight values
/// at a time without asking where a row ends.
pub const COLUMN_PAD: usize = 8;

/// Row buffers hold a multiple of this many rows: kernels compute whole tiles and rows past the last are never read
/// by other rows.
pub const ROW_PAD: usize = 16;

/// Columns from one row to the next of a matrix `width` wide.
pub const fn stride(width: usize) -> usize {
    width.next_multiple_of(COLUMN_PAD)
}

/// f32 matrix `[rows, width]`, row-major, rows [`stride`]`(width)` apart. Columns past `width` are zero: whoever
/// writes a matrix writes those too.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// Where it lies.
    pub slice: Slice,
    /// Columns that mean something.
    pub width: usize,
}

impl Matrix {
    /// Bytes of `rows` rows.
    pub fn size_bytes(rows: usize, width: usize) -> u64 {
        (rows.next_multiple_of(ROW_PAD) * stride(width) * 4) as u64
    }

    /// Columns from one row to the next.
    pub fn stride(self) -> usize {
        stride(self.width)
    }

    /// Rows `start ..` of it. `start` is a multiple of 8, which keeps bindings aligned.
    pub fn rows_from(self, start: usize) -> Self {
        let at = (start * self.stride() * 4) as u64;
        Self { slice: self.slice.range(at..self.slice.size_bytes()), ..self }
    }
}

/// Columns `first .. first + width` of a matrix: the output of one of several linears that share it.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// All columns.
    pub matrix: Matrix,
    /// The first that counts, a multiple of [`COLUMN_PAD`].
    pub first: usize,
    /// How many count.
    pub width: usize,
}

impl From<Matrix> for Columns {
    fn from(matrix: Matrix) -> Self {
        Self { matrix, first: 0, width: matrix.width }
    }
}

/// A row of the batch; `struct Token` of `shaders/shared/token.wgsl`. A segment is one example (or one conversation
/// being generated): attention never looks beyond it. Key and value rows are `start + position`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// Position in its segment, from 0.
    pub position: u32,
    /// The segment's first key row.
    pub start: u32,
    /// One past the segment's last key row.
    pub end: u32,
}

impl Token {
    /// Keys that `tokens` see on average: those of their segments up to their own.
    pub fn keys_per_row(tokens: &[Self]) -> f32 {
        let keys: u64 = tokens.iter().map(|token| u64::from(token.position) + 1).sum();
        (keys as f64 / tokens.len().max(1) as f64) as f32
    }
}
