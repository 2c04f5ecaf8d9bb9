//! What a run can be told, its ranges and its defaults.

use serde::{Deserialize, Serialize};

use super::OptimStep;
use crate::{Error, Result};

/// Most tokens of a pass, and of an example: kernels with a workgroup for each row may have 65,535 of them.
pub const MAX_TOKENS: usize = 32_768;

/// How the learning rate goes after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// A line down to 0.
    Linear,
    /// Stays.
    Constant,
}

/// Settings of a run, with the names and meanings of transformers' `TrainingArguments` where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainOptions {
    /// Optimiser steps; wins over `epochs`.
    pub steps: Option<usize>,
    /// Times through the examples. Default 3 where `steps` is not given.
    pub epochs: Option<f64>,
    /// Examples of an optimiser step.
    pub batch_size: usize,
    /// Tokens of a pass; a step has as many passes as its examples need. Default: what suits the examples.
    pub tokens_per_pass: Option<usize>,
    /// GPU memory that model, adapter and training may take together, in bytes. Where keeping all activations needs
    /// more, some are computed again in each step. Default: no limit.
    pub memory_budget: Option<u64>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps from 0 to the peak. Default: 5 % of all, rounded down.
    pub warmup_steps: Option<usize>,
    /// How the learning rate goes after the warmup.
    pub schedule: Schedule,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's first decay rate.
    pub beta1: f64,
    /// AdamW's second decay rate.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Global norm that gradients are scaled down to; 0 for no limit.
    pub max_grad_norm: f64,
    /// Order of the examples.
    pub seed: u64,
    /// Steps between evaluations, where examples are held out; there is one after the last step too. Default: none.
    pub eval_steps: Option<usize>,
    /// An evaluation before the first step as well.
    pub eval_on_start: bool,
    /// Ends the run after so many evaluations in a row that were no better than the best. Default: never.
    pub early_stopping_patience: Option<usize>,
    /// Leaves the adapter as it was at the best evaluation, not as it is at the end.
    pub load_best_model_at_end: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            batch_size: 4,
            tokens_per_pass: None,
            memory_budget: None,
            learning_rate: 1e-3,
            warmup_steps: None,
            schedule: Schedule::Cosine,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            max_grad_norm: 1.0,
            seed: 0,
            eval_steps: None,
            eval_on_start: false,
            early_stopping_patience: None,
            load_best_model_at_end: false,
        }
    }
}

impl TrainOptions {
    /// Refuses what makes no sense, by the name the caller used.
    pub fn validate(&self) -> Result<()> {
        let number = |name: &str, value: f64, ok: bool, allowed: &str| {
            if value.is_finite() && ok { Ok(()) } else { Err(setting(name, value, allowed)) }
        };
        let count = |name: &str, value: Option<usize>, range: std::ops::RangeInclusive<usize>| match value {
            Some(value) if !range.contains(&value) => {
                Err(setting(name, value, &format!("{} to {}", range.start(), range.end())))
            }
            _ => Ok(()),
        };
        count("steps", self.steps, 1..=1_000_000)?;
        count("batchSize", Some(self.batch_size), 1..=4096)?;
        count("tokensPerPass", self.tokens_per_pass, 16..=MAX_TOKENS)?;
        count("warmupSteps", self.warmup_steps, 0..=1_000_000)?;
        count("evalSteps", self.eval_steps, 1..=1_000_000)?;
        count("earlyStoppingPatience", self.early_stopping_patience, 1..=1_000_000)?;
        let evaluates = self.eval_steps.is_some();
        for (name, given) in [
            ("evalOnStart", self.eval_on_start),
            ("earlyStoppingPatience", self.early_stopping_patience.is_some()),
            ("loadBestModelAtEnd", self.load_best_model_at_end),
        ] {
            if given && !evaluates {
                return Err(setting(name, "given", "nothing where evalSteps is not given: it needs evaluations"));
            }
        }
        if let Some(epochs) = self.epochs {
            number("epochs", epochs, epochs > 0.0 && epochs <= 10_000.0, "above 0, at most 10000")?;
        }
        let rate = self.learning_rate;
        number("learningRate", rate, rate > 0.0 && rate <= 1.0, "above 0, at most 1")?;
        number("weightDecay", self.weight_decay, (0.0..=10.0).contains(&self.weight_decay), "0 to 10")?;
        number("beta1", self.beta1, (0.0..1.0).contains(&self.beta1), "0 up to but not including 1")?;
        number("beta2", self.beta2, (0.0..1.0).contains(&self.beta2), "0 up to but not including 1")?;
        number("eps", self.eps, self.eps > 0.0 && self.eps <= 1.0, "above 0, at most 1")?;
        number("maxGradNorm", self.max_grad_norm, self.max_grad_norm >= 0.0, "0 (no limit) or more")
    }

