//! PEFT's adapter files: `adapter_config.json` and `adapter_model.safetensors`, in and out.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::lora_config::{Bias, CONFIG_FILE, LoraConfig, unsupported};
use super::{DType, dequantize};
use crate::{Error, Result};

const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What peft puts before a module's name.
const PREFIX: &str = "base_model.model.";
/// The end of the name of a module's magnitudes, which are a vector and alone have no `.weight` after it.
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// What peft puts between an adapted module's name and what it had before.
const BASE_LAYER: &str = ".base_layer";

/// True of the names of biases and norms that are trained as they are.
fn is_vector(name: &str) -> bool {
    name.ends_with(".weight") || name.ends_with(".bias")
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
    /// Factors by name: `model.layers.0.self_attn.q_proj.lora_A` is `[r, in]`, its `lora_B` `[out, r]`; with DoRA its
    /// `lora_magnitude_vector` is `[out, 1]`, and biases and norms that are trained as they are,
    /// `model.layers.0.input_layernorm.weight`, are `[out, 1]` too.
    pub tensors: BTreeMap<String, Matrix>,
}

fn bad_weights(message: impl Into<String>) -> Error {
    Error::BadFile { file: WEIGHTS_FILE.to_owned(), message: message.into() }
}

impl AdapterFile {
    /// Reads and checks both files: every module has both factors, of the config's rank, and with DoRA its magnitudes; all
    /// other vectors are of what the config trains; all are finite.
    pub fn parse(config: &[u8], weights: &[u8]) -> Result<Self> {
        let tensors = read_factors(weights)?;
        let adapted = || tensors.keys().filter_map(|name| name.strip_suffix(".lora_A"));
        let kinds = || adapted().filter_map(|module| module.rsplit('.').next()).map(str::to_owned).collect();
        let config = LoraConfig::parse(config, kinds)?;
        let (seconds, tensors): (BTreeMap<_, _>, BTreeMap<_, _>) =
            tensors.into_iter().partition(|(name, _)| second_bias(name).is_some());
        let is_second = |name: &str| {
            let bias = second_bias(name).map(|module| format!("{module}.bias"));
            config.bias == Bias::All && bias.is_some_and(|bias| tensors.contains_key(&bias))
        };
        if let Some(name) = seconds.keys().find(|name| !is_second(name)) {
            return Err(unread(&format!("{PREFIX}{name}")));
        }
        check_factors(&config, &tensors)?;
        Ok(Self { config, tensors })
    }

    /// Refuses DoRA, for a reason.
    pub(crate) fn refuse_dora(&self, because: &str) -> Result<()> {
        match self.config.use_dora {
            true => Err(unsupported("use_dora", format!("it is true, and {because}"))),
            false => Ok(()),
        }
    }

    /// Refuses biases and norms that are trained as they are, for a reason.
    pub(crate) fn refuse_vectors(&self, because: &str) -> Result<()> {
        let Some(name) = self.tensors.keys().find(|name| is_vector(name)) else { return Ok(()) };
        let is_saved = name.rsplit_once('.').is_some_and(|(module, _)| self.config.saves(module));
        let field = if is_saved { "modules_to_save" } else { "bias" };
        Err(unsupported(field, format!("'{name}' is trained as it is, and {because}")))
    }

