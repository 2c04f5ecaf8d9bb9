//! Training: passes that add up gradients, and the optimiser step over all of them. Everything stays on the GPU; the
//! loss comes back one step late.

mod batches;
mod evaluator;
mod memory;
mod optimizer;
mod options;
mod preference;
mod state;

pub use batches::{Batches, Pass};
pub use evaluator::{Evaluated, Evaluation, Evaluator, Scores};
pub use memory::MemoryPlan;
pub use options::{Loss, MAX_TOKENS, Optim, Recorded, Schedule, TrainOptions};
pub use preference::{References, Rewards, RewardsReport, pair_passes};
pub use state::{read_state, write_state};

use std::rc::Rc;

use optimizer::Optimizer;

use crate::gpu::{Buffer, Gpu, Plan, Readback, Recording, Step};
use crate::kernels::preference::PairRows;
use crate::kernels::random::pcg4d;
use crate::layers::Batch;
use crate::lora::Adapter;
use crate::model::{Decoder, PassExtras};
use crate::profile::Profile;
use crate::{Error, Result};

/// How long one submit may keep the GPU busy: far below every watchdog, far above the cost of a submit.
const SLICE_SECONDS: f64 = 0.1;

/// The numbers of one optimiser step: AdamW's, and what its passes do besides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimStep {
    /// 1 for the first step.
    pub t: u32,
    /// Learning rate.
    pub learning_rate: f64,
    /// First decay rate.
    pub beta1: f64,
    /// Second decay rate.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; 0 for no limit.
    pub max_grad_norm: f64,
    /// Learning rate of every B over that of the others; heeded where it was [`Recorded`].
    pub loraplus_lr_ratio: f64,
    /// Share of the target's probability that is spread over the vocabulary, likewise.
    pub label_smoothing_factor: f64,
    /// Size of the noise on the embeddings, likewise.
    pub neftune_noise_alpha: f64,
    /// Of the random numbers, which are a function of this, of `t` and of their place.
    pub seed: u64,
}

impl OptimStep {
    /// What the kernels read of it.
    fn step(&self) -> Step {
        // From the betas as the kernel has them, so that their rounding cancels in moment / correction.
        let decayed = |beta: f64| (1.0 - f64::from(beta as f32).powi(self.t as i32)) as f32;
        let random = pcg4d([self.seed as u32, (self.seed >> 32) as u32, self.t, 0]);
        Step {
            learning_rate: self.learning_rate as f32,
            bias_correction1: decayed(self.beta1),
            bias_correction2: decayed(self.beta2),
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            eps: self.eps as f32,
            weight_decay: self.weight_decay as f32,
            max_grad_norm: self.max_grad_norm as f32,
            learning_rate_b: (self.learning_rate * self.loraplus_lr_ratio) as f32,
            label_smoothing: self.label_smoothing_factor as f32,
            neftune_noise_alpha: self.neftune_noise_alpha as f32,
            random_key: [random[0], random[1]],
            dropout: 1,
            ..Default::default()
        }
    }
}

/// What the GPU says of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepMetrics {
    /// Mean cross-entropy over the step's supervised tokens, or mean loss of its pairs, before the update.
    pub loss: f32,
    /// Global gradient norm before clipping.
    pub grad_norm: f32,
    /// True when loss or gradients were not finite and the adapter was left as it was.
    pub skipped: bool,
    /// Where preferences are learned.
    pub rewards: Option<Rewards>,
}

/// The recorded training step of a model and an adapter.
pub struct Trainer {
    gpu: Rc<Gpu>,
    batch: Batch,
    pass: Plan,
    update: Plan,
    optimizer: Optimizer,
    metrics: Buffer,
    report: Buffer,
    ring: [Readback; 2],
    n_steps: usize,
    /// Rows accumulated for the next update.
    n_rows: u32,
    pass_flops: u64,
    size_bytes: u64,
    started: Option<(web_time::Instant, u64)>,
}

