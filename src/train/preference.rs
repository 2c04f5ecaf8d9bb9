//! Training on preference pairs: the passes they become, what the reference says of them, and scores of those held out.

use std::ops::Range;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Evaluator, Pass};
use crate::Result;
use crate::data::{Example, Pair, pack};
use crate::gpu::Gpu;
use crate::kernels::preference::{PairRows, Preference, PreferenceLoss};
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

/// Means over the preference pairs of a step or an evaluation, with TRL's meanings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewardsReport {
    /// Of the chosen answers: in DPO `beta` times how much likelier than in the base model (sums of log-probabilities),
    /// in ORPO `beta` times the mean log-probability.
    pub chosen: f32,
    /// Of the rejected answers.
    pub rejected: f32,
    /// Share of pairs in which the chosen one's is the larger.
    pub accuracy: f32,
    /// The chosen ones' less the rejected ones'.
    pub margin: f32,
    /// In ORPO, the part of the loss that is the chosen texts' cross-entropy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll_loss: Option<f32>,
    /// In ORPO, the rest is `-beta` times this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_odds_ratio: Option<f32>,
}

impl RewardsReport {
    /// Of a mean loss and its rewards.
    pub fn new(rewards: Rewards, loss: f32, preference: Preference) -> Self {
        let Rewards { chosen, rejected, accuracy, log_odds_ratio } = rewards;
        let orpo = preference.loss == PreferenceLoss::Orpo;
        Self {
            chosen,
            rejected,
            accuracy,
            margin: chosen - rejected,
            nll_loss: orpo.then_some(loss + preference.beta * log_odds_ratio),
            log_odds_ratio: orpo.then_some(log_odds_ratio),
        }
    }
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
                for (index, pair) in &pass.pairs {
                    if self.known[*index][0].is_nan() {
                        self.known[*index] = pair.log_probs(&losses);
                    }
                }
            }
            pass.pairs.iter_mut().for_each(|(index, pair)| pair.reference = self.known[*index]);
        }
        Ok(())
    }
}

impl PairRows {
    /// Summed log-probabilities of the chosen and the rejected answer, from the cross-entropies of a pass's targets.
    pub(super) fn log_probs(&self, losses: &[f32]) -> [f32; 2] {
        [self.completion..self.rejected, self.rejected..self.end].map(|answer| -sum(losses, answer) as f32)
    }
}

fn sum(losses: &[f32], targets: Range<u32>) -> f64 {
    losses[targets.start as usize..targets.end as usize].iter().map(|&loss| f64::from(loss)).sum()
}

/// Sums over pairs that are evaluated, in f64; what `preference.wgsl` does in training.
#[derive(Debug, Clone)]
pub(super) struct PairScores {
    preference: Preference,
    chosen: f64,
    rejected: f64,
    preferred: usize,
    log_odds_ratio: f64,
    /// Cross-entropy of what ORPO learns of the chosen texts, and how many tokens that is.
    nll: (f64, usize),
}

impl PairScores {
    pub(super) fn new(preference: Preference) -> Self {
        Self { preference, chosen: 0.0, rejected: 0.0, preferred: 0, log_odds_ratio: 0.0, nll: (0.0, 0) }
    }

    /// Adds a pair, of whose pass's targets these are the cross-entropies.
    pub(super) fn add(&mut self, pair: &PairRows, losses: &[f32]) {
        let beta = f64::from(self.preference.beta);
        // In f32, as a reference is: a model that says the same prefers nothing.
        let [chosen, rejected] = pair.log_probs(losses).map(f64::from);
        let (rewards, odds) = match self.preference.loss {
            PreferenceLoss::Dpo => {
                let [of_chosen, of_rejected] = pair.reference.map(f64::from);
                let rewards = [beta * (chosen - of_chosen), beta * (rejected - of_rejected)];
                (rewards, rewards[0] - rewards[1])
            }
            PreferenceLoss::Orpo => {
                let means = [
                    chosen / f64::from(pair.rejected - pair.completion),
                    rejected / f64::from(pair.end - pair.rejected),
                ];
                // ln(p / (1 - p))
                let [one, other] = means.map(|mean| mean - (-mean.exp_m1()).ln());
                self.nll.0 += sum(losses, pair.start..pair.rejected);
                self.nll.1 += (pair.rejected - pair.start) as usize;
                (means.map(|mean| beta * mean), one - other)
            }
        };
        self.chosen += rewards[0];
        self.rejected += rewards[1];
        self.preferred += usize::from(rewards[0] > rewards[1]);
        // ln sigmoid, without a large exponential.
        self.log_odds_ratio += odds.min(0.0) - (-odds.abs()).exp().ln_1p();
    }

    /// The mean loss of so many pairs, and the means of their rewards.
    pub(super) fn means(&self, n_pairs: usize) -> (f64, RewardsReport) {
        let mean = |sum: f64| sum / n_pairs.max(1) as f64;
        let (nll, tokens) = self.nll;
        let rewards = Rewards {
            chosen: mean(self.chosen) as f32,
            rejected: mean(self.rejected) as f32,
            accuracy: mean(self.preferred as f64) as f32,
            log_odds_ratio: mean(self.log_odds_ratio) as f32,
        };
        let weight = match self.preference.loss {
            PreferenceLoss::Dpo => 1.0,
            PreferenceLoss::Orpo => f64::from(self.preference.beta),
        };
        let loss = nll / tokens.max(1) as f64 - weight * mean(self.log_odds_ratio);
        (loss, RewardsReport::new(rewards, loss as f32, self.preference))
    }
}
