//! A model's files as one thing: its config, its weights, its tokenizer, wherever they are stored.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use serde_json::{Map, Value};

use super::gguf::Gguf;
use super::source::{read_all, read_exact};
use super::{ByteSource, DType, dequantize, gguf, gguf_model, safetensors};
use crate::{Error, Result};

/// Largest text file read whole; the largest tokenizer.json in use has 35 MB.
const MAX_TEXT_BYTES: usize = 128 << 20;

/// A weight: where it is and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Hugging Face's name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Format in the file.
    pub dtype: DType,
    /// Row-major, `[out, in]` for matrices, as Hugging Face has it.
    pub shape: Vec<usize>,
    /// Place of the first byte in the weights' file.
    pub(crate) offset: u64,
    /// Rows that llama.cpp reordered among themselves: a head of q or k. Else 1.
    pub(crate) row_group: usize,
    /// The file has columns for rows: a weight of GPT-2's `Conv1D`.
    pub(crate) transposed: bool,
    /// The file has one more than Hugging Face: a norm of Gemma's.
    pub(crate) plus_one: bool,
}

impl Tensor {
    /// Rows of the matrix; 1 for a vector.
    pub fn rows(&self) -> usize {
        row_count(&self.shape).expect("readers refuse larger shapes")
    }

    /// Elements in a row: the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of one row in the file.
    pub fn row_bytes(&self) -> usize {
        self.cols() / self.dtype.block_len() * self.dtype.block_bytes()
    }

    /// Bytes in the file.
    pub fn size_bytes(&self) -> u64 {
        self.rows() as u64 * self.row_bytes() as u64
    }
}

/// Rows of a shape, where their number fits: the product of all dimensions but the last.
pub(super) fn row_count(shape: &[usize]) -> Option<usize> {
    shape.split_last().map_or(Some(1), |(_, rows)| rows.iter().try_fold(1usize, |rows, &dim| rows.checked_mul(dim)))
}

/// What a Hugging Face folder has besides config and weights, by file name.
pub(super) type TextFiles = BTreeMap<&'static str, Vec<u8>>;

/// Where tokenizer and chat template come from.
pub(super) enum TextSource {
    Gguf(Gguf),
    Folder(TextFiles),
}

/// An opened model: everything but the weights' bytes, which are read when asked for.
pub struct Checkpoint {
    name: String,
    config: Map<String, Value>,
    config_file: String,
    tensors: BTreeMap<String, Tensor>,
    weights: Rc<dyn ByteSource>,
    pub(super) text: TextSource,
}

/// The last part of a path.
fn file_name(source: &Rc<dyn ByteSource>) -> &str {
    source.name().rsplit(['/', '\\']).next().unwrap_or_default()
}

fn bad_file(file: &str, message: impl Into<String>) -> Error {
    Error::BadFile { file: file.to_owned(), message: message.into() }
}

impl Checkpoint {
    /// Opens a GGUF file, or the files of a Hugging Face folder (`config.json`, `model.safetensors`,
    /// `tokenizer.json` and the small files about them; others are ignored).
    ///
    /// Reads headers and text, no weights.
    pub async fn open(files: &[Rc<dyn ByteSource>]) -> Result<Self> {
        let ggufs: Vec<_> = files.iter().filter(|file| file_name(file).to_lowercase().ends_with(".gguf")).collect();
        match ggufs[..] {
            [] => Self::open_folder(files).await,
            [file] => Self::open_gguf(file).await,
            [first, second, ..] => Err(bad_file(
                second.name(),
                format!("is a second model beside {}: choose one .gguf file", first.name()),
            )),
        }
    }

    async fn open_gguf(source: &Rc<dyn ByteSource>) -> Result<Self> {
        let header = gguf::read_header(source).await?;
        let name = file_name(source);
        let name = name.get(..name.len() - ".gguf".len()).unwrap_or(name).to_owned();
        let mut config = gguf_model::config(source.name(), &header)?;
        let tensors = gguf_model::tensors(source.name(), &header, &config)?;
        let mut checkpoint = Self {
            name,
            config_file: source.name().to_owned(),
            config: Map::new(),
            tensors: tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect(),
            weights: source.clone(),
            text: TextSource::Gguf(header),
        };
        if let Some(factors) = checkpoint.tensors.remove("rope_freqs.weight") {
            let factors = checkpoint.read_tensor_f32(&factors).await?;
            gguf_model::add_rope_factors(source.name(), &mut config, &factors)?;
        }
        checkpoint.config = config;
        Ok(checkpoint)
    }

