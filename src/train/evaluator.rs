//! How well a model does on examples that it is not trained on: forward passes, and no gradients.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::preference::{PairScores, pair_passes};
use super::{Pass, RewardsReport};
use crate::data::{Example, Pair};
use crate::gpu::{Buffer, Gpu, Plan, Slice, Step};
use crate::kernels::ROW_PAD;
use crate::kernels::preference::{Preference, PreferenceLoss};
use crate::layers::Batch;
use crate::lora::{Adapter, AdapterView};
use crate::model::Decoder;
use crate::{Error, Result};

/// What is evaluated.
#[derive(Debug, Clone, Copy)]
pub enum Evaluated<'a> {
    /// Examples, by the cross-entropy of what is learned of them.
    Examples(&'a [Example]),
    /// Preference pairs, by the loss that they are trained with.
    Pairs(&'a [Pair], Preference),
}

/// Scores over some examples, or over preference pairs: these have the loss that they are trained with, `rewards`, and the
/// rest of their chosen answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Mean cross-entropy of their supervised tokens, in nats; of pairs, the mean of DPO's or ORPO's loss.
    pub loss: f64,
    /// The exponential of the cross-entropy: among how many tokens the model might as well have guessed.
    pub perplexity: f64,
    /// Share of the supervised tokens that the model holds to be the likeliest, each after the true ones before it.
    pub accuracy: f64,
    /// Share of the examples of which that is true of every supervised token: the answers that a model which always
    /// says the likeliest would give word for word.
    pub exact_match: f64,
    /// How many examples.
    pub examples: usize,
    /// How many supervised tokens.
    pub tokens: usize,
    /// Of pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<RewardsReport>,
}

/// Sums of an evaluation under way, in f64 and in the order of the passes.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    loss: f64,
    hits: usize,
    tokens: usize,
    exact: usize,
    examples: usize,
    pairs: Option<PairScores>,
}

impl Scores {
    /// Adds a pass, of whose targets these are the losses and hits.
    fn add(&mut self, pass: &Pass, losses: &[f32], hits: &[f32]) {
        let targets = pass.targets.iter().zip(losses.iter().zip(hits));
        let mut targets = targets.map(|((row, _), (&loss, &hit))| (*row, f64::from(loss), hit == 1.0)).peekable();
        let mut row = 0;
        while let Some(end) = pass.tokens.get(row).map(|token| token.end) {
            let mut exact = true;
            while let Some((_, loss, hit)) = targets.next_if(|(row, ..)| *row < end) {
                self.loss += loss;
                self.tokens += 1;
                self.hits += usize::from(hit);
                exact &= hit;
            }
            self.exact += usize::from(exact);
            self.examples += 1;
            row = end as usize;
        }
    }

    /// Adds a pass of pairs.
    fn add_pairs(&mut self, pass: &Pass, losses: &[f32], hits: &[f32], preference: Preference) {
        let scores = self.pairs.get_or_insert_with(|| PairScores::new(preference));
        for (_, pair) in &pass.pairs {
            scores.add(pair, losses);
            let chosen = pair.completion as usize..pair.rejected as usize;
            let hits = hits[chosen.clone()].iter().filter(|&&hit| hit == 1.0).count();
            self.loss += losses[chosen.clone()].iter().map(|&loss| f64::from(loss)).sum::<f64>();
            self.tokens += chosen.len();
            self.hits += hits;
            self.exact += usize::from(hits == chosen.len());
            self.examples += 1;
        }
    }

    /// What they come to, once all passes are in.
    pub fn evaluation(&self) -> Evaluation {
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let cross_entropy = self.loss / self.tokens.max(1) as f64;
        let (loss, rewards) = match &self.pairs {
            Some(pairs) => {
                let (loss, rewards) = pairs.means(self.examples);
                (loss, Some(rewards))
            }
            None => (cross_entropy, None),
        };
        Evaluation {
            loss,
            rewards,
            perplexity: cross_entropy.exp(),
            accuracy: share(self.hits, self.tokens),
            exact_match: share(self.exact, self.examples),
            examples: self.examples,
            tokens: self.tokens,
        }
    }
}

/// The recorded forward pass of a model and an adapter, or none.
pub struct Evaluator {
    gpu: Rc<Gpu>,
    batch: Batch,
    pass: Plan,
    /// Losses of all targets, then their hits, f32.
    scores: Buffer,
    size_bytes: u64,
}

