//! PEFT's adapter files: `adapter_config.json` and `adapter_model.safetensors`, in and out.
//!
//! The fields and their defaults are peft 0.21's `LoraConfig`. A field that would change what the adapter does and
//! that we do not implement is refused by name, so that an adapter never gives other answers here than elsewhere.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde_json::{Map, Value, json};

use super::{DType, dequantize};
use crate::{Error, Result};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What peft puts before a module's name.
const PREFIX: &str = "base_model.model.";
/// Modules of a llama layer, in the order in which a layer uses them.
const CANONICAL_ORDER: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// What peft's `LoraConfig` says that matters to us.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Strength before it is divided by the rank.
    pub lora_alpha: f32,
    /// Divide by the square root of the rank instead.
    pub use_rslora: bool,
    /// Short names of the adapted modules, from `q_proj` to `down_proj`, then others by name.
    pub target_modules: Vec<String>,
    /// The base model, where it is known.
    pub base_model_name_or_path: Option<String>,
}

impl LoraConfig {
    /// What the product of the factors is multiplied by.
    pub fn scaling(&self) -> f32 {
        let r = self.r as f32;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

/// Puts module names into the order in which a layer uses them.
pub fn sort_target_modules(modules: &mut Vec<String>) {
    let place = |name: &String| CANONICAL_ORDER.iter().position(|known| known == name).unwrap_or(usize::MAX);
    modules.sort_by(|one, other| place(one).cmp(&place(other)).then_with(|| one.cmp(other)));
    modules.dedup();
}

/// A matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `[rows, cols]`.
    pub data: Vec<f32>,
}

/// An adapter as its two files have it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFile {
    /// adapter_config.json.
    pub config: LoraConfig,
    /// Factors by name: `model.layers.0.self_attn.q_proj.lora_A` is `[r, in]`, its `lora_B` `[out, r]`.
    pub tensors: BTreeMap<String, Matrix>,
}

fn bad_config(message: impl Into<String>) -> Error {
    Error::BadFile { file: CONFIG_FILE.to_owned(), message: message.into() }
}

fn bad_weights(message: impl Into<String>) -> Error {
    Error::BadFile { file: WEIGHTS_FILE.to_owned(), message: message.into() }
}

