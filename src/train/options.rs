//! What a run can be told, its ranges and its defaults.

use serde::{Deserialize, Serialize};

use super::OptimStep;
use crate::kernels::preference::{Preference, PreferenceLoss};
use crate::{Error, Result};

/// Most tokens of a pass, and of an example: kernels with a workgroup for each row may have 65,535 of them.
pub const MAX_TOKENS: usize = 32_768;

/// How the learning rate goes after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// The same `num_cycles` times, each time from the peak.
    CosineWithRestarts,
    /// A line down to 0.
    Linear,
    /// Stays.
    Constant,
}

/// How AdamW keeps its moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Optim {
    /// In f32: 8 bytes for each trained number.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// In 8 bits, with a scale for every 256 ([`crate::kernels::adamw_8bit`]): some 2 bytes for each trained number.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit,
}

/// What is learned of the examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// To say what is supervised: mean cross-entropy.
    #[default]
    Sft,
    /// To prefer the chosen answers of pairs to the rejected ones, more than the base model does.
    Dpo,
    /// To say what is chosen, and to prefer it to what is rejected.
    Orpo,
}

/// What the recording of a run's step depends on; all other numbers are in the step's uniform.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Recorded {
    /// Which moments there are.
    pub optim: Optim,
    /// Bs have a learning rate of their own.
    pub loraplus: bool,
    /// The loss is smoothed.
    pub label_smoothing: bool,
    /// There is noise on the embeddings.
    pub neftune: bool,
    /// Preference pairs are learned, and how.
    pub preference: Option<Preference>,
}

impl Recorded {
    /// Whether pairs are compared with what the base model says of them.
    pub fn needs_reference(&self) -> bool {
        self.preference.is_some_and(|preference| preference.loss == PreferenceLoss::Dpo)
    }
}

/// Settings of a run, with the names and meanings of transformers' `TrainingArguments` where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainOptions {
    /// Optimiser steps; wins over `epochs`.
    pub steps: Option<usize>,
    /// Times through the examples. Default 3 where `steps` is not given.
    pub epochs: Option<f64>,
    /// Examples of an optimiser step, or of each of its parts.
    pub batch_size: usize,
    /// Batches of an optimiser step, whose loss is the mean over the supervised tokens of all of them.
    pub gradient_accumulation_steps: usize,
    /// Tokens of a pass; a step has as many passes as its examples need. Default: what suits the examples.
    pub tokens_per_pass: Option<usize>,
    /// GPU memory that model, adapter and training may take together, in bytes. Where keeping all activations needs
    /// more, some are computed again in each step. Default: no limit.
    pub memory_budget: Option<u64>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps from 0 to the peak. Default: 5 % of all, rounded down.
    pub warmup_steps: Option<usize>,
    /// The same as a share of all steps, rounded up; `warmup_steps` wins where it is above 0.
    pub warmup_ratio: Option<f64>,
    /// How the learning rate goes after the warmup.
    pub schedule: Schedule,
    /// How many cosines [`Schedule::CosineWithRestarts`] has. Default: 1.
    pub num_cycles: Option<usize>,
    /// How moments are kept.
    pub optim: Optim,
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
    /// LoRA+ (arXiv 2402.12354): the learning rate of every B over that of A, which is `learning_rate`. Weight decay, which
    /// AdamW multiplies with the learning rate, is one number for both.
    pub loraplus_lr_ratio: f64,
    /// Share of the target's probability that is spread evenly over the vocabulary.
    pub label_smoothing_factor: f64,
    /// NEFTune (arXiv 2310.05914): embeddings get noise, uniform up to this over the root of their numbers in the example.
    /// 0 for none.
    pub neftune_noise_alpha: f64,
    /// Order of the examples, and noise.
    pub seed: u64,
    /// What is learned; `dpo` and `orpo` need preference pairs, of which `batch_size` counts each as one.
    pub loss: Loss,
    /// TRL's `beta`, for preference pairs: in DPO how much a change of likelihood counts, in ORPO the weight of the odds
    /// ratio.
    pub beta: f64,
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
            gradient_accumulation_steps: 1,
            tokens_per_pass: None,
            memory_budget: None,
            learning_rate: 1e-3,
            warmup_steps: None,
            warmup_ratio: None,
            schedule: Schedule::Cosine,
            num_cycles: None,
            optim: Optim::AdamW,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            max_grad_norm: 1.0,
            loraplus_lr_ratio: 1.0,
            label_smoothing_factor: 0.0,
            neftune_noise_alpha: 0.0,
            seed: 0,
            loss: Loss::Sft,
            beta: 0.1,
            eval_steps: None,
            eval_on_start: false,
            early_stopping_patience: None,
            load_best_model_at_end: false,
        }
    }
}

