//! A run: which step comes next, when to evaluate, when to stop, and all of that as bytes and back.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::options::OptimOptions;
use super::reports::{EvalReport, OptimReport, StepReport, TrainProgress};
use crate::data::{Dataset, Example};
use crate::gpu::{Buffer, Gpu};
use crate::lora::Adapter;
use crate::train::{
    Batches, Evaluated, Evaluator, OptimStep, Pass, References, RewardsReport, Scores, TrainOptions, Trainer,
    pair_passes, read_state, write_state,
};
use crate::{Error, Result};

/// So many steps in a row that could not be taken are the end of a run.
const MAX_SKIPPED: usize = 10;

/// Recorded training, and where it is.
pub(super) struct Run {
    pub(super) trainer: Trainer,
    /// Where there is something to evaluate.
    pub(super) evaluator: Option<Evaluator>,
    /// Where the loss compares with the base model.
    references: Option<References>,
    batches: Batches,
    state: RunState,
    /// Tokens and supervised tokens of the steps submitted whose metrics have not come yet.
    pending: VecDeque<(usize, usize)>,
    evaluating: Option<Evaluating>,
    /// Those of every evaluation, once there was one.
    eval_passes: Vec<Pass>,
    /// The adapter at the best evaluation.
    best_params: Vec<u8>,
    /// GPUs that work beside us get a step ahead of its report.
    ahead: usize,
}

/// What of a run is saved, besides what the GPU holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RunState {
    options: TrainOptions,
    /// adapter_config.json.
    adapter: serde_json::Value,
    /// Of the examples.
    data_digest: u64,
    tokens_per_pass: usize,
    total: usize,
    /// Steps taken.
    step: usize,
    /// Reports of steps taken that the caller has not been told.
    untold: VecDeque<StepReport>,
    /// The step of the last evaluation.
    evaluated: Option<usize>,
    best: Option<Best>,
    /// Evaluations since the best.
    stale: usize,
    stopped_early: bool,
    /// The last steps in a row that were not taken.
    #[serde(default)]
    skipped: usize,
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Best {
    step: usize,
    loss: f64,
}

/// An evaluation that is under way, a pass at a time.
struct Evaluating {
    done: usize,
    sums: Scores,
}

impl Run {
    /// At its first step. `evaluator` is there where `dataset` holds examples to evaluate and `options` ask for it.
    pub(super) fn new(
        gpu: &Gpu,
        adapter: &Adapter,
        dataset: &Dataset,
        options: TrainOptions,
        trainer: Trainer,
        evaluator: Option<Evaluator>,
        references: Option<References>,
    ) -> Self {
        let batches = Batches::new(dataset.n_examples(), options.examples_per_step(), options.seed);
        let state = RunState {
            adapter: adapter.config.to_json(),
            data_digest: digest(dataset),
            tokens_per_pass: trainer.max_tokens(),
            total: options.total_steps(dataset.n_examples()),
            step: 0,
            untold: VecDeque::new(),
            evaluated: None,
            best: None,
            stale: 0,
            stopped_early: false,
            skipped: 0,
            options,
        };
        let ahead = usize::from(!gpu.info().software);
        let (pending, evaluating, eval_passes, best_params) = (VecDeque::new(), None, vec![], vec![]);
        Self { trainer, evaluator, references, batches, state, pending, evaluating, eval_passes, best_params, ahead }
    }

    /// As it was started.
    pub(super) fn options(&self) -> &TrainOptions {
        &self.state.options
    }

    /// Optimiser steps there will be.
    pub(super) fn total(&self) -> usize {
        self.state.total
    }

    /// Optimiser steps taken.
    pub(super) fn steps_taken(&self) -> usize {
        self.state.step
    }

    /// The passes of 0-based `step`.
    pub(super) fn passes(&self, step: usize, dataset: &Dataset) -> Vec<Pass> {
        self.passes_of(&self.batches.examples(step), dataset)
    }

    /// The passes of the examples, or pairs, of these numbers.
    pub(super) fn passes_of(&self, numbers: &[usize], dataset: &Dataset) -> Vec<Pass> {
        let max_tokens = self.trainer.max_tokens();
        match self.state.options.loss.preference() {
            Some(loss) => pair_passes(numbers, &dataset.pairs, loss, max_tokens),
            None => {
                let chosen: Vec<&Example> = numbers.iter().map(|&at| &dataset.examples[at]).collect();
                Pass::packed(&chosen, max_tokens)
            }
        }
    }

    /// Adds to the passes what their loss needs of the base model.
    pub(super) async fn refer(&mut self, passes: &mut [Pass]) -> Result<()> {
        match &mut self.references {
            Some(references) => references.fill(passes).await,
            None => Ok(()),
        }
    }