    async fn open_folder(files: &[Rc<dyn ByteSource>]) -> Result<Self> {
        let find = |name: &str| {
            let mut found = files.iter().filter(|file| file_name(file) == name);
            match (found.next(), found.next()) {
                (Some(first), Some(second)) => {
                    Err(bad_file(second.name(), format!("is there twice, also as {}: choose one folder", first.name())))
                }
                (first, _) => Ok(first),
            }
        };
        let Some(config_source) = find("config.json")? else {
            let names: Vec<_> = files.iter().take(8).map(|file| file.name()).collect();
            return Err(bad_file(
                "config.json",
                format!(
                    "is missing: a model is one .gguf file, or a folder with config.json, model.safetensors and \
                     tokenizer.json (there is: {})",
                    names.join(", ")
                ),
            ));
        };
        let config: Map<String, Value> = serde_json::from_slice(&read_all(config_source, MAX_TEXT_BYTES).await?)
            .map_err(|error| bad_file(config_source.name(), error.to_string()))?;
        let Some(weights) = find("model.safetensors")? else {
            return Err(missing_weights(files));
        };
        let is_gpt2 = config.get("model_type").and_then(Value::as_str) == Some("gpt2");
        let tensors = safetensors::read_header(weights).await?.into_iter().map(|entry| {
            let safetensors::Entry { name, dtype, shape, offset } = entry;
            let mut tensor = Tensor { name, dtype, shape, offset, row_group: 1, transposed: false, plus_one: false };
            if is_gpt2 {
                as_gpt2(&mut tensor);
            }
            (tensor.name.clone(), tensor)
        });
        let mut text = TextFiles::new();
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
            if let Some(file) = find(name)? {
                text.insert(name, read_all(file, MAX_TEXT_BYTES).await?);
            }
        }
        let folder = config_source.name().rsplit(['/', '\\']).nth(1);
        let name = config.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty()).or(folder);
        Ok(Self {
            name: name.unwrap_or("model").to_owned(),
            config_file: config_source.name().to_owned(),
            tensors: tensors.collect(),
            weights: weights.clone(),
            text: TextSource::Folder(text),
            config,
        })
    }

    /// The model's name: a GGUF file's own without its ending, a folder's `_name_or_path` or its own.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `config.json`, or the same fields made from GGUF metadata.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The file that [`Self::config`] comes from, for errors.
    pub fn config_file(&self) -> &str {
        &self.config_file
    }

    /// All weights, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// One weight, or the error that it is missing.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| bad_file(self.weights.name(), format!("the tensor '{name}' is missing")))
    }

    /// How many rows must be read together: a head of q or k where llama.cpp reordered them, else 1.
    pub fn row_group(&self, tensor: &Tensor) -> usize {
        tensor.row_group
    }

    /// The blocks of `rows` as the file has them, in Hugging Face's row order.
    ///
    /// Both ends of `rows` are multiples of [`Self::row_group`].
    pub async fn read_rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<u8>> {
        let (group, row_bytes) = (tensor.row_group, tensor.row_bytes());
        if rows.start > rows.end
            || rows.end > tensor.rows()
            || !rows.start.is_multiple_of(group)
            || !rows.end.is_multiple_of(group)
        {
            return Err(bad_file(
                self.weights.name(),
                format!("rows {rows:?} of '{}' are not whole groups of {group} in {}", tensor.name, tensor.rows()),
            ));
        }
        let too_large = || bad_file(self.weights.name(), format!("rows {rows:?} of '{}' are too large", tensor.name));
        if tensor.transposed {
            let size = tensor.rows().checked_mul(row_bytes).ok_or_else(too_large)?;
            let stored = read_exact(&self.weights, tensor.offset, size).await?;
            return Ok(transpose(&stored, tensor.dtype.block_bytes(), tensor.rows(), rows));
        }
        let size = rows.len().checked_mul(row_bytes).ok_or_else(too_large)?;
        let offset = tensor.offset + rows.start as u64 * row_bytes as u64;
        let stored = read_exact(&self.weights, offset, size).await?;
        Ok(if group == 1 { stored } else { unpermute(&stored, row_bytes, group) })
    }

    /// All values of a small tensor, whatever its format.
    pub async fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.read_tensor_f32(self.tensor(name)?).await
    }

    async fn read_tensor_f32(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let mut values = dequantize(tensor.dtype, &self.read_rows(tensor, 0..tensor.rows()).await?);
        if tensor.plus_one {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        Ok(values)
    }
}

/// Columns `columns` of rows of `width` plain numbers, as rows.
fn transpose(stored: &[u8], number_bytes: usize, width: usize, columns: Range<usize>) -> Vec<u8> {
    let number = |at: usize| &stored[at * number_bytes..][..number_bytes];
    let height = stored.len() / (width * number_bytes).max(1);
    columns.flat_map(|column| (0..height).flat_map(move |row| number(row * width + column))).copied().collect()
}

/// What files of GPT-2 have otherwise than transformers writes them today: names without the first module's, and weights
/// of `Conv1D`, `[in, out]` where a linear has `[out, in]`.
fn as_gpt2(tensor: &mut Tensor) {
    if !tensor.name.starts_with("transformer.") && !tensor.name.starts_with("lm_head.") {
        tensor.name.insert_str(0, "transformer.");
    }
    if ["c_attn.weight", "c_proj.weight", "c_fc.weight"].iter().any(|end| tensor.name.ends_with(end)) {
        tensor.transposed = true;
        tensor.shape.reverse();
    }
}

/// Undoes the row order of llama.cpp's converter: for its rotary kernel it interleaves the two halves of each head,
/// so that Hugging Face's row `h * half + j` is stored as row `2 j + h`.
fn unpermute(stored: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut rows = Vec::with_capacity(stored.len());
    for head in stored.chunks_exact(row_bytes * head_dim) {
        for half in 0..2 {
            for j in 0..head_dim / 2 {
                rows.extend_from_slice(&head[(2 * j + half) * row_bytes..][..row_bytes]);
            }
        }
    }
    rows
}

/// Says which kind of weights there is instead of `model.safetensors`.
fn missing_weights(files: &[Rc<dyn ByteSource>]) -> Error {
    let unsupported = |field: &str, message: &str| Error::Unsupported {
        file: field.to_owned(),
        field: "its kind of weights".to_owned(),
        message: message.to_owned(),
    };
    for file in files {
        let name = file_name(file);
        if name == "model.safetensors.index.json" || name.starts_with("model-0") {
            return unsupported(name, "the weights are in several files; one model.safetensors is read");
        }
        if name.ends_with(".bin") || name.ends_with(".pth") {
            return unsupported(name, "it is a pickle, which can run code; save the model as model.safetensors");
        }
    }
    bad_file("model.safetensors", "is missing")
}
