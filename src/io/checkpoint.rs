//! A model's files as one thing: its config, its weights, its tokenizer, wherever they are stored.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use serde_json::{Map, Value};

use super::gguf::Gguf;
use super::quantize::{Loss, Quantization, QuantizationError, quantize};
use super::source::{read_all, read_exact};
use super::{ByteSource, DType, dequantize, gguf_model, parts};
use crate::{Error, Result};

/// Largest text file read whole; the largest tokenizer.json in use has 35 MB.
pub(super) const MAX_TEXT_BYTES: usize = 128 << 20;

/// A weight: where it is and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Hugging Face's name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Format that its rows are read in.
    pub dtype: DType,
    /// Format in the file: another one where the model is quantised while it is read.
    pub(crate) stored: DType,
    /// Row-major, `[out, in]` for matrices, as Hugging Face has it.
    pub shape: Vec<usize>,
    /// Which of the weights' files it lies in.
    pub(crate) file: usize,
    /// Place of the first byte there.
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

    /// Bytes of one row as it is read.
    pub fn row_bytes(&self) -> usize {
        self.cols() / self.dtype.block_len() * self.dtype.block_bytes()
    }

    /// Bytes of one row in the file.
    pub(crate) fn stored_row_bytes(&self) -> usize {
        self.cols() / self.stored.block_len() * self.stored.block_bytes()
    }

    /// Bytes of all rows as they are read.
    pub fn size_bytes(&self) -> u64 {
        self.rows() as u64 * self.row_bytes() as u64
    }
}

/// The shape as memory's sizes have it, where rows, columns and the bytes of a row as f32 stay below 2^31: sizes have 32
/// bits in a tab, and the verdict is the same everywhere.
pub(super) fn checked_shape(shape: impl IntoIterator<Item = u64>) -> Option<Vec<usize>> {
    const MOST: u64 = i32::MAX as u64;
    let shape: Vec<u64> = shape.into_iter().collect();
    let cols = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().rev().skip(1).try_fold(1u64, |rows, &dim| rows.checked_mul(dim))?;
    let is_small = rows <= MOST && cols <= MOST / 4 && shape.iter().all(|&dim| dim <= MOST);
    is_small.then(|| shape.into_iter().map(|dim| dim as usize).collect())
}

/// Rows of a shape, where their number fits: the product of all dimensions but the last.
fn row_count(shape: &[usize]) -> Option<usize> {
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
    /// The files of the weights, and the name of them all together.
    weights: Vec<Rc<dyn ByteSource>>,
    weights_file: String,
    quantization: Option<Quantization>,
    /// What quantising cost each matrix that has been read.
    losses: RefCell<BTreeMap<String, Loss>>,
    pub(super) text: TextSource,
}

/// The last part of a path.
pub(super) fn file_name(source: &Rc<dyn ByteSource>) -> &str {
    source.name().rsplit(['/', '\\']).next().unwrap_or_default()
}

pub(super) fn bad_file(file: &str, message: impl Into<String>) -> Error {
    Error::BadFile { file: file.to_owned(), message: message.into() }
}

/// The one file of this name, without its path.
pub(super) fn find<'a>(files: &'a [Rc<dyn ByteSource>], name: &str) -> Result<Option<&'a Rc<dyn ByteSource>>> {
    let mut found = files.iter().filter(|file| file_name(file) == name);
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => {
            Err(bad_file(second.name(), format!("is there twice, also as {}: choose one folder", first.name())))
        }
        (first, _) => Ok(first),
    }
}

impl Checkpoint {
    /// Opens a GGUF file or all parts of one, or the files of a Hugging Face folder (`config.json`, `model.safetensors`
    /// or its shards and their index, `tokenizer.json` and the small files about them; others are ignored).
    ///
    /// Reads headers and text, no weights.
    pub async fn open(files: &[Rc<dyn ByteSource>]) -> Result<Self> {
        let ggufs: Vec<_> = files.iter().filter(|file| file_name(file).to_lowercase().ends_with(".gguf")).collect();
        if ggufs.is_empty() { Self::open_folder(files).await } else { Self::open_gguf(&ggufs).await }
    }