impl AdapterFile {
    /// Reads and checks both files: every module has both factors, of the config's rank, finite.
    pub fn parse(config: &[u8], weights: &[u8]) -> Result<Self> {
        let fields: Map<String, Value> =
            serde_json::from_slice(config).map_err(|error| bad_config(error.to_string()))?;
        refuse_unimplemented(&fields)?;
        let tensors = read_factors(weights)?;
        let r = fields.get("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok()).filter(|&r| r > 0);
        let r = r.ok_or_else(|| bad_config("'r' is not a positive whole number"))?;
        let lora_alpha = fields.get("lora_alpha").and_then(Value::as_f64).map(|alpha| alpha as f32);
        let lora_alpha = lora_alpha.filter(|alpha| alpha.is_finite());
        let config = LoraConfig {
            r,
            lora_alpha: lora_alpha.ok_or_else(|| bad_config("'lora_alpha' is not a number"))?,
            use_rslora: fields.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            target_modules: target_modules(fields.get("target_modules"), &tensors)?,
            base_model_name_or_path: fields
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        };
        check_factors(&config, &tensors)?;
        Ok(Self { config, tensors })
    }

    /// Both files, as peft would write them: adapter_config.json and adapter_model.safetensors.
    pub fn write(&self) -> (Vec<u8>, Vec<u8>) {
        let config = format!("{:#}\n", config_json(&self.config)).into_bytes();
        let bytes: Vec<(String, [usize; 2], Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, matrix)| {
                let bytes = matrix.data.iter().flat_map(|value| value.to_le_bytes()).collect();
                (format!("{PREFIX}{name}.weight"), [matrix.rows, matrix.cols], bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("a matrix has rows × cols values");
            (name.as_str(), view)
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        (config, serialize(views, Some(metadata)).expect("a list of whole matrices can be written"))
    }
}

/// Refuses what would make the adapter act differently from what we compute. Fields that we do not know are refused
/// too when they are switched on: new kinds of LoRA arrive as new fields.
fn refuse_unimplemented(fields: &Map<String, Value>) -> Result<()> {
    /// Read, or without effect on a trained adapter.
    const HARMLESS: [&str; 22] = [
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "target_modules",
        "task_type",
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
                "bias" => text == "none",
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

fn unsupported(field: &str, message: String) -> Error {
    Error::Unsupported { file: CONFIG_FILE.to_owned(), field: field.to_owned(), message }
}

/// Short names from the config; where those are patterns that peft resolves on the base model, from the factors.
fn target_modules(value: Option<&Value>, tensors: &BTreeMap<String, Matrix>) -> Result<Vec<String>> {
    let mut modules: Vec<String> = match value {
        Some(Value::Array(names)) => names
            .iter()
            .map(|name| {
                let name = name.as_str().ok_or_else(|| bad_config("'target_modules' is not a list of names"))?;
                Ok(name.rsplit('.').next().unwrap_or(name).to_owned())
            })
            .collect::<Result<_>>()?,
        Some(Value::String(all)) if all == "all-linear" => {
            tensors.keys().filter_map(|name| name.rsplit('.').nth(1)).map(str::to_owned).collect()
        }
        Some(Value::String(pattern)) => {
            return Err(unsupported(
                "target_modules",
                format!("it is the pattern '{pattern}'; a list of names or 'all-linear' is read"),
            ));
        }
        _ => return Err(bad_config("'target_modules' is missing")),
    };
    sort_target_modules(&mut modules);
    Ok(modules)
}

fn read_factors(weights: &[u8]) -> Result<BTreeMap<String, Matrix>> {
    let file = SafeTensors::deserialize(weights).map_err(|error| bad_weights(error.to_string()))?;
    let mut tensors = BTreeMap::new();
    // In the order of names, so that one file always has one error.
    for (key, view) in BTreeMap::from_iter(file.iter()) {
        let name = key.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(".weight"));
        let Some(name) = name.filter(|name| name.ends_with(".lora_A") || name.ends_with(".lora_B")) else {
            return Err(Error::Unsupported {
                file: WEIGHTS_FILE.to_owned(),
                field: format!("the tensor '{key}'"),
                message: format!("only {PREFIX}….lora_A.weight and ….lora_B.weight are read"),
            });
        };
        let data = match view.dtype() {
            Dtype::F32 => dequantize(DType::F32, view.data()),
            Dtype::F16 => dequantize(DType::F16, view.data()),
            Dtype::BF16 => dequantize(DType::BF16, view.data()),
            // peft saves what it trained in; our factors are f32.
            Dtype::F64 => doubles(view.data()).map(|value| value as f32).collect(),
            other => {
                return Err(Error::Unsupported {
                    file: WEIGHTS_FILE.to_owned(),
                    field: format!("tensor type {other}"),
                    message: format!("'{key}' has it; F64, F32, F16 and BF16 are read"),
                });
            }
        };
        let &[rows, cols] = view.shape() else {
            return Err(bad_weights(format!("'{key}' has the shape {:?}, not that of a matrix", view.shape())));
        };
        if let Some(at) = data.iter().position(|value| !value.is_finite()) {
            return Err(bad_weights(format!("'{key}' has {} at element {at}", data[at])));
        }
        tensors.insert(name.to_owned(), Matrix { rows, cols, data });
    }
    Ok(tensors)
}

fn doubles(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes))
}

fn check_factors(config: &LoraConfig, tensors: &BTreeMap<String, Matrix>) -> Result<()> {
    if tensors.is_empty() {
        return Err(bad_weights("there are no factors in it"));
    }
    for (name, matrix) in tensors {
        let (module, kind) = name.rsplit_once('.').unwrap_or_default();
        let (other, rank) = if kind == "lora_A" { ("lora_B", matrix.rows) } else { ("lora_A", matrix.cols) };
        if !tensors.contains_key(&format!("{module}.{other}")) {
            return Err(bad_weights(format!("'{module}' has {kind} but no {other}")));
        }
        if rank != config.r || matrix.data.is_empty() {
            return Err(bad_weights(format!(
                "'{name}' is {} × {} where {CONFIG_FILE} says rank {}",
                matrix.rows, matrix.cols, config.r
            )));
        }
        let short = module.rsplit('.').next().unwrap_or(module);
        if !config.target_modules.iter().any(|target| target == short) {
            return Err(bad_weights(format!("'{name}' is of no module that {CONFIG_FILE} names")));
        }
    }
    Ok(())
}

/// Every field that peft 0.21 writes, in its order.
fn config_json(config: &LoraConfig) -> Value {
    // peft has alpha as a whole number where it is one, and so have those who read it as an int.
    let alpha = match config.lora_alpha {
        alpha if alpha.fract() == 0.0 && alpha.abs() < 1e9 => json!(alpha as i64),
        alpha => json!(alpha),
    };
    json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": {},
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": config.base_model_name_or_path,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_bias": false,
        "lora_dropout": 0.0,
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": config.r,
        "rank_pattern": {},
        "revision": null,
        "target_modules": config.target_modules,
        "target_parameters": null,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": null,
        "use_bdlora": null,
        "use_dora": false,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null
    })
}
