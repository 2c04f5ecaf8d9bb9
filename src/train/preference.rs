//! Training on preference pairs: the passes they become, and what the reference says of them.

use std::rc::Rc;

use super::{Evaluator, Pass};
use crate::Result;
use crate::data::{Example, Pair, pack};
use crate::gpu::Gpu;
use crate::kernels::preference::{PairRows, PreferenceLoss};
use crate::model::Decoder;

/// Means over the pairs of a step, as TRL has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rewards {
    /// Of the chosen answers: in DPO `β (log π - log π_ref)`, in ORPO `β log π / tokens`.
    pub chosen: f32,
    /// Of the rejected answers.
    pub rejected: f32,
    /// Share of pairs whose chosen answer has the larger one.
    pub accuracy: f32,
    /// ORPO's `log_odds_ratio`: ln sigmoid of how much larger the log-odds of the chosen answer are. In DPO, minus the
    /// loss.
    pub log_odds_ratio: f32,
}

impl Pass {
    /// Appends pair number `index` of the examples, for the loss `loss`.
    pub fn push_pair(&mut self, index: usize, pair: &Pair, loss: PreferenceLoss) {
        let from = self.targets.len();
        if loss == PreferenceLoss::Orpo {
            // All of the chosen one is learned, the prompt too. Those targets come first, so that an answer's lie together.
            let Example { ids, supervised, .. } = &pair.chosen;
            let next = (self.tokens.len() as u32..).zip(ids.iter().zip(supervised).skip(1));
            self.targets.extend(next.filter(|(_, (_, supervised))| !**supervised).map(|(row, (&id, _))| (row, id)));
        }
        let chosen_from = self.targets.len();
        self.push(&pair.chosen.ids, &pair.chosen.supervised);
        let rejected_from = self.targets.len();
        self.push(&pair.rejected.ids, &pair.rejected.supervised);
        let [prompt, chosen] = [chosen_from - from, rejected_from - chosen_from];
        self.pairs.push((index, PairRows::new(from, prompt, chosen, self.targets.len() - rejected_from)));
    }
}

/// The passes of a step over the pairs numbered `step`, each of at most `max_tokens` tokens; no pair has more.
pub fn pair_passes(step: &[usize], pairs: &[Pair], loss: PreferenceLoss, max_tokens: usize) -> Vec<Pass> {
    let lengths: Vec<usize> = step.iter().map(|&index| pairs[index].tokens()).collect();
    let mut passes: Vec<Pass> = pack(&lengths, max_tokens)
        .into_iter()
        .map(|packed| {
            let mut pass = Pass::default();
            packed.examples.iter().for_each(|&at| pass.push_pair(step[at], &pairs[step[at]], loss));
            pass
        })
        .collect();
    if loss == PreferenceLoss::Orpo {
        let all = passes.iter().flat_map(|pass| &pass.pairs);
        let n_targets: u32 = all.map(|(_, pair)| pair.rejected - pair.start).sum();
        let nll_weight = step.len() as f32 / n_targets.max(1) as f32;
        passes.iter_mut().flat_map(|pass| &mut pass.pairs).for_each(|(_, pair)| pair.nll_weight = nll_weight);
    }
    passes
}

/// What the base model says of pairs, each asked for when it first comes up (TRL's reference of an adapter: the same
/// base without it).
pub struct References {
    base: Evaluator,
    /// Summed log-probabilities of the chosen and the rejected answer of each pair; NaN while unknown.
    known: Vec<[f32; 2]>,
}

impl References {
    /// For `n_pairs` pairs, in passes of up to `max_tokens` tokens.
    pub async fn new(gpu: Rc<Gpu>, model: &Decoder, n_pairs: usize, max_tokens: usize) -> Result<Self> {
        let base = Evaluator::new(gpu, model, None, max_tokens).await?;
        Ok(Self { base, known: vec![[f32::NAN; 2]; n_pairs] })
    }

    /// Bytes of GPU memory that it allocated.
    pub fn size_bytes(&self) -> u64 {
        self.base.size_bytes()
    }

    /// What is known so far, f32 `[n_pairs, 2]`: part of a run that is saved, as rounding may depend on which pairs share
    /// a pass.
    pub fn known(&self) -> &[u8] {
        bytemuck::cast_slice(&self.known)
    }

    /// Takes over what was known, as many bytes as there are now.
    pub fn set_known(&mut self, bytes: &[u8]) {
        bytemuck::cast_slice_mut(&mut self.known).copy_from_slice(bytes);
    }

    /// Writes into `passes` what the reference says of their pairs.
    pub async fn fill(&mut self, passes: &mut [Pass]) -> Result<()> {
        for pass in passes {
            if pass.pairs.iter().any(|(index, _)| self.known[*index][0].is_nan()) {
                let (losses, _) = self.base.scores(pass, 0.0).await?;
                let sum = |from: u32, end: u32| {
                    -losses[from as usize..end as usize].iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32
                };
                for (index, pair) in &pass.pairs {
                    if self.known[*index][0].is_nan() {
                        self.known[*index] = [sum(pair.completion, pair.rejected), sum(pair.rejected, pair.end)];
                    }
                }
            }
            pass.pairs.iter_mut().for_each(|(index, pair)| pair.reference = self.known[*index]);
        }
        Ok(())
    }
}