    /// The vectors that take the place of the base's, by their names.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = (&str, &[f32])> {
        let vectors = self.tensors.iter().filter(|(name, _)| is_vector(name));
        vectors.map(|(name, matrix)| (name.as_str(), &matrix.data[..]))
    }

    /// The key of a tensor as peft writes it.
    fn key_of(&self, name: &str) -> String {
        if !is_vector(name) {
            let end = if name.ends_with(MAGNITUDE) { "" } else { ".weight" };
            return format!("{PREFIX}{name}{end}");
        }
        match name.strip_suffix(".bias") {
            Some(module) if self.tensors.contains_key(&format!("{module}.lora_A")) => {
                format!("{PREFIX}{module}{BASE_LAYER}.bias")
            }
            _ => format!("{PREFIX}{name}"),
        }
    }

    /// Both files, as peft would write them: adapter_config.json and adapter_model.safetensors.
    pub fn write(&self) -> (Vec<u8>, Vec<u8>) {
        let config = format!("{:#}\n", self.config.to_json()).into_bytes();
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, matrix)| {
                let bytes = matrix.data.iter().flat_map(|value| value.to_le_bytes()).collect();
                let is_matrix = !name.ends_with(MAGNITUDE) && !is_vector(name);
                let shape = if is_matrix { vec![matrix.rows, matrix.cols] } else { vec![matrix.rows] };
                (self.key_of(name), shape, bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a matrix has rows × cols values");
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
    /// DoRA's, `[out, 1]`.
    pub(crate) magnitude: Option<&'a Matrix>,
    pub(crate) scaling: f32,
}

/// The factors by module. Who has no place for [`AdapterFile::vectors`] refuses them; a file with more in it is refused.
pub(crate) fn factor_pairs(file: &AdapterFile) -> Result<Vec<FactorPair<'_>>> {
    let mut pairs = vec![];
    for (key, a) in &file.tensors {
        match key.rsplit_once('.') {
            Some((name, "lora_A")) => {
                let b = file.tensors.get(&format!("{name}.lora_B"));
                let (Some(b), Some((_, scaling))) = (b, file.config.of_module(name)?) else {
                    return Err(bad_weights(format!("'{name}' has no lora_B or is not named by {CONFIG_FILE}")));
                };
                let magnitude = file.tensors.get(&format!("{name}{MAGNITUDE}"));
                pairs.push(FactorPair { name, a, b, magnitude, scaling });
            }
            Some((_, "lora_B")) => {}
            Some((_, "lora_magnitude_vector")) if file.config.use_dora => {}
            _ if is_vector(key) => {}
            _ => {
                return Err(Error::Unsupported {
                    file: WEIGHTS_FILE.to_owned(),
                    field: format!("the tensor '{key}'"),
                    message: "other formats do not take it".to_owned(),
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
        let weight = key.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(".weight"));
        let factor = weight.filter(|name| [".lora_A", ".lora_B"].iter().any(|end| name.ends_with(end)));
        let own = |is_ours: fn(&str) -> bool| key.strip_prefix(PREFIX).filter(|name| is_ours(name));
        let vector = own(|name| name.ends_with(MAGNITUDE) || is_vector(name));
        let Some(name) = factor.or(vector) else { return Err(unread(key)) };
        let name = name.replace(&format!("{BASE_LAYER}.bias"), ".bias");
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
        let (rows, cols) = match *view.shape() {
            [rows, cols] if factor.is_some() => (rows, cols),
            [rows] if factor.is_none() => (rows, 1),
            _ if is_vector(&name) => return Err(unread(key)),
            _ => {
                let kind = if factor.is_none() { "a vector" } else { "a matrix" };
                return Err(bad_weights(format!("'{key}' has the shape {:?}, not that of {kind}", view.shape())));
            }
        };
        if let Some(at) = data.iter().position(|value| !value.is_finite()) {
            return Err(bad_weights(format!("'{key}' has {} at element {at}", data[at])));
        }
        if tensors.insert(name, Matrix { rows, cols, data }).is_some() {
            return Err(bad_weights(format!("'{key}' is there under two names")));
        }
    }
    Ok(tensors)
}

/// Of a layer norm that is trained in full, peft's `bias: all` has the base's bias and the trained one once more: its path,
/// where it is one of these.
fn second_bias(name: &str) -> Option<&str> {
    name.strip_suffix(".original_module.bias").or_else(|| name.strip_suffix(".modules_to_save.bias"))
}

fn unread(key: &str) -> Error {
    Error::Unsupported {
        file: WEIGHTS_FILE.to_owned(),
        field: format!("the tensor '{key}'"),
        message: format!(
            "only {PREFIX}….lora_A.weight, ….lora_B.weight, …{MAGNITUDE}, and the biases and norms that {CONFIG_FILE} \
             names are read"
        ),
    }
}

fn doubles(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes))
}

pub(super) fn check_factors(config: &LoraConfig, tensors: &BTreeMap<String, Matrix>) -> Result<()> {
    if tensors.is_empty() {
        return Err(bad_weights("there are no factors in it"));
    }
    for (name, matrix) in tensors {
        if is_vector(name) {
            match config.trains(name)? {
                true => continue,
                false => return Err(unread(&format!("{PREFIX}{name}"))),
            }
        }
        let (module, kind) = name.rsplit_once('.').unwrap_or_default();
        let needed = &["lora_A", "lora_B", "lora_magnitude_vector"][..if config.use_dora { 3 } else { 2 }];
        if !needed.contains(&kind) {
            return Err(bad_weights(format!("'{name}' is there, but 'use_dora' of {CONFIG_FILE} is not true")));
        }
        let other = |kind: &str| tensors.get(&format!("{module}.{kind}"));
        if let Some(missing) = needed.iter().find(|kind| other(kind).is_none()) {
            return Err(bad_weights(format!("'{module}' has {kind} but no {missing}")));
        }
        let Some((r, _)) = config.of_module(module)? else {
            return Err(bad_weights(format!("'{name}' is of no module that {CONFIG_FILE} names")));
        };
        let (size, needs) = match kind {
            "lora_A" => (matrix.rows, r),
            "lora_B" => (matrix.cols, r),
            _ => (matrix.rows, other("lora_B").map_or(0, |b| b.rows)),
        };
        if size != needs || matrix.data.is_empty() {
            return Err(bad_weights(format!(
                "'{name}' is {} × {} where {CONFIG_FILE} says rank {r}",
                matrix.rows, matrix.cols
            )));
        }
    }
    Ok(())
}
