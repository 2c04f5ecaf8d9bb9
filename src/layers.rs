//! Layers: forward and backward side by side, written out as calls of kernels.
//!
//! A layer's forward returns a `Saved` whose fields are what its backward reads, so that what is kept for a layer can
//! be read off the type. Frozen weights get no gradient; gradients of factors and of trained vectors are added to, and
//! cleared in one place (`train`).

mod attention;
mod dora;
mod frozen;
mod head;
mod linear;
mod mlp;
mod norm;
mod vector;

pub use attention::{Attention, AttentionSaved, KvCache, QkNorm, Rope};
pub use frozen::{Frozen, Loader, NormKind};
pub use head::Head;
pub use linear::{Linear, LowRank};
pub use mlp::{Mlp, MlpSaved};
pub use norm::{Norm, NormSaved};
pub use vector::Vector;

use crate::Result;
use crate::gpu::{Buffer, Gpu, Recording, Rows, Slice, Step, Variant};
use crate::kernels::preference::{PairRows, Preference};
use crate::kernels::{Matrix, Token};

/// What a pass works on, in GPU memory: capacities are fixed, contents change from pass to pass.
pub struct Batch {
    /// Most tokens of a pass.
    pub max_tokens: usize,
    /// Most rows with a target of a pass.
    pub max_targets: usize,
    /// The [`Step`] that kernels read.
    pub step: Buffer,
    variant: Variant,
    tokens: Buffer,
    target_rows: Buffer,
    target_ids: Buffer,
    pairs: Option<(Preference, Buffer)>,
}

/// [`Batch`] as a recording sees it.
#[derive(Debug, Clone, Copy)]
pub struct BatchView {
    /// `array<Token>` `[max_tokens]`.
    pub tokens: Slice,
    /// Rows that have a target, `array<u32>` `[max_targets]`.
    pub target_rows: Slice,
    /// Their targets, `array<u32>` `[max_targets]`.
    pub target_ids: Slice,
    /// Most rows with a target.
    pub max_targets: usize,
    /// Where preferences are learned: how, and the [`PairRows`] of the pass.
    pub pairs: Option<(Preference, Slice)>,
}

impl Batch {
    /// Room for `max_tokens` tokens, of which `max_targets` have a target.
    pub fn new(gpu: &Gpu, max_tokens: usize, max_targets: usize) -> Result<Self> {
        let index_bytes = max_targets as u64 * 4;
        Ok(Self {
            max_tokens,
            max_targets,
            variant: gpu.variant(),
            step: Buffer::uniform(gpu, "step", size_of::<Step>() as u64)?,
            tokens: Buffer::storage(gpu, "tokens", (max_tokens * size_of::<Token>()) as u64)?,
            target_rows: Buffer::storage(gpu, "target_rows", index_bytes)?,
            target_ids: Buffer::storage(gpu, "target_ids", index_bytes)?,
            pairs: None,
        })
    }

    /// The same for passes of preference pairs.
    pub fn with_pairs(self, gpu: &Gpu, preference: Preference) -> Result<Self> {
        let buffer = Buffer::storage(gpu, "pairs", PairRows::size_bytes(self.max_tokens))?;
        Ok(Self { pairs: Some((preference, buffer)), ..self })
    }

    /// Writes the preference pairs of a pass, where they are learned.
    pub fn write_pairs(&self, gpu: &Gpu, pairs: &[PairRows]) {
        match &self.pairs {
            None => assert!(pairs.is_empty(), "pairs for a batch of examples"),
            Some((_, buffer)) => buffer.write(gpu, 0, &PairRows::bytes(pairs)),
        }
    }

    /// Writes a pass: its tokens, and `(row, target id)` for the rows that have one.
    pub fn write(&self, gpu: &Gpu, tokens: &[Token], targets: &[(u32, u32)]) {
        assert!(tokens.len() <= self.max_tokens && targets.len() <= self.max_targets, "a pass over its capacity");
        let (rows, ids): (Vec<u32>, Vec<u32>) = targets.iter().copied().unzip();
        self.tokens.write(gpu, 0, bytemuck::cast_slice(tokens));
        self.target_rows.write(gpu, 0, bytemuck::cast_slice(&rows));
        self.target_ids.write(gpu, 0, bytemuck::cast_slice(&ids));
    }

    /// An empty recording over this batch, and its view there.
    pub fn recording(&self) -> (Recording, BatchView) {
        let mut rec = Recording::new(&self.step, self.max_tokens).with_variant(self.variant);
        let view = BatchView {
            tokens: rec.external(&self.tokens),
            target_rows: rec.external(&self.target_rows),
            target_ids: rec.external(&self.target_ids),
            max_targets: self.max_targets,
            pairs: self.pairs.as_ref().map(|(preference, buffer)| (*preference, rec.external(buffer))),
        };
        (rec, view)
    }
}

/// A transient matrix with a row for each of `rows`.
pub fn matrix(rec: &mut Recording, label: &str, rows: Rows, width: usize) -> Matrix {
    let size_bytes = Matrix::size_bytes(rec.capacity(rows), width);
    Matrix { slice: rec.transient(label, size_bytes), width }
}