    async fn open_gguf(files: &[&Rc<dyn ByteSource>]) -> Result<Self> {
        let (header, weights) = parts::open_gguf(files).await?;
        let file = weights[0].name().to_owned();
        let mut config = gguf_model::config(&file, &header)?;
        let tensors = gguf_model::tensors(&file, &header, &config)?;
        let mut checkpoint = Self {
            name: parts::gguf_name(file_name(&weights[0])).to_owned(),
            config_file: file.clone(),
            config: Map::new(),
            tensors: tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect(),
            weights,
            weights_file: file.clone(),
            quantization: None,
            losses: RefCell::default(),
            text: TextSource::Gguf(header),
        };
        if let Some(factors) = checkpoint.tensors.remove("rope_freqs.weight") {
            let factors = checkpoint.read_tensor_f32(&factors).await?;
            gguf_model::add_rope_factors(&file, &mut config, &factors)?;
        }
        checkpoint.config = config;
        Ok(checkpoint)
    }

    async fn open_folder(files: &[Rc<dyn ByteSource>]) -> Result<Self> {
        let Some(config_source) = find(files, "config.json")? else {
            let names: Vec<_> = files.iter().take(8).map(|file| file.name()).collect();
            return Err(bad_file(
                "config.json",
                format!(
                    "is missing: a model is one .gguf file or all parts of one, or a folder with config.json, \
                     model.safetensors or its shards, and tokenizer.json (there is: {})",
                    names.join(", ")
                ),
            ));
        };
        let config: Map<String, Value> = serde_json::from_slice(&read_all(config_source, MAX_TEXT_BYTES).await?)
            .map_err(|error| bad_file(config_source.name(), error.to_string()))?;
        let (mut tensors, weights, weights_file) = parts::open_safetensors(files).await?;
        if config.get("model_type").and_then(Value::as_str) == Some("gpt2") {
            tensors.iter_mut().for_each(as_gpt2);
        }
        let mut text = TextFiles::new();
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
            if let Some(file) = find(files, name)? {
                text.insert(name, read_all(file, MAX_TEXT_BYTES).await?);
            }
        }
        let folder = config_source.name().rsplit(['/', '\\']).nth(1);
        let name = config.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty()).or(folder);
        Ok(Self {
            name: name.unwrap_or("model").to_owned(),
            config_file: config_source.name().to_owned(),
            tensors: tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect(),
            weights,
            weights_file,
            quantization: None,
            losses: RefCell::default(),
            text: TextSource::Folder(text),
            config,
        })
    }

    /// The same model with its matrices of F32, F16 and BF16 made into blocks as they are read. Those whose rows are no
    /// whole blocks stay as they are, as do vectors, what is in blocks already and, as in llama.cpp, tables of positions.
    pub fn quantized(mut self, to: Quantization) -> Self {
        let whole_blocks = |cols: usize| cols > 0 && cols.is_multiple_of(to.dtype().block_len());
        for tensor in self.tensors.values_mut().filter(|tensor| !tensor.name.ends_with("wpe.weight")) {
            if tensor.stored.block_len() == 1 && tensor.shape.len() == 2 && whole_blocks(tensor.cols()) {
                tensor.dtype = to.dtype();
            }
        }
        Self { quantization: Some(to), ..self }
    }

    /// What quantising cost the matrices read so far; None where none was quantised.
    pub fn quantization_error(&self) -> Option<QuantizationError> {
        let losses = self.losses.borrow();
        let (worst_tensor, worst) = losses.iter().max_by(|a, b| a.1.relative().total_cmp(&b.1.relative()))?;
        Some(QuantizationError {
            dtype: self.quantization?.dtype().to_string(),
            tensors: losses.len(),
            relative: losses.values().copied().fold(Loss::default(), Loss::plus).relative(),
            worst: worst.relative(),
            worst_tensor: worst_tensor.clone(),
        })
    }

    /// The model's name: a GGUF file's own without its ending and number, a folder's `_name_or_path` or its own.
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
        self.tensors.get(name).ok_or_else(|| bad_file(&self.weights_file, format!("the tensor '{name}' is missing")))
    }

    /// The format that most numbers are in, as they are read.
    pub fn commonest_dtype(&self) -> Option<DType> {
        let mut numbers = BTreeMap::new();
        for tensor in self.tensors() {
            *numbers.entry(tensor.dtype).or_insert(0) += tensor.rows() as u64 * tensor.cols() as u64;
        }
        numbers.into_iter().max_by_key(|(_, numbers)| *numbers).map(|(dtype, _)| dtype)
    }

    /// True of a weight that transformers keeps as `[in, out]`: one of GPT-2's `Conv1D`.
    pub(crate) fn is_conv1d(&self, name: &str) -> bool {
        self.config.get("model_type").and_then(Value::as_str) == Some("gpt2") && is_conv1d(name)
    }

    /// How many rows must be read together: a head of q or k where llama.cpp reordered them, else 1.
    pub fn row_group(&self, tensor: &Tensor) -> usize {
        tensor.row_group
    }

    /// The blocks of `rows`, in Hugging Face's row order: as the file has them, or quantised where that was asked for.
    ///
    /// Both ends of `rows` are multiples of [`Self::row_group`]. Errors with `BadFile` where a number cannot be
    /// quantised.
    pub async fn read_rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<u8>> {
        let source = &self.weights[tensor.file];
        let (group, row_bytes) = (tensor.row_group, tensor.stored_row_bytes());
        if rows.start > rows.end
            || rows.end > tensor.rows()
            || !rows.start.is_multiple_of(group)
            || !rows.end.is_multiple_of(group)
        {
            return Err(bad_file(
                source.name(),
                format!("rows {rows:?} of '{}' are not whole groups of {group} in {}", tensor.name, tensor.rows()),
            ));
        }
        let too_large = || bad_file(source.name(), format!("rows {rows:?} of '{}' are too large", tensor.name));
        let stored = if tensor.transposed {
            let size = tensor.rows().checked_mul(row_bytes).ok_or_else(too_large)?;
            let stored = read_exact(source, tensor.offset, size).await?;
            transpose(&stored, tensor.stored.block_bytes(), tensor.rows(), rows)
        } else {
            let size = rows.len().checked_mul(row_bytes).ok_or_else(too_large)?;
            let offset = tensor.offset + rows.start as u64 * row_bytes as u64;
            let stored = read_exact(source, offset, size).await?;
            if group == 1 { stored } else { unpermute(&stored, row_bytes, group) }
        };
        match self.quantization {
            Some(to) if tensor.dtype != tensor.stored => self.quantize(tensor, to, &stored),
            _ => Ok(stored),
        }
    }

    /// Rows of a tensor in its file's format, quantised one by one, and what that costs counted.
    fn quantize(&self, tensor: &Tensor, to: Quantization, stored: &[u8]) -> Result<Vec<u8>> {
        let (mut blocks, mut loss) = (vec![], Loss::default());
        for row in stored.chunks_exact(tensor.stored_row_bytes()) {
            let values = dequantize(tensor.stored, row);
            let row = quantize(to, &values);
            loss.count(&values, &dequantize(to.dtype(), &row));
            blocks.extend(row);
        }
        if !loss.relative().is_finite() {
            let message = format!("tensor '{}' has numbers that {} cannot hold", tensor.name, to.dtype());
            return Err(bad_file(self.weights[tensor.file].name(), message));
        }
        let mut losses = self.losses.borrow_mut();
        let counted = losses.entry(tensor.name.clone()).or_default();
        *counted = counted.plus(loss);
        Ok(blocks)
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
    if is_conv1d(&tensor.name) {
        tensor.transposed = true;
        tensor.shape.reverse();
    }
}

fn is_conv1d(name: &str) -> bool {
    ["c_attn.weight", "c_proj.weight", "c_fc.weight"].iter().any(|end| name.ends_with(end))
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
