//! The engine's training: a run from its first step to its last, or from where it was saved; evaluation; and the parts of
//! a step, for loops of one's own.

use super::options::{EvaluateOn, EvaluateOptions, LoraOptions, OptimOptions};
use super::reports::{BatchReport, OptimReport, Progress, TrainPlan, TrainProgress};
use super::run::Run;
use super::{DEFAULT_PASS, Engine, not_ready};
use crate::data::{Dataset, Example, Pair};
use crate::lora::Adapter;
use crate::profile::Profile;
use crate::train::{Evaluated, Evaluation, Evaluator, MemoryPlan, References, TrainOptions, Trainer};
use crate::{Error, Result};

impl Engine {
    /// Compiles a run. Makes a default adapter where there is none.
    pub async fn start_training(
        &mut self,
        options: TrainOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<TrainPlan> {
        let started = self.start(options, progress).await;
        self.settled(started).await
    }

    async fn start(&mut self, options: TrainOptions, progress: &mut dyn FnMut(Progress)) -> Result<TrainPlan> {
        options.validate()?;
        self.end_training();
        self.evaluator = None;
        let Some(dataset) = &self.dataset else { return not_ready("give examples first") };
        let evaluates = options.eval_steps.is_some();
        if evaluates && dataset.n_eval() == 0 {
            return not_ready("hold examples out first, to evaluate on: evalShare or evalData of the examples");
        }
        if self.adapter.is_none() {
            self.new_adapter(LoraOptions::default()).await?;
        }
        let (Some(model), Some(dataset), Some((adapter, _))) = (&self.model, &self.dataset, &self.adapter) else {
            return not_ready("load a model first");
        };
        let preference = !dataset.pairs.is_empty();
        options.belongs_to(preference)?;
        let examples = dataset.examples.iter().map(|example| example.ids.len());
        let mut lengths: Vec<usize> = examples.chain(dataset.pairs.iter().map(Pair::tokens)).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let held_out = if evaluates { longest(&dataset.eval, &dataset.eval_pairs) } else { 0 };
        let longest = lengths[0].max(held_out);
        let largest_step: usize = lengths.iter().take(options.batch_size).sum();
        let max_tokens = match options.tokens_per_pass {
            Some(tokens) if tokens < longest => {
                let what = if preference { "both answers of the longest pair" } else { "the longest example" };
                let allowed = format!("at least {longest}, the length of {what}");
                return Err(Error::BadSetting { name: "tokensPerPass".into(), value: tokens.to_string(), allowed });
            }
            Some(tokens) => tokens,
            None => largest_step.min(DEFAULT_PASS).max(longest),
        };
        let mut compile = |done: usize, total: usize| {
            progress(Progress { phase: "compile", loaded: done as u64, total: total as u64 })
        };
        let (gpu, decoder) = (&self.gpu, &model.decoder);
        let (weights, budget, recorded) = (model.weight_bytes, options.memory_budget, options.recorded());
        let memory = MemoryPlan::new(gpu, decoder, weights, adapter, max_tokens, recorded, evaluates, budget).await?;
        let recompute = memory.recompute;
        let scarce = |error: Error| {
            let less = "shorten the examples by maxLength, lower tokensPerPass, set a memoryBudget, take the optim \
                        adamw_8bit, a smaller r, or load the model quantized";
            error.when_scarce("training", memory.total, less)
        };
        let trainer = Trainer::new(gpu.clone(), decoder, adapter, max_tokens, recompute, recorded, &mut compile).await;
        let trainer = trainer.map_err(scarce)?;
        let evaluator = match evaluates {
            true => Some(Evaluator::new(gpu.clone(), decoder, Some(adapter), max_tokens).await.map_err(scarce)?),
            false => None,
        };
        let references = match recorded.needs_reference() {
            true => {
                let references = References::new(gpu.clone(), decoder, dataset.pairs.len(), max_tokens).await;
                Some(references.map_err(scarce)?)
            }
            false => None,
        };
        let batch_size = options.examples_per_step();
        let run = Run::new(gpu, adapter, dataset, options, trainer, evaluator, references);
        let plan = TrainPlan {
            steps: run.total(),
            batch_size,
            tokens_per_pass: max_tokens,
            passes: run.passes(0, dataset).len(),
            tokens_per_epoch: lengths.iter().sum(),
            memory,
            dispatches: run.trainer.n_dispatches(),
        };
        self.run = Some(run);
        Ok(plan)
    }

    /// Goes one step on and reports the step before it (the same one on a software GPU, where waiting costs nothing). Where
    /// an evaluation is due, a call runs one of its passes instead, so that no call takes much longer than a step.
    pub async fn train_step(&mut self) -> Result<TrainProgress> {
        let gpu = self.gpu.clone();
        let (run, adapter, dataset, steps) = self.running()?;
        let progress = run.advance(&gpu, adapter, dataset).await?;
        *steps = run.steps_taken();
        Ok(progress)
    }

    /// The run as bytes, for [`Engine::load_state`].
    pub async fn save_state(&mut self) -> Result<Vec<u8>> {
        let gpu = self.gpu.clone();
        let (run, adapter, ..) = self.running()?;
        run.save(&gpu, adapter).await
    }

    /// Takes the run up, just started, where one with the same model, examples, adapter settings and options was saved:
    /// it ends in the same bytes as that one would have.
    pub async fn load_state(&mut self, state: &[u8]) -> Result<()> {
        let gpu = self.gpu.clone();
        let (run, adapter, _, steps) = self.running()?;
        run.load(&gpu, adapter, state).await?;
        *steps = run.steps_taken();
        Ok(())
    }

    /// The scores of the model with its adapter on the examples held out, or on those trained on. `progress` returns false
    /// to stop.
    pub async fn evaluate(
        &mut self,
        options: EvaluateOptions,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Evaluation> {
        let Some(dataset) = &self.dataset else { return not_ready("give examples first") };
        let Some(model) = &self.model else { return not_ready("load a model first") };
        let (examples, pairs) = match options.data {
            EvaluateOn::Eval => (&dataset.eval, &dataset.eval_pairs),
            EvaluateOn::Train => (&dataset.examples, &dataset.pairs),
        };
        if examples.is_empty() && pairs.is_empty() {
            return not_ready("hold examples out first, to evaluate on: evalShare or evalData of the examples");
        }
        let run = self.run.as_ref().map(Run::options);
        let evaluated = match options.preference(!pairs.is_empty(), run)? {
            Some(preference) => Evaluated::Pairs(pairs, preference),
            None => Evaluated::Examples(examples),
        };
        let longest = longest(examples, pairs);
        let fits = |evaluator: &Option<Evaluator>| evaluator.as_ref().is_some_and(|e| e.max_tokens() >= longest);
        let running = self.run.as_ref().map_or(&None, |run| &run.evaluator);
        if !fits(running) && !fits(&self.evaluator) {
            let (adapter, max_tokens) = (self.adapter.as_ref().map(|(adapter, _)| adapter), longest.max(DEFAULT_PASS));
            self.evaluator = Some(Evaluator::new(self.gpu.clone(), &model.decoder, adapter, max_tokens).await?);
        }
        let evaluator = if fits(running) { running } else { &self.evaluator };
        let Some(evaluator) = evaluator else { unreachable!("made above") };
        let mut passes = |done: usize, total: usize| {
            progress(Progress { phase: "evaluate", loaded: done as u64, total: total as u64 })
        };
        evaluator.evaluate(evaluated, options.strength, &mut passes).await
    }

    /// Adds to the gradients those of `weight` times the mean loss over the supervised tokens of some examples, or over some
    /// pairs, by their place in the data. Of a run that was started.
    pub async fn forward_backward(&mut self, examples: &[usize], weight: f32) -> Result<BatchReport> {
        let (run, _, dataset, _) = self.running()?;
        let n = dataset.n_examples();
        let bad = |name: &str, value: String, allowed: String| Error::BadSetting { name: name.into(), value, allowed };
        if let Some(at) = examples.iter().find(|&&at| at >= n) {
            return Err(bad("examples", at.to_string(), format!("numbers below {n}, as many as there are examples")));
        }
        if examples.is_empty() {
            return Err(bad("examples", "empty".into(), "one or more".into()));
        }
        if !weight.is_finite() || weight == 0.0 {
            return Err(bad("weight", weight.to_string(), "a number other than 0".into()));
        }
        let mut passes = run.passes_of(examples, dataset);
        run.refer(&mut passes).await?;
        let optim = run.next_step();
        let loss = run.trainer.accumulate(&passes, weight, optim).await?;
        let tokens = passes.iter().map(|pass| pass.tokens.len()).sum();
        let supervised_tokens = passes.iter().map(|pass| pass.targets.len()).sum();
        Ok(BatchReport { loss, tokens, supervised_tokens })
    }

    /// The optimiser's step over the gradients added up, which are zero afterwards. Of a run that was started, whose next
    /// step it is.
    pub async fn optim_step(&mut self, options: OptimOptions) -> Result<OptimReport> {
        let (run, _, _, steps) = self.running()?;
        let report = run.optim_step(options).await?;
        *steps = run.steps_taken();
        Ok(report)
    }

    /// Times every kernel of the run's next step (or its first, where it has ended), which is not taken: nothing changes.
    pub async fn profile(&self) -> Result<Profile> {
        let (Some(run), Some(dataset)) = (&self.run, &self.dataset) else {
            return not_ready("start training first");
        };
        run.trainer.profile(&run.passes(run.steps_taken() % run.total(), dataset)).await
    }

    /// Frees what training needs; the adapter stays.
    pub fn end_training(&mut self) {
        self.run = None;
    }

    /// A run and what it is of, and the count of the adapter's steps.
    fn running(&mut self) -> Result<(&mut Run, &Adapter, &Dataset, &mut usize)> {
        match (&mut self.run, &self.dataset, &mut self.adapter) {
            (Some(run), Some(dataset), Some((adapter, steps))) => Ok((run, adapter, dataset, steps)),
            _ => not_ready("start training first"),
        }
    }
}

fn longest(examples: &[Example], pairs: &[Pair]) -> usize {
    examples.iter().map(|example| example.ids.len()).chain(pairs.iter().map(Pair::tokens)).max().unwrap_or(0)
}