    /// Optimiser steps over `n_examples`.
    pub fn total_steps(&self, n_examples: usize) -> usize {
        let epochs = self.epochs.unwrap_or(3.0);
        self.steps.unwrap_or_else(|| (epochs * n_examples as f64 / self.batch_size as f64).ceil().max(1.0) as usize)
    }

    /// AdamW's numbers at 0-based `step` of `total`, the learning rate as transformers'
    /// `get_{cosine,linear,constant}_schedule_with_warmup` has it.
    pub fn optim_step(&self, step: usize, total: usize) -> OptimStep {
        let warmup = self.warmup_steps.unwrap_or(total / 20);
        let factor = if step < warmup {
            step as f64 / warmup as f64
        } else {
            let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
            match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => (1.0 - progress).max(0.0),
                Schedule::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
            }
        };
        OptimStep {
            t: step as u32 + 1,
            learning_rate: self.learning_rate * factor,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }
}

fn setting(name: &str, value: impl std::fmt::Display, allowed: &str) -> Error {
    Error::BadSetting { name: name.into(), value: value.to_string(), allowed: allowed.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_transformers_own() {
        let at = |schedule, step| {
            let options = TrainOptions { schedule, warmup_steps: Some(3), learning_rate: 0.5, ..Default::default() };
            options.optim_step(step, 20).learning_rate / 0.5
        };
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Constant] {
            assert_eq!([0, 1, 3].map(|step| at(schedule, step)), [0.0, 1.0 / 3.0, 1.0]);
        }
        assert!((at(Schedule::Cosine, 10) - 0.5 * (1.0 + (std::f64::consts::PI * 7.0 / 17.0).cos())).abs() < 1e-12);
        assert!((at(Schedule::Linear, 10) - 10.0 / 17.0).abs() < 1e-12);
        assert_eq!(at(Schedule::Constant, 19), 1.0);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let ok = TrainOptions::default;
        ok().validate().unwrap();
        for (name, options) in [
            ("steps", TrainOptions { steps: Some(0), ..ok() }),
            ("steps", TrainOptions { steps: Some(1 << 30), ..ok() }),
            ("epochs", TrainOptions { epochs: Some(f64::NAN), ..ok() }),
            ("batchSize", TrainOptions { batch_size: 0, ..ok() }),
            ("tokensPerPass", TrainOptions { tokens_per_pass: Some(1), ..ok() }),
            ("learningRate", TrainOptions { learning_rate: 0.0, ..ok() }),
            ("learningRate", TrainOptions { learning_rate: 1e9, ..ok() }),
            ("learningRate", TrainOptions { learning_rate: f64::NAN, ..ok() }),
            ("weightDecay", TrainOptions { weight_decay: -1.0, ..ok() }),
            ("beta1", TrainOptions { beta1: 1.0, ..ok() }),
            ("beta2", TrainOptions { beta2: -0.1, ..ok() }),
            ("eps", TrainOptions { eps: 0.0, ..ok() }),
            ("maxGradNorm", TrainOptions { max_grad_norm: f64::INFINITY, ..ok() }),
            ("evalSteps", TrainOptions { eval_steps: Some(0), ..ok() }),
            ("earlyStoppingPatience", TrainOptions { early_stopping_patience: Some(3), ..ok() }),
            ("loadBestModelAtEnd", TrainOptions { load_best_model_at_end: true, ..ok() }),
        ] {
            match options.validate() {
                Err(Error::BadSetting { name: named, .. }) => assert_eq!(named, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
