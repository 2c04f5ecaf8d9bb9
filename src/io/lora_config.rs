//! `adapter_config.json`: which modules an adapter changes, and how much of each, by peft's own rules.
//!
//! The fields and their defaults are peft 0.21's `LoraConfig`. A field that would change what the adapter does and
//! that we do not implement is refused by name, so that an adapter never gives other answers here than elsewhere.

use std::collections::BTreeSet;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

pub(super) const CONFIG_FILE: &str = "adapter_config.json";
/// Modules of a layer, in the order in which it uses them.
const CANONICAL_ORDER: [&str; 11] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
    "c_attn",
    "c_fc",
];

/// Some modules, by name or by a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModuleNames {
    /// Each the end of a path, in whole parts: `q_proj`, `self_attn.q_proj`.
    Names(Vec<String>),
    /// A regular expression that the whole path must match.
    Pattern(String),
}

impl ModuleNames {
    /// True where the module at `path` is one of them.
    pub fn has(&self, path: &str) -> Result<bool> {
        match self {
            Self::Names(names) => Ok(names.iter().any(|name| is_end(path, name))),
            Self::Pattern(pattern) => matches("", pattern, path),
        }
    }

    /// As a person would read them.
    pub fn to_list(&self) -> Vec<String> {
        match self {
            Self::Names(names) => names.clone(),
            Self::Pattern(pattern) => vec![pattern.clone()],
        }
    }
}

/// True where `name` is the end of `path`, in whole parts.
pub(crate) fn is_end(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// True where all of `path` is what `pattern` says after `start`.
fn matches(start: &str, pattern: &str, path: &str) -> Result<bool> {
    Regex::new(&format!(r"\A{start}(?:{pattern})\z"))
        .and_then(|regex| regex.is_match(path))
        .map_err(|error| bad_config(format!("the pattern '{pattern}' cannot be used: {error}")))
}

/// How an adapter begins: peft's `init_lora_weights`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitLoraWeights {
    /// A Kaiming-uniform, B zero.
    #[default]
    Default,
    /// A normal with a standard deviation of 1 / r, B zero.
    Gaussian,
    /// The largest singular values of the weight, which keeps the rest (PiSSA, arXiv 2404.02948).
    Pissa,
    /// The same by so many rounds of a randomised method.
    PissaNiter(usize),
    /// The first columns of the weight's QR decomposition, likewise (OLoRA, arXiv 2406.01775).
    Olora,
}

impl InitLoraWeights {
    /// What peft calls it.
    pub fn name(self) -> String {
        match self {
            Self::Default => "default".into(),
            Self::Gaussian => "gaussian".into(),
            Self::Pissa => "pissa".into(),
            Self::PissaNiter(n) => format!("pissa_niter_{n}"),
            Self::Olora => "olora".into(),
        }
    }

    /// The one that peft calls so.
    pub fn named(name: &str) -> Option<Self> {
        let rounds = || name.strip_prefix("pissa_niter_")?.parse().ok().filter(|rounds| *rounds <= 100);
        match name {
            "default" => Some(Self::Default),
            "gaussian" => Some(Self::Gaussian),
            "pissa" => Some(Self::Pissa),
            "olora" => Some(Self::Olora),
            _ => rounds().map(Self::PissaNiter),
        }
    }

    /// True where the first factors are made of the weight and taken out of it: what is trained is the difference to them.
    pub fn is_of_weight(self) -> bool {
        matches!(self, Self::Pissa | Self::PissaNiter(_) | Self::Olora)
    }

    fn to_json(self) -> Value {
        if self == Self::Default { json!(true) } else { json!(self.name()) }
    }
}

/// Which biases of the base are trained: peft's `bias`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All that there are, of linears and layer norms.
    All,
    /// Those of adapted modules.
    LoraOnly,
}

