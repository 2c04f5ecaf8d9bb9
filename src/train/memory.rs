//! What training needs of the GPU's memory, by what it is for, and how to make it fit.

use std::rc::Rc;

use serde::Serialize;

use super::{Evaluator, Recorded, References, Trainer};
use crate::gpu::Gpu;
use crate::lora::Adapter;
use crate::model::Decoder;
use crate::{Error, Result};

/// Bytes of GPU memory. On a [`crate::gpu::Gpu::paper`] known before any of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPlan {
    /// The model: weights as their files have them, and its tables.
    pub weights: u64,
    /// A and B of every adapted linear, and what DoRA has besides.
    pub adapter: u64,
    /// Gradients, both moments, and what the optimiser needs besides.
    pub optimizer: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// The rest of a step: what is needed for a moment, the batch, parameters, what is read back.
    pub workspace: u64,
    /// All of it.
    pub total: u64,
    /// Parts of the model whose activations are not kept but computed again, to fit the budget.
    pub recompute: usize,
    /// What that costs: the share by which a step has more to compute.
    pub recompute_cost: f64,
    /// Floating-point operations of a full pass.
    pub flops: u64,
}

impl MemoryPlan {
    /// Of training `adapter` on `model`, of `weights` bytes, with `recorded` passes of up to `max_tokens` tokens, within
    /// `budget` bytes in all (with [`References`] where the loss needs them): as much as possible is kept, and the rest
    /// computed again. `evaluates` says that there is
    /// an [`Evaluator`] of passes as large beside it.
    ///
    /// Errors with `OutOfMemory` where not even keeping nothing fits.
    pub async fn new(
        gpu: &Gpu,
        model: &Decoder,
        weights: u64,
        adapter: &Adapter,
        max_tokens: usize,
        recorded: Recorded,
        evaluates: bool,
        budget: Option<u64>,
    ) -> Result<Self> {
        let on_paper =
            |recompute| Self::on_paper(gpu, model, weights, adapter, max_tokens, recorded, evaluates, recompute);
        let all_kept = on_paper(0).await?;
        let Some(budget) = budget.filter(|budget| all_kept.total > *budget) else { return Ok(all_kept) };
        // The fewest parts that fit: memory falls, or stays, as more are given up.
        let (mut enough, mut too_few) = (model.n_recomputable(), 0);
        let mut best = on_paper(enough).await?;
        if best.total > budget {
            let [mib, have] = [best.total, budget].map(|bytes| bytes.div_ceil(1 << 20));
            return Err(Error::OutOfMemory {
                needed_bytes: best.total,
                message: format!(
                    "passes of {max_tokens} tokens need {mib} MiB at the least, the budget is {have} MiB: shorten the \
                     examples, or lower tokensPerPass or the rank"
                ),
            });
        }
        while enough - too_few > 1 {
            let middle = (enough + too_few) / 2;
            let plan = on_paper(middle).await?;
            if plan.total <= budget {
                (enough, best) = (middle, plan);
            } else {
                too_few = middle;
            }
        }
        best.recompute_cost = best.flops as f64 / all_kept.flops as f64 - 1.0;
        Ok(best)
    }

    /// The plan with so many parts recomputed.
    async fn on_paper(
        gpu: &Gpu,
        model: &Decoder,
        weights: u64,
        adapter: &Adapter,
        max_tokens: usize,
        recorded: Recorded,
        evaluates: bool,
        recompute: usize,
    ) -> Result<Self> {
        let paper = Rc::new(Gpu::paper(gpu.info().clone()));
        let mut quiet = |_, _| ();
        let trainer = Trainer::new(paper.clone(), model, adapter, max_tokens, recompute, recorded, &mut quiet).await?;
        let evaluation = match evaluates {
            true => Evaluator::new(paper.clone(), model, Some(adapter), max_tokens).await?.size_bytes(),
            false => 0,
        };
        let references = match recorded.needs_reference() {
            true => References::new(paper, model, 0, max_tokens).await?.size_bytes(),
            false => 0,
        };
        let (adapter, optimizer) = (adapter.size_bytes(), trainer.optimizer_bytes());
        let (activations, all) = (trainer.activation_bytes(), trainer.size_bytes() + evaluation + references);
        let workspace = all - optimizer - activations;
        let total = weights + adapter + all;
        let (recompute_cost, flops) = (0.0, trainer.pass_flops());
        Ok(Self { weights, adapter, optimizer, activations, workspace, total, recompute, recompute_cost, flops })
    }
}
