//! The adapter as a recording sees it.

use std::collections::HashMap;

use super::vectors::{Blend, VectorView};
use crate::gpu::{Recording, Slice};
use crate::kernels::dropout::Dropout;
use crate::kernels::segments::Segments;

/// The factors of a group of linears as a recording sees them.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `[segments.rank(), stride(in_features)]`.
    pub a: Slice,
    /// `[columns of the output, stride(r)]`.
    pub b: Slice,
    /// Which columns are whose.
    pub segments: Segments,
    /// Where both lie in the arena, in bytes.
    pub range: std::ops::Range<u64>,
    /// Where B starts in that range.
    pub b_start: u64,
    /// Columns of B that there is room for.
    pub r: usize,
    /// How many of these are trained.
    pub trained: usize,
    /// On the input, while training.
    pub dropout: Option<Dropout>,
    /// `lora_alpha / r` or its rsLoRA form, of the first adapted module.
    pub scaling: f32,
    /// What DoRA adds.
    pub dora: Option<DoraFactors>,
}

/// What DoRA has besides A and B of a group.
#[derive(Debug, Clone, Copy)]
pub struct DoraFactors {
    /// f32 `[columns of the output]`.
    pub magnitude: Slice,
    /// Where that starts in the group's range of the arena, in bytes.
    pub magnitude_start: u64,
    /// f32 `[3, columns of the output]`: what columns are multiplied with, their biases, and norms.
    pub gains: Slice,
}

/// All factors as a recording sees them, by the path of a group's first module.
#[derive(Default)]
pub struct AdapterView {
    pub(super) factors: HashMap<String, LoraFactors>,
    pub(super) vectors: HashMap<String, VectorView>,
    pub(super) blends: Vec<Blend>,
    pub(super) grads: Option<Slice>,
    /// DoRA's gains and trained vectors are those of the pass before.
    pub(crate) gains_are_known: bool,
}

impl AdapterView {
    /// The factors of a group, if any of it is adapted.
    pub fn get(&self, first_module: &str) -> Option<&LoraFactors> {
        self.factors.get(first_module)
    }

    /// The trained vectors of a group, by the name of its first.
    pub fn vector(&self, first: &str) -> Option<&VectorView> {
        self.vectors.get(first)
    }

    /// Works out the trained vectors for what the recording does next; nothing where there are none, or they are known.
    pub fn blend_vectors(&self, rec: &mut Recording) {
        if !self.gains_are_known {
            self.blends.iter().for_each(|blend| blend.record(rec));
        }
    }

    /// The same for passes that follow others without a change of the adapter or its strength: DoRA's gains and trained
    /// vectors are taken from there.
    pub fn with_known_gains(self) -> Self {
        Self { gains_are_known: true, ..self }
    }

    /// The gradients of all factors, laid out as they are, in a recording that has them.
    pub fn grads(&self) -> Option<Slice> {
        self.grads
    }
}