/// Most examples of an optimiser step.
const MAX_EXAMPLES: usize = 4096;

impl Loss {
    /// Which loss of pairs it is, if it is one.
    pub fn preference(self) -> Option<PreferenceLoss> {
        match self {
            Self::Sft => None,
            Self::Dpo => Some(PreferenceLoss::Dpo),
            Self::Orpo => Some(PreferenceLoss::Orpo),
        }
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Orpo => "orpo",
        })
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
        count("batchSize", Some(self.batch_size), 1..=MAX_EXAMPLES)?;
        let most = MAX_EXAMPLES / self.batch_size;
        count("gradientAccumulationSteps", Some(self.gradient_accumulation_steps), 1..=most)?;
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
        if let Some(ratio) = self.warmup_ratio {
            number("warmupRatio", ratio, (0.0..=1.0).contains(&ratio), "0 to 1")?;
        }
        match (self.num_cycles, self.schedule) {
            (Some(cycles), schedule) if schedule != Schedule::CosineWithRestarts => {
                return Err(setting("numCycles", cycles, "none unless schedule is cosine_with_restarts"));
            }
            (cycles, _) => count("numCycles", cycles, 1..=1_000_000)?,
        }
        if let Some(epochs) = self.epochs {
            number("epochs", epochs, epochs > 0.0 && epochs <= 10_000.0, "above 0, at most 10000")?;
        }
        let rate = self.learning_rate;
        number("learningRate", rate, rate > 0.0 && rate <= 1.0, "above 0, at most 1")?;
        number("weightDecay", self.weight_decay, (0.0..=10.0).contains(&self.weight_decay), "0 to 10")?;
        // In f32, as they are used: 1 divides by zero, and so does an eps of 0 where there is no gradient.
        let below_1 = |value: f64| value >= 0.0 && (value as f32) < 1.0;
        number("beta1", self.beta1, below_1(self.beta1), "0 up to but not including 1")?;
        number("beta2", self.beta2, below_1(self.beta2), "0 up to but not including 1")?;
        number("eps", self.eps, (1e-30..=1.0).contains(&self.eps), "1e-30 to 1")?;
        number("maxGradNorm", self.max_grad_norm, self.max_grad_norm >= 0.0, "0 (no limit) or more")?;
        let ratio = self.loraplus_lr_ratio;
        number("loraplusLrRatio", ratio, ratio > 0.0 && ratio <= 1e6, "above 0, at most 1000000")?;
        let smoothing = self.label_smoothing_factor;
        number("labelSmoothingFactor", smoothing, below_1(smoothing), "0 up to but not including 1")?;
        let alpha = self.neftune_noise_alpha;
        number("neftuneNoiseAlpha", alpha, (0.0..=1e6).contains(&alpha), "0 (none) to 1000000")?;
        number("beta", self.beta, self.beta > 0.0 && self.beta <= 100.0, "above 0, at most 100")?;
        if self.loss != Loss::Sft && smoothing > 0.0 {
            return Err(setting("labelSmoothingFactor", smoothing, "0 where the loss is dpo or orpo"));
        }
        Ok(())
    }

    /// Refuses a loss that does not learn from what there is: preference pairs, or other examples.
    pub fn belongs_to(&self, pairs: bool) -> Result<()> {
        let allowed = match (self.loss.preference().is_some(), pairs) {
            (true, false) => "sft, as the examples have no chosen and rejected answers",
            (false, true) => "dpo or orpo, as the examples are preference pairs",
            _ => return Ok(()),
        };
        Err(setting("loss", self.loss, allowed))
    }

    /// Examples of an optimiser step.
    pub fn examples_per_step(&self) -> usize {
        self.batch_size * self.gradient_accumulation_steps
    }

    /// What the recording of its step depends on.
    pub fn recorded(&self) -> Recorded {
        Recorded {
            optim: self.optim,
            loraplus: self.loraplus_lr_ratio != 1.0,
            label_smoothing: self.label_smoothing_factor > 0.0,
            neftune: self.neftune_noise_alpha > 0.0,
            preference: self.loss.preference().map(|loss| Preference { loss, beta: self.beta as f32 }),
        }
    }

    /// Optimiser steps over `n_examples`.
    pub fn total_steps(&self, n_examples: usize) -> usize {
        let epochs = self.epochs.unwrap_or(3.0);
        let steps = epochs * n_examples as f64 / self.examples_per_step() as f64;
        self.steps.unwrap_or_else(|| steps.ceil().max(1.0) as usize)
    }

    /// Steps of the warmup of `total`, as transformers' `TrainingArguments.get_warmup_steps` has them where one of the two
    /// settings is given.
    fn warmup(&self, total: usize) -> usize {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), None) => steps,
            (Some(steps), Some(_)) if steps > 0 => steps,
            (_, Some(ratio)) => (total as f64 * ratio).ceil() as usize,
            (None, None) => total / 20,
        }
    }

    /// The numbers of 0-based `step` of `total`, the learning rate as transformers'
    /// `get_{cosine,cosine_with_hard_restarts,linear,constant}_schedule_with_warmup` has it.
    pub fn optim_step(&self, step: usize, total: usize) -> OptimStep {
        let warmup = self.warmup(total);
        let factor = if step < warmup {
            step as f64 / warmup as f64
        } else {
            let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
            let cosine = |progress: f64| (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0);
            match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => (1.0 - progress).max(0.0),
                Schedule::Cosine => cosine(progress),
                Schedule::CosineWithRestarts if progress >= 1.0 => 0.0,
                Schedule::CosineWithRestarts => cosine(progress * self.num_cycles.unwrap_or(1) as f64 % 1.0),
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
            loraplus_lr_ratio: self.loraplus_lr_ratio,
            label_smoothing_factor: self.label_smoothing_factor,
            neftune_noise_alpha: self.neftune_noise_alpha,
            seed: self.seed,
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
        for step in 0..20 {
            assert_eq!(at(Schedule::CosineWithRestarts, step), at(Schedule::Cosine, step));
        }
    }

    #[test]
    fn cosines_start_again() {
        let options = TrainOptions {
            schedule: Schedule::CosineWithRestarts,
            num_cycles: Some(3),
            warmup_steps: Some(2),
            learning_rate: 0.5,
            ..Default::default()
        };
        let at = |step| options.optim_step(step, 32).learning_rate / 0.5;
        assert_eq!([1, 2, 12, 22, 32].map(at), [0.5, 1.0, 1.0, 1.0, 0.0]);
        assert!(
            (at(17) - 0.5).abs() < 1e-12 && (at(11) - 0.5 * (1.0 + (0.9 * std::f64::consts::PI).cos())).abs() < 1e-12
        );
    }

    #[test]
    fn a_warmup_is_given_in_steps_or_as_a_share() {
        let warmup =
            |warmup_steps, warmup_ratio| TrainOptions { warmup_steps, warmup_ratio, ..Default::default() }.warmup(50);
        assert_eq!([warmup(None, None), warmup(Some(0), None), warmup(Some(7), None)], [2, 0, 7]);
        assert_eq!([warmup(None, Some(0.05)), warmup(None, Some(0.0)), warmup(None, Some(1.0))], [3, 0, 50]);
        // transformers' own rule for two: 0 steps are none given.
        assert_eq!([warmup(Some(7), Some(0.05)), warmup(Some(0), Some(0.05))], [7, 3]);
    }

    #[test]
    fn a_step_has_the_examples_of_all_its_batches() {
        let options = TrainOptions { batch_size: 4, gradient_accumulation_steps: 3, ..Default::default() };
        assert_eq!((options.examples_per_step(), options.total_steps(100)), (12, 25));
    }

    #[test]
    fn settings_that_change_nothing_record_nothing() {
        let options = TrainOptions { loraplus_lr_ratio: 1.0, neftune_noise_alpha: 0.0, ..Default::default() };
        assert_eq!((options.recorded(), TrainOptions::default().recorded()), Default::default());
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
            ("eps", TrainOptions { eps: 1e-60, ..ok() }),
            ("beta2", TrainOptions { beta2: 1.0 - 1e-12, ..ok() }),
            ("labelSmoothingFactor", TrainOptions { label_smoothing_factor: 1.0 - 1e-12, ..ok() }),
            ("steps", TrainOptions { steps: Some(usize::MAX), ..ok() }),
            ("batchSize", TrainOptions { batch_size: usize::MAX, ..ok() }),
            ("warmupSteps", TrainOptions { warmup_steps: Some(usize::MAX), ..ok() }),
            ("tokensPerPass", TrainOptions { tokens_per_pass: Some(usize::MAX), ..ok() }),
            ("epochs", TrainOptions { epochs: Some(-1.0), ..ok() }),
            ("epochs", TrainOptions { epochs: Some(f64::INFINITY), ..ok() }),
            ("learningRate", TrainOptions { learning_rate: -1e-4, ..ok() }),
            ("learningRate", TrainOptions { learning_rate: f64::INFINITY, ..ok() }),
            ("maxGradNorm", TrainOptions { max_grad_norm: f64::NAN, ..ok() }),
            ("maxGradNorm", TrainOptions { max_grad_norm: f64::INFINITY, ..ok() }),
            ("evalSteps", TrainOptions { eval_steps: Some(0), ..ok() }),
            ("earlyStoppingPatience", TrainOptions { early_stopping_patience: Some(3), ..ok() }),
            ("loadBestModelAtEnd", TrainOptions { load_best_model_at_end: true, ..ok() }),
            ("gradientAccumulationSteps", TrainOptions { gradient_accumulation_steps: 0, ..ok() }),
            ("gradientAccumulationSteps", TrainOptions { gradient_accumulation_steps: 1025, ..ok() }),
            ("warmupRatio", TrainOptions { warmup_ratio: Some(1.5), ..ok() }),
            ("numCycles", TrainOptions { num_cycles: Some(2), ..ok() }),
            ("numCycles", TrainOptions { num_cycles: Some(0), schedule: Schedule::CosineWithRestarts, ..ok() }),
            ("loraplusLrRatio", TrainOptions { loraplus_lr_ratio: 0.0, ..ok() }),
            ("labelSmoothingFactor", TrainOptions { label_smoothing_factor: 1.0, ..ok() }),
            ("neftuneNoiseAlpha", TrainOptions { neftune_noise_alpha: -5.0, ..ok() }),
            ("beta", TrainOptions { beta: 0.0, ..ok() }),
            ("labelSmoothingFactor", TrainOptions { label_smoothing_factor: 0.1, loss: Loss::Dpo, ..ok() }),
        ] {
            match options.validate() {
                Err(Error::BadSetting { name: named, .. }) => assert_eq!(named, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