/// What peft's `LoraConfig` says that matters to us.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Strength before it is divided by the rank.
    pub lora_alpha: f32,
    /// Divide by the square root of the rank instead.
    pub use_rslora: bool,
    /// Magnitudes of the weights' rows are trained apart from their directions (DoRA, arXiv 2402.09353).
    pub use_dora: bool,
    /// How it begins.
    pub init_lora_weights: InitLoraWeights,
    /// Probability that an input of the low-rank branch is dropped in training.
    pub lora_dropout: f64,
    /// The adapted modules.
    pub target_modules: ModuleNames,
    /// Those of them that are not.
    pub exclude_modules: Option<ModuleNames>,
    /// The only layers that are adapted.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Other ranks for modules whose path ends as the pattern says; the first that does counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other alphas, likewise.
    pub alpha_pattern: Vec<(String, f32)>,
    /// The adapted weights are `[in, out]` in the base model, as GPT-2's are. The factors are as ever.
    pub fan_in_fan_out: bool,
    /// Which biases are trained.
    pub bias: Bias,
    /// Norms that are trained in full, each by the end of its path. As in peft, that need not be a whole part of it.
    pub modules_to_save: Vec<String>,
    /// The base model, where it is known.
    pub base_model_name_or_path: Option<String>,
}

impl LoraConfig {
    /// An adapter of all modules so named, with nothing out of the ordinary.
    pub fn new(r: usize, lora_alpha: f32, target_modules: Vec<String>) -> Self {
        Self {
            r,
            lora_alpha,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitLoraWeights::Default,
            lora_dropout: 0.0,
            target_modules: ModuleNames::Names(target_modules),
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: vec![],
            alpha_pattern: vec![],
            fan_in_fan_out: false,
            bias: Bias::None,
            modules_to_save: vec![],
            base_model_name_or_path: None,
        }
    }

    /// Rank and scaling of the module at `path`, where it is adapted: peft's `check_target_module_exists` and
    /// `get_pattern_key`.
    pub fn of_module(&self, path: &str) -> Result<Option<(usize, f32)>> {
        let excluded = self.exclude_modules.as_ref().map_or(Ok(false), |modules| modules.has(path))?;
        let in_layer = |layers: &Vec<usize>| layer_of(path).is_some_and(|layer| layers.contains(&layer));
        if excluded || !self.target_modules.has(path)? || !self.layers_to_transform.as_ref().is_none_or(in_layer) {
            return Ok(None);
        }
        let r = first_match(&self.rank_pattern, path)?.unwrap_or(self.r);
        let alpha = first_match(&self.alpha_pattern, path)?.unwrap_or(self.lora_alpha);
        let divisor = if self.use_rslora { (r as f32).sqrt() } else { r as f32 };
        Ok(Some((r, alpha / divisor)))
    }