impl Evaluator {
    /// Records and compiles passes of up to `max_tokens` tokens.
    pub async fn new(gpu: Rc<Gpu>, model: &Decoder, adapter: Option<&Adapter>, max_tokens: usize) -> Result<Self> {
        let before = gpu.allocated_bytes();
        let batch = Batch::new(&gpu, max_tokens, max_tokens)?;
        let scores = Buffer::storage(&gpu, "scores", 2 * half_bytes(max_tokens))?;
        let (mut rec, view) = batch.recording();
        let factors = adapter.map_or_else(AdapterView::default, |adapter| adapter.view(&mut rec, None));
        let whole = rec.external(&scores);
        let half =
            |index: u64| -> Slice { whole.range(index * half_bytes(max_tokens)..(index + 1) * half_bytes(max_tokens)) };
        model.evaluate(&mut rec, &view, &factors, half(0), half(1));
        let pass = Plan::new(&gpu, &rec, |_, _| ()).await?;
        Ok(Self { size_bytes: gpu.allocated_bytes() - before, gpu, batch, pass, scores })
    }

    /// Tokens a pass can hold.
    pub fn max_tokens(&self) -> usize {
        self.batch.max_tokens
    }

    /// Bytes of all that it allocated.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The passes of what is evaluated, none of which is longer than [`Self::max_tokens`].
    pub fn passes(&self, evaluated: Evaluated) -> Vec<Pass> {
        match evaluated {
            Evaluated::Examples(examples) => Pass::packed(&examples.iter().collect::<Vec<_>>(), self.batch.max_tokens),
            Evaluated::Pairs(pairs, Preference { loss, .. }) => {
                let numbers: Vec<usize> = (0..pairs.len()).collect();
                let mut passes = pair_passes(&numbers, pairs, loss, self.batch.max_tokens);
                if loss == PreferenceLoss::Dpo {
                    // Not known yet.
                    let all = passes.iter_mut().flat_map(|pass| &mut pass.pairs);
                    all.for_each(|(_, pair)| pair.reference = [f32::NAN; 2]);
                }
                passes
            }
        }
    }

    /// `(cross-entropy, hit)` of the pass's targets, in their order; a hit is 1.0 where no token is likelier. `strength`
    /// is the adapter's: 0 is the base model.
    pub async fn scores(&self, pass: &Pass, strength: f32) -> Result<(Vec<f32>, Vec<f32>)> {
        self.batch.write(&self.gpu, &pass.tokens, &pass.targets);
        self.pass.replay(&self.gpu, &Step { strength, ..pass.step(Step::default()) });
        let bytes = self.scores.read(&self.gpu).await?;
        self.gpu.check()?;
        let (losses, hits) = bytes.split_at(half_bytes(self.batch.max_tokens) as usize);
        let n = pass.targets.len();
        let [losses, hits] = [losses, hits].map(|half| super::floats(&half[..4 * n]));
        Ok((losses, hits))
    }

    /// Adds a pass of `evaluated` to `sums`. Where the loss compares with the base model, what that says is asked for the
    /// first time and then known to the pass.
    pub async fn add(&self, pass: &mut Pass, evaluated: Evaluated<'_>, strength: f32, sums: &mut Scores) -> Result<()> {
        if pass.pairs.iter().any(|(_, pair)| pair.reference[0].is_nan()) {
            let (losses, _) = self.scores(pass, 0.0).await?;
            pass.pairs.iter_mut().for_each(|(_, pair)| pair.reference = pair.log_probs(&losses));
        }
        let (losses, hits) = self.scores(pass, strength).await?;
        match evaluated {
            Evaluated::Examples(_) => sums.add(pass, &losses, &hits),
            Evaluated::Pairs(_, preference) => sums.add_pairs(pass, &losses, &hits, preference),
        }
        Ok(())
    }

    /// Evaluates. `progress` is told (done, total) passes and returns false to stop.
    pub async fn evaluate(
        &self,
        evaluated: Evaluated<'_>,
        strength: f32,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Evaluation> {
        let mut passes = self.passes(evaluated);
        let (mut sums, total) = (Scores::default(), passes.len());
        for (done, pass) in passes.iter_mut().enumerate() {
            if !progress(done, total) {
                return Err(Error::Cancelled);
            }
            self.add(pass, evaluated, strength, &mut sums).await?;
        }
        Ok(sums.evaluation())
    }
}

/// Bytes of one f32 a target, up to where a binding may start.
fn half_bytes(max_targets: usize) -> u64 {
    (max_targets.next_multiple_of(ROW_PAD) as u64 * 4).next_multiple_of(256)
}
