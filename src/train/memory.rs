//! What training needs of the GPU's memory, by what it is for.

use serde::Serialize;

use super::Trainer;
use crate::lora::Adapter;

/// Bytes of GPU memory. On a [`crate::gpu::Gpu::paper`] known before any of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPlan {
    /// The model: weights as their files have them, and its tables.
    pub weights: u64,
    /// A and B of every adapted linear.
    pub adapter: u64,
    /// Gradients and both moments.
    pub optimizer: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// The rest of a step: what is needed for a moment, the batch, parameters, what is read back.
    pub workspace: u64,
    /// All of it.
    pub total: u64,
}

impl MemoryPlan {
    /// Of training `adapter` on a model of `weights` bytes.
    pub fn new(weights: u64, adapter: &Adapter, trainer: &Trainer) -> Self {
        let (adapter, optimizer) = (adapter.params().size_bytes(), trainer.optimizer_bytes());
        let (activations, all) = (trainer.activation_bytes(), trainer.size_bytes());
        let workspace = all - optimizer - activations;
        Self { weights, adapter, optimizer, activations, workspace, total: weights + adapter + all }
    }
}