impl Trainer {
    /// Records and compiles passes of up to `max_tokens` tokens, of which `recompute` parts of the model keep nothing
    /// for the backward pass ([`Decoder::train`]), and their optimiser step. `progress` is told (done, total) dispatches.
    pub async fn new(
        gpu: Rc<Gpu>,
        model: &Decoder,
        adapter: &Adapter,
        max_tokens: usize,
        recompute: usize,
        recorded: Recorded,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let before = gpu.allocated_bytes();
        let mut batch = Batch::new(&gpu, max_tokens, max_tokens)?;
        if let Some(preference) = recorded.preference {
            batch = batch.with_pairs(&gpu, preference)?;
        }
        let optimizer = Optimizer::new(&gpu, adapter, recorded)?;
        // The last four numbers are of rewards.
        let metrics_bytes = if recorded.preference.is_some() { 32 } else { 16 };
        let metrics = Buffer::storage(&gpu, "metrics", metrics_bytes)?;
        let report = Buffer::storage(&gpu, "report", metrics_bytes)?;

        let (mut rec, view) = batch.recording();
        let factors = adapter.view(&mut rec, Some(&optimizer.grads));
        let metrics_slice = rec.external(&metrics);
        let extras = PassExtras { neftune: recorded.neftune, label_smoothing: recorded.label_smoothing };
        model.train(&mut rec, &view, &factors, recompute, extras, metrics_slice);

        let update = {
            let mut rec = Recording::new(&batch.step, max_tokens);
            rec.phase("update");
            let [metrics, report] = [&metrics, &report].map(|buffer| rec.external(buffer));
            optimizer.record(&mut rec, adapter, metrics);
            rec.copy(metrics, report);
            rec.clear(metrics);
            rec
        };
        let rows = max_tokens as u32;
        let keys_per_row = (rows as f32 + 1.0) / 2.0;
        let full = Step { n_tokens: rows, n_targets: rows, keys_per_row, ..Default::default() };
        let pass_flops = rec.flops(&full);
        let total = rec.commands().len() + update.commands().len();
        let first = rec.commands().len();
        let pass = Plan::new(&gpu, &rec, |done, _| progress(done, total)).await?;
        let update = Plan::new(&gpu, &update, |done, _| progress(first + done, total)).await?;
        let ring = [Readback::new(&gpu, &report), Readback::new(&gpu, &report)];
        Ok(Self {
            size_bytes: gpu.allocated_bytes() - before,
            gpu,
            batch,
            pass,
            update,
            optimizer,
            metrics,
            report,
            ring,
            n_steps: 0,
            n_rows: 0,
            pass_flops,
            started: None,
        })
    }

    /// Tokens a pass can hold.
    pub fn max_tokens(&self) -> usize {
        self.batch.max_tokens
    }

    /// Bytes that the forward pass keeps for the backward pass.
    pub fn activation_bytes(&self) -> u64 {
        self.pass.kept_bytes()
    }

    /// Bytes of gradients and moments.
    pub fn optimizer_bytes(&self) -> u64 {
        self.optimizer.size_bytes()
    }

    /// What the optimiser remembers from step to step, by PyTorch's names (the buffers' labels).
    pub fn moments(&self) -> &[Buffer] {
        &self.optimizer.moments
    }

    /// Floating-point operations of a pass full of one example, all of it supervised.
    pub fn pass_flops(&self) -> u64 {
        self.pass_flops
    }

    /// Bytes of all that it allocated.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Kernels in a pass and the update.
    pub fn n_dispatches(&self) -> usize {
        self.pass.n_dispatches() + self.update.n_dispatches()
    }

    /// Kernels of a pass in the module at `path`, forward and backward.
    pub fn dispatches_of(&self, path: &str) -> usize {
        self.pass.dispatches_of(path)
    }

    /// One optimiser step over the mean of all supervised tokens (or all pairs) of `passes`, of which there is at least one. Each pass
    /// is one submit (or a few slices); the last one's holds the update as well. Returns at once; the metrics are to
    /// be taken by [`Trainer::metrics`] before the next step but one.
    pub fn step(&mut self, passes: &[Pass], optim: OptimStep) {
        let (last, others) = passes.split_last().expect("a step has a pass");
        if self.n_steps == 0 {
            let flops = passes.iter().map(|pass| self.pass.flops(&pass.step(Step::default()))).sum();
            self.started = Some((web_time::Instant::now(), flops));
        }
        let first_row = std::mem::take(&mut self.n_rows);
        let mut step = Step { loss_scale: loss_scale(passes), first_row, ..optim.step() };
        for pass in others {
            self.forward_backward(pass, step);
            step.first_row += pass.tokens.len() as u32;
        }
        self.write(last);
        let report = (&self.ring[self.n_steps % 2], &self.report);
        Plan::replay_all(&self.gpu, &[&self.pass, &self.update], &last.step(step), Some(report));
        self.n_steps += 1;
    }

    /// Adds the gradients of `scale` times the mean loss over all supervised tokens (or pairs) of `passes`, with the noise and the
    /// smoothing of `optim`; that loss. For loops of one's own, which end a step by [`Trainer::update`].
    pub async fn accumulate(&mut self, passes: &[Pass], scale: f32, optim: OptimStep) -> Result<f32> {
        let step = Step { loss_scale: scale * loss_scale(passes), first_row: self.n_rows, ..optim.step() };
        self.n_rows += passes.iter().map(|pass| pass.tokens.len() as u32).sum::<u32>();
        Ok(self.forward_backward_all(passes, step).await? / scale)
    }