    /// Takes the next step, or runs the next pass of an evaluation that is due, and tells what has come of those before.
    pub(super) async fn advance(&mut self, gpu: &Gpu, adapter: &Adapter, dataset: &Dataset) -> Result<TrainProgress> {
        let mut evaluation = None;
        if self.state.skipped >= MAX_SKIPPED && self.state.untold.is_empty() {
            return Err(Error::Diverged { steps: self.state.skipped });
        }
        if self.evaluation_due() {
            self.drain().await?;
            evaluation = self.evaluate_pass(gpu, adapter, dataset).await?;
        } else if self.goes_on() {
            self.submit(dataset).await?;
        }
        let ahead = if self.goes_on() && !self.evaluation_due() { self.ahead } else { 0 };
        while self.pending.len() > ahead {
            self.take_report().await?;
        }
        let report = self.state.untold.pop_front();
        let done = !self.goes_on() && !self.evaluation_due() && self.pending.is_empty() && self.state.untold.is_empty();
        if done && self.state.options.load_best_model_at_end && !self.best_params.is_empty() {
            adapter.params().write(gpu, 0, &self.best_params);
        }
        let stopped_early = done && self.state.stopped_early;
        Ok(TrainProgress { done, stopped_early, report, evaluation })
    }

    /// The optimiser's step over gradients that the caller added up.
    pub(super) async fn optim_step(&mut self, options: OptimOptions) -> Result<OptimReport> {
        self.drain().await?;
        let planned = self.next_step();
        let optim = OptimStep {
            learning_rate: options.learning_rate.unwrap_or(planned.learning_rate),
            weight_decay: options.weight_decay.unwrap_or(planned.weight_decay),
            max_grad_norm: options.max_grad_norm.unwrap_or(planned.max_grad_norm),
            ..planned
        };
        let metrics = self.trainer.update(optim).await?;
        self.state.step += 1;
        let (step, learning_rate) = (self.state.step, optim.learning_rate);
        Ok(OptimReport { step, grad_norm: metrics.grad_norm, learning_rate, skipped: metrics.skipped })
    }

    /// The numbers of the next step.
    pub(super) fn next_step(&self) -> OptimStep {
        let RunState { step, total, options, .. } = &self.state;
        // A loop of one's own may go on beyond the schedule.
        OptimStep { t: *step as u32 + 1, ..options.optim_step(*step.min(&(total - 1)), *total) }
    }

    fn goes_on(&self) -> bool {
        self.state.step < self.state.total && !self.state.stopped_early
    }

    fn evaluation_due(&self) -> bool {
        let RunState { step, total, evaluated, options, .. } = &self.state;
        let Some(every) = options.eval_steps.filter(|_| self.evaluator.is_some()) else { return false };
        let at = if *step == 0 { options.eval_on_start } else { step % every == 0 || step == total };
        at && *evaluated != Some(*step)
    }

    async fn submit(&mut self, dataset: &Dataset) -> Result<()> {
        let mut passes = self.passes(self.state.step, dataset);
        self.refer(&mut passes).await?;
        let tokens = passes.iter().map(|pass| pass.tokens.len()).sum();
        let targets = passes.iter().map(|pass| pass.targets.len()).sum();
        self.trainer.step(&passes, self.state.options.optim_step(self.state.step, self.state.total));
        self.pending.push_back((tokens, targets));
        self.state.step += 1;
        Ok(())
    }

