//! What the engine answers with.

use serde::{Deserialize, Serialize};

use crate::io::{Bias, QuantizationError};
use crate::low_rank::AdapterCost;
use crate::train::{Evaluation, MemoryPlan, RewardsReport};

/// What is being done and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// `open`, `weights`, `compile` or `evaluate`.
    pub phase: &'static str,
    /// In the phase's own unit: bytes, kernels or passes.
    pub loaded: u64,
    /// All there is.
    pub total: u64,
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// Its architecture.
    pub model_type: String,
    /// Numbers in it.
    pub parameters: u64,
    /// Bytes of them as they were loaded, and about as many on the GPU.
    pub weight_bytes: u64,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Positions it was loaded for.
    pub context_length: usize,
    /// Entries of its vocabulary.
    pub vocab_size: usize,
    /// The type most of its numbers have, as they were loaded.
    pub dtype: String,
    /// What quantising them cost; None where none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationError>,
    /// What `targetModules` may name.
    pub target_modules: Vec<String>,
    /// What `modulesToSave` may name.
    pub norm_modules: Vec<String>,
    /// Text can be given.
    pub has_tokenizer: bool,
    /// Conversations can be given.
    pub has_chat_template: bool,
}

/// What training a model would be like.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// What it needs.
    #[serde(flatten)]
    pub memory: MemoryPlan,
    /// In full passes, by the rate of this GPU's products: right to some tens of percent.
    pub tokens_per_second: f64,
    /// What is trained of it, beside full fine-tuning.
    pub cost: AdapterCost,
}

/// What an adapter is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterInfo {
    /// Rank.
    pub r: usize,
    /// See [`super::LoraOptions`].
    pub lora_alpha: f32,
    /// See [`super::LoraOptions`].
    pub use_rslora: bool,
    /// See [`super::LoraOptions`].
    pub use_dora: bool,
    /// Kinds of linears.
    pub target_modules: Vec<String>,
    /// See [`super::LoraOptions`].
    pub bias: Bias,
    /// See [`super::LoraOptions`].
    pub modules_to_save: Vec<String>,
    /// Numbers that are trained.
    pub parameters: usize,
    /// Numbers of the weights they stand for.
    pub base_parameters: usize,
    /// Optimiser steps taken here.
    pub trained_steps: usize,
}

/// What a run will do and need.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainPlan {
    /// Optimiser steps.
    pub steps: usize,
    /// Examples of a step.
    pub batch_size: usize,
    /// Tokens a pass can hold.
    pub tokens_per_pass: usize,
    /// Passes of the first step.
    pub passes: usize,
    /// Tokens of all examples.
    pub tokens_per_epoch: usize,
    /// The GPU's memory in use.
    pub memory: MemoryPlan,
    /// Kernels of a pass and the update.
    pub dispatches: usize,
}

/// What [`super::Engine::train_step`] came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainProgress {
    /// There is nothing more to come.
    pub done: bool,
    /// It is done because evaluations had ceased to get better.
    pub stopped_early: bool,
    /// Of a step, this one or the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<StepReport>,
    /// Of an evaluation that is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvalReport>,
}

/// One evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvalReport {
    /// After how many steps.
    pub step: usize,
    /// Over the examples held out.
    #[serde(flatten)]
    pub scores: Evaluation,
    /// No earlier one had so low a loss.
    pub best: bool,
}

/// What [`super::Engine::forward_backward`] went through.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchReport {
    /// Mean cross-entropy over its supervised tokens.
    pub loss: f32,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Those that were learned from.
    pub supervised_tokens: usize,
}

/// What [`super::Engine::optim_step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptimReport {
    /// From 1.
    pub step: usize,
    /// Before clipping.
    pub grad_norm: f32,
    /// Of this step.
    pub learning_rate: f64,
    /// Gradients were not finite: nothing was changed.
    pub skipped: bool,
}

/// One optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// From 1.
    pub step: usize,
    /// All there will be.
    pub steps: usize,
    /// Mean cross-entropy over the step's supervised tokens, or mean loss of its pairs, before the update.
    pub loss: f32,
    /// Before clipping.
    pub grad_norm: f32,
    /// Of this step.
    pub learning_rate: f64,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Those that were learned.
    pub supervised_tokens: usize,
    /// Loss or gradients were not finite: nothing was changed.
    pub skipped: bool,
    /// Where preferences are learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<RewardsReport>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generated {
    /// Without special tokens.
    pub text: String,
    /// Tokens generated.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// `end`, `length` or `cancelled`.
    pub stopped: &'static str,
    /// How likely each token was, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenLogprobs>>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// What it adds to the text before it: special tokens by their names, parts of characters as U+FFFD.
    pub text: String,
    /// The natural logarithm of its probability.
    pub logprob: f64,
}

/// A token generated, and the likeliest ones there were in its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprobs {
    /// The one chosen.
    #[serde(flatten)]
    pub token: TokenLogprob,
    /// The likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// One of the adapters that an engine has.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterEntry {
    /// Its name; the one without came by no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It is the one that answers and is trained.
    pub in_use: bool,
    /// What it is.
    #[serde(flatten)]
    pub info: AdapterInfo,
}