    /// Adds the gradients of `passes`; what their losses add up to.
    async fn forward_backward_all(&self, passes: &[Pass], mut step: Step) -> Result<f32> {
        for pass in passes {
            self.forward_backward(pass, step);
            step.first_row += pass.tokens.len() as u32;
        }
        let loss = floats(&self.metrics.read(&self.gpu).await?)[0];
        self.metrics.clear(&self.gpu);
        self.gpu.check()?;
        Ok(loss)
    }

    /// The optimiser step over what was accumulated: its metrics, without a loss.
    pub async fn update(&mut self, optim: OptimStep) -> Result<StepMetrics> {
        let report = (&self.ring[self.n_steps % 2], &self.report);
        Plan::replay_all(&self.gpu, &[&self.update], &optim.step(), Some(report));
        self.n_rows = 0;
        self.n_steps += 1;
        self.metrics(self.n_steps - 1).await
    }

    /// Adds the gradients of one pass.
    fn forward_backward(&self, pass: &Pass, step: Step) {
        self.write(pass);
        self.pass.replay(&self.gpu, &pass.step(step));
    }

    fn write(&self, pass: &Pass) {
        self.batch.write(&self.gpu, &pass.tokens, &pass.targets);
        let pairs: Vec<PairRows> = pass.pairs.iter().map(|(_, pair)| *pair).collect();
        self.batch.write_pairs(&self.gpu, &pairs);
    }

    /// Optimiser steps submitted.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// The metrics of the `index`-th step (from 0), waiting for it where need be.
    pub async fn metrics(&mut self, index: usize) -> Result<StepMetrics> {
        let bytes = self.ring[index % 2].take(&self.gpu).await?;
        self.gpu.check()?;
        if let Some((started, flops)) = self.started.take() {
            // The first step has been timed: from now on submits are as long as the watchdogs comfortably allow.
            let rate = flops as f64 / started.elapsed().as_secs_f64().max(1e-3);
            self.pass.set_slice_flops((rate * SLICE_SECONDS) as u64);
        }
        let (loss, grad_norm, finite, rewards) = match floats(&bytes)[..] {
            [loss, grad_norm, _, finite] => (loss, grad_norm, finite, None),
            [loss, grad_norm, _, finite, chosen, rejected, accuracy, log_odds_ratio] => {
                (loss, grad_norm, finite, Some(Rewards { chosen, rejected, accuracy, log_odds_ratio }))
            }
            _ => return Err(Error::Gpu { message: "the report of a step has another size".into() }),
        };
        Ok(StepMetrics { loss, grad_norm, skipped: finite != 1.0, rewards })
    }

    /// Times every kernel of a step over `passes`. Adapter and moments stay as they are.
    pub async fn profile(&self, passes: &[Pass]) -> Result<Profile> {
        // The step of an optimiser that learns nothing. What it remembers is put back.
        let still = Step { bias_correction1: 1.0, bias_correction2: 1.0, eps: 1.0, ..Default::default() };
        let step = Step { loss_scale: loss_scale(passes), ..still };
        let mut before = vec![];
        for moment in self.moments() {
            before.push(moment.read(&self.gpu).await?);
        }
        let mut times = vec![];
        for pass in passes {
            self.write(pass);
            times.extend(self.pass.profile(&self.gpu, &pass.step(step)).await?);
        }
        times.extend(self.update.profile(&self.gpu, &step).await?);
        self.moments().iter().zip(&before).for_each(|(moment, before)| moment.write(&self.gpu, 0, before));
        self.gpu.check()?;
        let tokens = passes.iter().map(|pass| pass.tokens.len()).sum();
        Ok(Profile::new(self.gpu.info(), tokens, &times))
    }

    /// Mean loss of `passes`, neither noisy nor smoothed nor with dropout, and its gradients as an arena ([`Adapter::unpack`] reads it),
    /// without an update.
    pub async fn gradients(&self, passes: &[Pass]) -> Result<(f32, Vec<u8>)> {
        let step = Step { loss_scale: loss_scale(passes), ..Default::default() };
        let loss = self.forward_backward_all(passes, step).await?;
        let grads = self.optimizer.grads.read(&self.gpu).await?;
        self.optimizer.grads.clear(&self.gpu);
        self.gpu.check()?;
        Ok((loss, grads))
    }
}

/// One over the supervised tokens of a step, or its pairs.
fn loss_scale(passes: &[Pass]) -> f32 {
    let n_targets: usize = passes.iter().map(|pass| pass.targets.len()).sum();
    let n_pairs: usize = passes.iter().map(|pass| pass.pairs.len()).sum();
    let n = if n_pairs > 0 { n_pairs } else { n_targets };
    (1.0 / n.max(1) as f64) as f32
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
