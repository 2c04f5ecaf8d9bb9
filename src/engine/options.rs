//! What callers give the engine.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::kinds;
use crate::data::{DataMapping, Format};
use crate::io::{Bias, InitLoraWeights, LoraConfig, Message, ModuleNames, Quantization};
use crate::kernels::preference::Preference;
use crate::lora::ModuleGroup;
use crate::model::Config;
use crate::train::{Loss, Optim, Recorded, TrainOptions};
use crate::{Error, Result};

/// How files of examples are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DataOptions {
    /// Tokens of an example at most; the model's context where not given.
    pub max_length: Option<usize>,
    /// Told by content and name where not given.
    pub format: Option<Format>,
    /// Told by the columns where not given.
    pub mapping: Option<DataMapping>,
    /// Share of the examples that is held out to evaluate on, at most 0.5; 0 for none.
    pub eval_share: f64,
    /// Which these are.
    pub seed: u64,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadOptions {
    /// Most positions it is to run at; 2,048 where not given, and no more than it was made for.
    pub context_length: Option<usize>,
    /// What its matrices of F32, F16 and BF16 are made into; they stay as they are where not given.
    pub quantize: Option<Quantization>,
}

/// Settings of a new adapter, with PEFT's names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LoraOptions {
    /// Rank.
    pub r: usize,
    /// Scaling is `lora_alpha / r`.
    pub lora_alpha: f32,
    /// Scaling is `lora_alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// DoRA: the magnitudes of the weights' rows are trained apart from their directions. A step takes longer.
    pub use_dora: bool,
    /// How it begins: `default`, `gaussian`, `pissa`, `pissa_niter_16` (or another number of rounds) or `olora`.
    pub init_lora_weights: String,
    /// Probability that an input of the low-rank branch is dropped in training, from 0 to below 1. Linears that read the same
    /// input drop the same of it.
    pub lora_dropout: f64,
    /// Names of linears, or a pattern; all that there are where not given, or where it is `all-linear`.
    pub target_modules: Option<ModuleNames>,
    /// Those of them that are left alone.
    pub exclude_modules: Option<ModuleNames>,
    /// The only layers that are adapted.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Other ranks, by the end of a module's path (a pattern).
    pub rank_pattern: Map<String, Value>,
    /// Other alphas, likewise.
    pub alpha_pattern: Map<String, Value>,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Norms that are trained in full, by the ends of their paths.
    pub modules_to_save: Vec<String>,
    /// Of A.
    pub seed: u64,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 16.0,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: "default".into(),
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: Map::new(),
            alpha_pattern: Map::new(),
            bias: Bias::None,
            modules_to_save: vec![],
            seed: 0,
        }
    }
}

impl LoraOptions {
    /// What PEFT would write, for the model `base` of these sizes with linears in these `groups`.
    pub(super) fn config(self, base: &str, model: &Config, groups: &[ModuleGroup]) -> Result<LoraConfig> {
        let target_modules = match self.target_modules {
            None => ModuleNames::Names(kinds(groups)),
            Some(ModuleNames::Pattern(all)) if all == "all-linear" => ModuleNames::Names(kinds(groups)),
            Some(modules) => modules,
        };
        let init_lora_weights = InitLoraWeights::named(&self.init_lora_weights).ok_or_else(|| Error::BadSetting {
            name: "initLoraWeights".into(),
            value: self.init_lora_weights.clone(),
            allowed: "default, gaussian, pissa, pissa_niter_ with a number of rounds up to 100, or olora".into(),
        })?;
        Ok(LoraConfig {
            r: self.r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            init_lora_weights,
            lora_dropout: self.lora_dropout,
            target_modules,
            exclude_modules: self.exclude_modules,
            layers_to_transform: self.layers_to_transform,
            rank_pattern: by_pattern("rankPattern", self.rank_pattern, |value| Some(value.as_u64()? as usize))?,
            alpha_pattern: by_pattern("alphaPattern", self.alpha_pattern, |value| Some(value.as_f64()? as f32))?,
            fan_in_fan_out: model.fan_in_fan_out(),
            bias: self.bias,
            modules_to_save: self.modules_to_save,
            base_model_name_or_path: Some(base.to_owned()),
        })
    }
}

/// Numbers above 0 by pattern, in the order in which they were given.
fn by_pattern<T: PartialOrd + Default>(
    name: &str,
    pairs: Map<String, Value>,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let read = |(pattern, value): (String, Value)| match read(&value).filter(|number| *number > T::default()) {
        Some(number) => Ok((pattern, number)),
        None => {
            Err(Error::BadSetting { name: name.into(), value: value.to_string(), allowed: "numbers above 0".into() })
        }
    };
    pairs.into_iter().map(read).collect()
}