    /// True where the vector `name` of the base, a module's path with `.weight` or `.bias`, is trained as it is: peft's
    /// `_mark_only_adapters_as_trainable` and `_set_trainable`.
    pub fn trains(&self, name: &str) -> Result<bool> {
        let (module, kind) = name.rsplit_once('.').unwrap_or_default();
        let bias = match self.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly => self.of_module(module)?.is_some(),
        };
        Ok(self.saves(module) || (kind == "bias" && bias))
    }

    /// True where the module at `path` is trained in full.
    pub(super) fn saves(&self, path: &str) -> bool {
        self.modules_to_save.iter().any(|name| path.ends_with(name.as_str()))
    }

    /// That of the plain adapter of twice the rank which says what one that began from the weights has become: as peft's
    /// `path_initial_model_for_weight_conversion`. All scalings stay.
    pub(crate) fn doubled(&self) -> Self {
        let alpha = |alpha: f32| if self.use_rslora { alpha * 2f32.sqrt() } else { 2.0 * alpha };
        Self {
            r: 2 * self.r,
            lora_alpha: alpha(self.lora_alpha),
            rank_pattern: self.rank_pattern.iter().map(|(name, r)| (name.clone(), 2 * r)).collect(),
            alpha_pattern: self.alpha_pattern.iter().map(|(name, of)| (name.clone(), alpha(*of))).collect(),
            init_lora_weights: InitLoraWeights::Default,
            ..self.clone()
        }
    }

    /// Reads the file. What a list of modules is to be where the file says `all-linear` is for the caller to know.
    pub(super) fn parse(config: &[u8], all_linear: impl FnOnce() -> Vec<String>) -> Result<Self> {
        let fields: Map<String, Value> =
            serde_json::from_slice(config).map_err(|error| bad_config(error.to_string()))?;
        refuse_unimplemented(&fields)?;
        let r = fields.get("r").and_then(rank).ok_or_else(|| bad_config("'r' is not a positive whole number"))?;
        let lora_alpha = fields.get("lora_alpha").and_then(finite);
        let target_modules = match modules(&fields, "target_modules")? {
            Some(ModuleNames::Pattern(all)) if all == "all-linear" => ModuleNames::Names(all_linear()),
            Some(modules) => modules,
            None => return Err(bad_config("'target_modules' is missing")),
        };
        let flag = |field: &str| fields.get(field).and_then(Value::as_bool).unwrap_or(false);
        let mut config = Self {
            r,
            lora_alpha: lora_alpha.ok_or_else(|| bad_config("'lora_alpha' is not a number"))?,
            use_rslora: flag("use_rslora"),
            use_dora: flag("use_dora"),
            init_lora_weights: fields
                .get("init_lora_weights")
                .and_then(|init| InitLoraWeights::named(init.as_str()?))
                .unwrap_or_default(),
            lora_dropout: dropout(&fields)?,
            target_modules,
            exclude_modules: modules(&fields, "exclude_modules")?,
            layers_to_transform: layers(&fields)?,
            rank_pattern: patterns(&fields, "rank_pattern", rank)?,
            alpha_pattern: patterns(&fields, "alpha_pattern", finite)?,
            fan_in_fan_out: flag("fan_in_fan_out"),
            bias: match fields.get("bias") {
                None | Some(Value::Null) => Bias::None,
                Some(bias) => Bias::deserialize(bias).map_err(|_| {
                    unsupported("bias", format!("it is {bias}; 'none', 'all' and 'lora_only' are read"))
                })?,
            },
            modules_to_save: match modules(&fields, "modules_to_save")? {
                None => vec![],
                Some(ModuleNames::Names(names)) => names,
                Some(ModuleNames::Pattern(_)) => return Err(bad_config("'modules_to_save' is not a list of names")),
            },
            base_model_name_or_path: fields
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        };
        config.sort_target_modules();
        Ok(config)
    }

    /// Puts module names into the order in which a layer uses them, and those of norms into that of the alphabet.
    pub fn sort_target_modules(&mut self) {
        self.modules_to_save.sort();
        self.modules_to_save.dedup();
        let ModuleNames::Names(names) = &mut self.target_modules else { return };
        let place = |name: &String| CANONICAL_ORDER.iter().position(|known| known == name).unwrap_or(usize::MAX);
        names.sort_by(|one, other| place(one).cmp(&place(other)).then_with(|| one.cmp(other)));
        names.dedup();
    }

    /// Every field that peft 0.21 writes, in its order.
    pub(crate) fn to_json(&self) -> Value {
        let by_pattern = |pairs: Vec<(&String, Value)>| -> Value {
            Value::Object(pairs.into_iter().map(|(pattern, value)| (pattern.clone(), value)).collect())
        };
        json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": by_pattern(self.alpha_pattern.iter().map(|(name, alpha)| (name, whole(*alpha))).collect()),
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": self.bias,
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "exclude_modules": self.exclude_modules,
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "init_lora_weights": self.init_lora_weights.to_json(),
            "kasa_config": null,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": self.layers_to_transform,
            "loftq_config": {},
            "lora_alpha": whole(self.lora_alpha),
            "lora_bias": false,
            "lora_dropout": self.lora_dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": Some(&self.modules_to_save).filter(|names| !names.is_empty()),
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": "0.21.2",
            "qalora_group_size": 16,
            "r": self.r,
            "rank_pattern": by_pattern(self.rank_pattern.iter().map(|(name, r)| (name, json!(r))).collect()),
            "revision": null,
            "target_modules": self.target_modules,
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": self.use_dora,
            "use_qalora": false,
            "use_rslora": self.use_rslora,
            "velora_config": null
        })
    }
}

/// peft has an alpha as a whole number where it is one, and so have those who read it as an int.
fn whole(alpha: f32) -> Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e9 { json!(alpha as i64) } else { json!(alpha) }
}

/// The number after a list of layers in a path: peft's `.*\.[^.]*\.(\d+)\.`.
fn layer_of(path: &str) -> Option<usize> {
    let parts: Vec<&str> = path.split('.').collect();
    let inner = parts.get(2..parts.len().saturating_sub(1))?;
    inner.iter().rev().find_map(|part| part.parse().ok())
}

