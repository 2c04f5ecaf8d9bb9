//! PEFT's adapter files: `adapter_config.json` and `adapter_model.safetensors`, in and out.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::lora_config::{CONFIG_FILE, LoraConfig};
use super::{DType, dequantize};
use crate::{Error, Result};

const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What peft puts before a module's name.
const PREFIX: &str = "base_model.model.";

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

fn bad_weights(message: impl Into<String>) -> Error {
    Error::BadFile { file: WEIGHTS_FILE.to_owned(), message: message.into() }
}

impl AdapterFile {
    /// Reads and checks both files: every module has both factors, of the config's rank, finite.
    pub fn parse(config: &[u8], weights: &[u8]) -> Result<Self> {
        let tensors = read_factors(weights)?;
        let kinds = || tensors.keys().filter_map(|name| name.rsplit('.').nth(1)).map(str::to_owned).collect();
        let config = LoraConfig::parse(config, kinds)?;
        check_factors(&config, &tensors)?;
        Ok(Self { config, tensors })
    }

    /// Both files, as peft would write them: adapter_config.json and adapter_model.safetensors.
    pub fn write(&self) -> (Vec<u8>, Vec<u8>) {
        let config = format!("{:#}\n", self.config.to_json()).into_bytes();
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

/// A module's factors and what their product is multiplied with.
pub(crate) struct FactorPair<'a> {
    pub(crate) name: &'a str,
    /// `[r, in]`.
    pub(crate) a: &'a Matrix,
    /// `[out, r]`.
    pub(crate) b: &'a Matrix,
    pub(crate) scaling: f32,
}

/// The factors by module, for formats that have nothing else: a file with more in it is refused.
pub(crate) fn factor_pairs(file: &AdapterFile) -> Result<Vec<FactorPair<'_>>> {
    let mut pairs = vec![];
    for (key, a) in &file.tensors {
        match key.rsplit_once('.') {
            Some((name, "lora_A")) => {
                let b = file.tensors.get(&format!("{name}.lora_B"));
                let (Some(b), Some((_, scaling))) = (b, file.config.of_module(name)?) else {
                    return Err(bad_weights(format!("'{name}' has no lora_B or is not named by {CONFIG_FILE}")));
                };
                pairs.push(FactorPair { name, a, b, scaling });
            }
            Some((_, "lora_B")) => {}
            _ => {
                return Err(Error::Unsupported {
                    file: WEIGHTS_FILE.to_owned(),
                    field: format!("the tensor '{key}'"),
                    message: "other formats take lora_A and lora_B alone".to_owned(),
                });
            }
        }
    }
    Ok(pairs)
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

pub(super) fn check_factors(config: &LoraConfig, tensors: &BTreeMap<String, Matrix>) -> Result<()> {
    if tensors.is_empty() {
        return Err(bad_weights("there are no factors in it"));
    }
    for (name, matrix) in tensors {
        let (module, kind) = name.rsplit_once('.').unwrap_or_default();
        let (other, rank) = if kind == "lora_A" { ("lora_B", matrix.rows) } else { ("lora_A", matrix.cols) };
        if !tensors.contains_key(&format!("{module}.{other}")) {
            return Err(bad_weights(format!("'{module}' has {kind} but no {other}")));
        }
        let Some((r, _)) = config.of_module(module)? else {
            return Err(bad_weights(format!("'{name}' is of no module that {CONFIG_FILE} names")));
        };
        if rank != r || matrix.data.is_empty() {
            return Err(bad_weights(format!(
                "'{name}' is {} × {} where {CONFIG_FILE} says rank {r}",
                matrix.rows, matrix.cols
            )));
        }
    }
    Ok(())
}