/// What to foresee the memory of.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanOptions {
    /// As in [`LoadOptions`].
    pub context_length: Option<usize>,
    /// As in [`LoadOptions`].
    pub quantize: Option<Quantization>,
    /// As in [`LoraOptions`].
    pub r: Option<usize>,
    /// As in [`LoraOptions`].
    pub target_modules: Option<ModuleNames>,
    /// As in [`LoraOptions`].
    pub exclude_modules: Option<ModuleNames>,
    /// As in [`LoraOptions`].
    pub layers_to_transform: Option<Vec<usize>>,
    /// As in [`LoraOptions`].
    pub rank_pattern: Map<String, Value>,
    /// As in [`LoraOptions`]; takes nothing.
    pub use_rslora: bool,
    /// As in [`LoraOptions`].
    pub use_dora: bool,
    /// As in [`LoraOptions`].
    pub lora_dropout: f64,
    /// As in [`LoraOptions`].
    pub bias: Bias,
    /// As in [`LoraOptions`].
    pub modules_to_save: Vec<String>,
    /// As in [`TrainOptions`]; 512 where not given.
    pub tokens_per_pass: Option<usize>,
    /// As in [`TrainOptions`].
    pub memory_budget: Option<u64>,
    /// As in [`TrainOptions`].
    pub loss: Loss,
    /// As in [`TrainOptions`].
    pub optim: Option<Optim>,
    /// As in [`TrainOptions`].
    pub loraplus_lr_ratio: Option<f64>,
    /// As in [`TrainOptions`].
    pub label_smoothing_factor: Option<f64>,
    /// As in [`TrainOptions`].
    pub neftune_noise_alpha: Option<f64>,
    /// As in [`TrainOptions`]: evaluations take memory of their own.
    pub eval_steps: Option<usize>,
}

impl PlanOptions {
    /// The adapter's.
    pub(super) fn lora(&self) -> LoraOptions {
        let usual = LoraOptions::default();
        LoraOptions {
            r: self.r.unwrap_or(usual.r),
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            rank_pattern: self.rank_pattern.clone(),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            lora_dropout: self.lora_dropout,
            bias: self.bias,
            modules_to_save: self.modules_to_save.clone(),
            ..usual
        }
    }

    /// What of the run takes memory.
    pub(super) fn recorded(&self) -> Recorded {
        let run = TrainOptions::default();
        let run = TrainOptions {
            loss: self.loss,
            optim: self.optim.unwrap_or(run.optim),
            loraplus_lr_ratio: self.loraplus_lr_ratio.unwrap_or(run.loraplus_lr_ratio),
            label_smoothing_factor: self.label_smoothing_factor.unwrap_or(run.label_smoothing_factor),
            neftune_noise_alpha: self.neftune_noise_alpha.unwrap_or(run.neftune_noise_alpha),
            ..run
        };
        run.recorded()
    }
}

/// What to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EvaluateOptions {
    /// On which examples.
    pub data: EvaluateOn,
    /// Of the adapter: 0 is the base model.
    pub strength: f32,
    /// By which loss preference pairs are scored, dpo or orpo; where not given, by that of the run, or dpo.
    pub loss: Option<Loss>,
    /// As in [`TrainOptions`], likewise.
    pub beta: Option<f64>,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { data: EvaluateOn::Eval, strength: 1.0, loss: None, beta: None }
    }
}

impl EvaluateOptions {
    /// How pairs are scored, in the course of a run or without one. `None` where there are no `pairs`.
    ///
    /// Errs where the options are not of what there is, or out of their range.
    pub(super) fn preference(&self, pairs: bool, run: Option<&TrainOptions>) -> Result<Option<Preference>> {
        let run = run.filter(|run| run.loss.preference().is_some());
        let by = TrainOptions {
            loss: self.loss.or(run.map(|run| run.loss)).unwrap_or(if pairs { Loss::Dpo } else { Loss::Sft }),
            beta: self.beta.or(run.map(|run| run.beta)).unwrap_or(TrainOptions::default().beta),
            ..Default::default()
        };
        by.validate()?;
        by.belongs_to(pairs)?;
        Ok(by.recorded().preference)
    }
}

/// Which of the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvaluateOn {
    /// Those held out.
    Eval,
    /// Those trained on.
    Train,
}

/// AdamW's numbers for one step of a loop of one's own; what is left out is as the run's options have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OptimOptions {
    /// Where not given, the schedule's for this step.
    pub learning_rate: Option<f64>,
    /// As in [`crate::train::TrainOptions`].
    pub weight_decay: Option<f64>,
    /// As in [`crate::train::TrainOptions`].
    pub max_grad_norm: Option<f64>,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, through the model's template.
    Messages(Vec<Message>),
    /// Text as it is.
    Text(String),
}