/// What may stand before the end of a path.
const PARTS: &str = r"(?:.*\.)?";

/// The value of the first pattern that the end of `path` matches.
fn first_match<T: Copy>(patterns: &[(String, T)], path: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if matches(PARTS, pattern, path)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

pub(super) fn bad_config(message: impl Into<String>) -> Error {
    Error::BadFile { file: CONFIG_FILE.to_owned(), message: message.into() }
}

pub(super) fn unsupported(field: &str, message: String) -> Error {
    Error::Unsupported { file: CONFIG_FILE.to_owned(), field: field.to_owned(), message }
}

/// Refuses what would make the adapter act differently from what we compute. Fields that we do not know are refused
/// too when they are switched on: new kinds of LoRA arrive as new fields.
fn refuse_unimplemented(fields: &Map<String, Value>) -> Result<()> {
    /// Read, or without effect on a trained adapter.
    const HARMLESS: [&str; 29] = [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
        "runtime_config",
    ];
    match fields.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => return Err(unsupported("peft_type", format!("it is '{other}', 'LORA' is read"))),
        None => return Err(bad_config("'peft_type' is missing")),
    }
    for (name, value) in fields {
        let harmless = HARMLESS.contains(&name.as_str());
        let as_we_do = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty() || harmless,
            Value::Object(items) => items.is_empty() || harmless,
            Value::String(text) => match name.as_str() {
                // The other initialisations (PiSSA, OLoRA, CorDA, LoftQ) change the base model with them.
                "init_lora_weights" => matches!(text.as_str(), "gaussian" | "orthogonal" | "eva"),
                _ => text.is_empty() || harmless,
            },
            Value::Bool(true) | Value::Number(_) => harmless,
        };
        if !as_we_do {
            let shown: String = value.to_string().chars().take(60).collect();
            return Err(unsupported(name, format!("it is {shown}, which changes what an adapter does")));
        }
    }
    Ok(())
}

fn dropout(fields: &Map<String, Value>) -> Result<f64> {
    let p = fields.get("lora_dropout").map_or(Some(0.0), Value::as_f64);
    p.filter(|p| (0.0..1.0).contains(p)).ok_or_else(|| bad_config("'lora_dropout' is not a number from 0 to below 1"))
}

fn rank(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|r| usize::try_from(r).ok()).filter(|&r| r > 0)
}

fn finite(value: &Value) -> Option<f32> {
    value.as_f64().map(|alpha| alpha as f32).filter(|alpha| alpha.is_finite())
}

fn modules(fields: &Map<String, Value>, field: &str) -> Result<Option<ModuleNames>> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(pattern)) => {
            let modules = ModuleNames::Pattern(pattern.clone());
            modules.has("").map(|_| Some(modules))
        }
        Some(Value::Array(names)) => {
            let names: Option<BTreeSet<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            let names = names.ok_or_else(|| bad_config(format!("'{field}' is not a list of names")))?;
            Ok(Some(ModuleNames::Names(names.into_iter().collect())))
        }
        Some(_) => Err(bad_config(format!("'{field}' is not a list of names"))),
    }
}

/// One layer, a list of them, or null for all.
fn layers(fields: &Map<String, Value>) -> Result<Option<Vec<usize>>> {
    const FIELD: &str = "layers_to_transform";
    let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
    let layers = match fields.get(FIELD) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) if list.is_empty() => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(layer).collect(),
        Some(value) => layer(value).map(|layer| vec![layer]),
    };
    layers.map(Some).ok_or_else(|| bad_config(format!("'{FIELD}' is not a list of layers")))
}

fn patterns<T>(
    fields: &Map<String, Value>,
    field: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(vec![]),
        Some(Value::Object(pairs)) => pairs
            .iter()
            .map(|(pattern, value)| {
                matches(PARTS, pattern, "")?;
                let value = read(value).ok_or_else(|| bad_config(format!("'{field}' has {value} for '{pattern}'")))?;
                Ok((pattern.clone(), value))
            })
            .collect(),
        Some(_) => Err(bad_config(format!("'{field}' is not an object"))),
    }
}
