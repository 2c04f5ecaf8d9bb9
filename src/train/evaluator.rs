//! How well a model does on examples that it is not trained on: forward passes, and no gradients.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Pass;
use crate::data::Example;
use crate::gpu::{Buffer, Gpu, Plan, Slice, Step};
use crate::kernels::ROW_PAD;
use crate::layers::Batch;
use crate::lora::{Adapter, AdapterView};
use crate::model::Decoder;
use crate::{Error, Result};

/// Scores over some examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Mean cross-entropy of their supervised tokens, in nats.
    pub loss: f64,
    /// `exp(loss)`: among how many tokens the model might as well have guessed.
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
}

/// Sums of an evaluation under way, in f64 and in the order of the passes.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    loss: f64,
    hits: usize,
    tokens: usize,
    exact: usize,
    examples: usize,
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

    /// What they come to, once all passes are in.
    pub fn evaluation(&self) -> Evaluation {
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let loss = self.loss / self.tokens.max(1) as f64;
        Evaluation {
            loss,
            perplexity: loss.exp(),
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

    /// The passes of `examples`, none of which is longer than [`Self::max_tokens`].
    pub fn passes(&self, examples: &[Example]) -> Vec<Pass> {
        Pass::packed(&examples.iter().collect::<Vec<_>>(), self.batch.max_tokens)
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

    /// Adds a pass to `sums`.
    pub async fn add(&self, pass: &Pass, strength: f32, sums: &mut Scores) -> Result<()> {
        let (losses, hits) = self.scores(pass, strength).await?;
        sums.add(pass, &losses, &hits);
        Ok(())
    }

    /// Evaluates `examples`. `progress` is told (done, total) passes and returns false to stop.
    pub async fn evaluate(
        &self,
        examples: &[Example],
        strength: f32,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Evaluation> {
        let passes = self.passes(examples);
        let mut sums = Scores::default();
        for (done, pass) in passes.iter().enumerate() {
            if !progress(done, passes.len()) {
                return Err(Error::Cancelled);
            }
            self.add(pass, strength, &mut sums).await?;
        }
        Ok(sums.evaluation())
    }
}

/// Bytes of one f32 a target, up to where a binding may start.
fn half_bytes(max_targets: usize) -> u64 {
    (max_targets.next_multiple_of(ROW_PAD) as u64 * 4).next_multiple_of(256)
}