    async fn take_report(&mut self) -> Result<()> {
        let Some((tokens, supervised_tokens)) = self.pending.pop_front() else { return Ok(()) };
        let step = self.state.step - self.pending.len();
        let metrics = self.trainer.metrics(self.trainer.n_steps() - self.pending.len() - 1).await?;
        self.state.skipped = if metrics.skipped { self.state.skipped + 1 } else { 0 };
        let rewards = metrics.rewards.zip(self.state.options.recorded().preference);
        self.state.untold.push_back(StepReport {
            step,
            steps: self.state.total,
            loss: metrics.loss,
            grad_norm: metrics.grad_norm,
            learning_rate: self.state.options.optim_step(step - 1, self.state.total).learning_rate,
            tokens,
            supervised_tokens,
            skipped: metrics.skipped,
            rewards: rewards.map(|(rewards, preference)| RewardsReport::new(rewards, metrics.loss, preference)),
        });
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.take_report().await?;
        }
        Ok(())
    }

    /// A pass of the evaluation that is due; its report after the last.
    async fn evaluate_pass(&mut self, gpu: &Gpu, adapter: &Adapter, dataset: &Dataset) -> Result<Option<EvalReport>> {
        let Some(evaluator) = &self.evaluator else { return Ok(None) };
        let evaluated = match self.state.options.recorded().preference {
            Some(preference) => Evaluated::Pairs(&dataset.eval_pairs, preference),
            None => Evaluated::Examples(&dataset.eval),
        };
        if self.eval_passes.is_empty() {
            self.eval_passes = evaluator.passes(evaluated);
        }
        let Evaluating { done, sums } =
            self.evaluating.get_or_insert_with(|| Evaluating { done: 0, sums: Scores::default() });
        evaluator.add(&mut self.eval_passes[*done], evaluated, 1.0, sums).await?;
        *done += 1;
        if *done < self.eval_passes.len() {
            return Ok(None);
        }
        let scores = sums.evaluation();
        self.evaluating = None;
        let step = self.state.step;
        self.state.evaluated = Some(step);
        // A loss that is not a number is no better than any.
        let best = scores.loss.is_finite() && self.state.best.is_none_or(|best| scores.loss < best.loss);
        if best {
            self.state.best = Some(Best { step, loss: scores.loss });
            self.state.stale = 0;
            if self.state.options.load_best_model_at_end {
                self.best_params = adapter.params().read(gpu).await?;
            }
        } else {
            self.state.stale += 1;
            self.state.stopped_early =
                self.state.options.early_stopping_patience.is_some_and(|patience| self.state.stale >= patience);
        }
        Ok(Some(EvalReport { step, scores, best }))
    }

    /// The run as it is, with the adapter.
    pub(super) async fn save(&mut self, gpu: &Gpu, adapter: &Adapter) -> Result<Vec<u8>> {
        self.drain().await?;
        let mut memory = vec![("best".to_owned(), self.best_params.clone())];
        memory.extend(self.references.iter().map(|references| ("references".to_owned(), references.known().to_vec())));
        for buffer in self.memory(adapter) {
            memory.push((buffer.label().to_owned(), buffer.read(gpu).await?));
        }
        gpu.check()?;
        let parts: Vec<(&str, &[u8])> = memory.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        write_state(&self.state, &parts)
    }

    /// Goes on where the run that `bytes` are of was saved.
    ///
    /// Errs with `BadSetting` where that was another run: other options, examples or adapter.
    pub(super) async fn load(&mut self, gpu: &Gpu, adapter: &Adapter, bytes: &[u8]) -> Result<()> {
        let (state, parts): (RunState, HashMap<String, &[u8]>) = read_state(bytes)?;
        // The budget changes what is computed twice, and no result.
        let options = TrainOptions { memory_budget: self.state.options.memory_budget, ..state.options.clone() };
        if options != self.state.options || state.tokens_per_pass != self.state.tokens_per_pass {
            return Err(other_run("training options"));
        }
        if state.data_digest != self.state.data_digest || state.total != self.state.total {
            return Err(other_run("examples"));
        }
        if state.adapter != self.state.adapter {
            return Err(other_run("settings of the adapter"));
        }
        let part = |name: &str, size_bytes: Option<u64>| match parts.get(name) {
            Some(bytes) if size_bytes.is_none_or(|size| size == bytes.len() as u64) => Ok(*bytes),
            _ => Err(other_run("memory")),
        };
        let buffers = self.memory(adapter);
        let bytes: Vec<&[u8]> =
            buffers.iter().map(|buffer| part(buffer.label(), Some(buffer.size_bytes()))).collect::<Result<_>>()?;
        let best = part("best", None)?;
        if !best.is_empty() && best.len() as u64 != adapter.params().size_bytes() {
            return Err(other_run("memory"));
        }
        let references = match &self.references {
            Some(references) => part("references", Some(references.known().len() as u64))?,
            None => &[],
        };
        for (buffer, bytes) in buffers.iter().zip(bytes) {
            buffer.write(gpu, 0, bytes);
        }
        self.references.iter_mut().for_each(|known| known.set_known(references));
        self.best_params = best.to_vec();
        self.pending.clear();
        self.evaluating = None;
        self.state = RunState { options: self.state.options.clone(), ..state };
        gpu.check()
    }

    /// All that a step changes.
    fn memory<'a>(&'a self, adapter: &'a Adapter) -> Vec<&'a Buffer> {
        std::iter::once(adapter.params()).chain(self.trainer.moments()).collect()
    }
}

fn other_run(what: &str) -> Error {
    let allowed = "a run with the same options, examples and adapter".to_owned();
    Error::BadSetting { name: "resume".into(), value: format!("a run with other {what}"), allowed }
}

/// FNV-1a (RFC 9923) of all that is trained on and evaluated: the same for the same examples in the same order.
fn digest(dataset: &Dataset) -> u64 {
    let numbers = |example: &Example| -> Vec<u32> {
        let tokens = example.ids.iter().zip(&example.supervised);
        tokens.map(|(id, supervised)| id << 1 | u32::from(*supervised)).chain([u32::MAX]).collect()
    };
    let lists: [Vec<&Example>; 2] = [dataset.sequences().collect(), dataset.eval_sequences().collect()];
    let numbers = lists.into_iter().flat_map(|list| list.into_iter().flat_map(numbers).chain([u32::MAX - 1]));
    numbers
        .flat_map(u32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
