//! A model with its adapter as one model: `W + scaling · B A` for every adapted weight, as the files of a Hugging Face
//! folder with the names and shapes that transformers has for it.
//!
//! The weights are read once more from the files that the model was loaded from, a few rows at a time and only when their
//! bytes are asked for, so that of a folder of any size no more than one read of it is in memory. Files rather than what
//! is on the GPU: there the numbers lie laid out for kernels, several weights in one; in the files they are what peft
//! would merge, under their names.

mod shard;

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::io::{AdapterFile, ByteSource, Checkpoint, DType, MemorySource, TokenizerFiles};
use crate::{Error, Result, model};
use shard::{Weights, shards};

/// Largest file of weights where the caller does not say, in bytes: what most places take.
const MAX_SHARD_BYTES: u64 = 2_000_000_000;

/// What the numbers of a merged model can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MergeDType {
    /// [`DType::F32`].
    F32,
    /// [`DType::F16`].
    F16,
    /// [`DType::BF16`].
    BF16,
}

impl MergeDType {
    /// The same among all formats.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// That of the base's matrices, as peft keeps it; blocks carry their scales in F16.
    fn of_base(checkpoint: &Checkpoint) -> Self {
        match checkpoint.commonest_dtype() {
            Some(DType::F32) => Self::F32,
            Some(DType::BF16) => Self::BF16,
            _ => Self::F16,
        }
    }
}

/// How to write a merged model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeOptions {
    /// What the numbers are rounded to, to nearest and ties to even. Default: what the base has, F16 where that is blocks.
    pub dtype: Option<MergeDType>,
    /// Largest file of weights in bytes, unless one tensor is larger. Default: 2 GB.
    pub max_shard_bytes: Option<u64>,
}

/// One file of a merged model.
pub struct MergedFile {
    /// As transformers looks for it.
    pub name: String,
    /// Its bytes, made when they are read.
    pub source: Rc<dyn ByteSource>,
}

/// A merged model: its files, of which no weight has been read yet.
pub struct Merged {
    /// config.json, the tokenizer's, and the weights'.
    pub files: Vec<MergedFile>,
    /// What is told of it.
    pub report: MergeReport,
}

/// What a merged model is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergeReport {
    /// Of the weights.
    pub dtype: MergeDType,
    /// The commonest format of the base, as it was loaded.
    pub base_dtype: String,
    /// The base's matrices are blocks: what is merged is the numbers that these stand for.
    pub base_quantized: bool,
    /// Where the tokenizer's files come from.
    pub tokenizer: TokenizerFiles,
    /// Matrices and vectors that the adapter changed.
    pub merged: usize,
    /// Of all files.
    pub size_bytes: u64,
}

/// The files of `checkpoint`, opened from `files`, with `adapter` merged into its weights.
///
/// Errors: `Unsupported` for an adapter of more than factors A and B, `AdapterMismatch` for one of another model.
/// Reading a file later errs with `BadFile` where the base can no longer be read, or where a number is beyond what the
/// format can hold.
pub fn merge(
    checkpoint: Checkpoint,
    files: &[Rc<dyn ByteSource>],
    adapter: &AdapterFile,
    options: &MergeOptions,
) -> Result<Merged> {
    let to = options.dtype.unwrap_or_else(|| MergeDType::of_base(&checkpoint));
    let max_shard_bytes = match options.max_shard_bytes {
        Some(0) => {
            let (name, value, allowed) = ("maxShardBytes".into(), "0".into(), "a number of bytes".into());
            return Err(Error::BadSetting { name, value, allowed });
        }
        max => max.unwrap_or(MAX_SHARD_BYTES),
    };
    let in_memory = |name: &str, bytes: Vec<u8>| MergedFile {
        name: name.to_owned(),
        source: Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>,
    };
    let mut out = vec![in_memory("config.json", checkpoint.config_json(to.dtype()))];
    let (tokenizer, text_files) = checkpoint.text_files(files)?;
    out.extend(text_files.into_iter().map(|(name, source)| MergedFile { name, source }));

    let base = checkpoint.commonest_dtype().unwrap_or(DType::F32);
    let unused = model::unused_tensors(&checkpoint)?;
    let weights = Rc::new(Weights::new(checkpoint, adapter, to.dtype())?);
    let merged = weights.n_merged();
    let (shards, index) = shards(weights, &unused, max_shard_bytes);
    out.extend(index.map(|bytes| in_memory("model.safetensors.index.json", bytes)));
    out.extend(
        shards
            .into_iter()
            .map(|shard| MergedFile { name: shard.name().to_owned(), source: Rc::new(shard) as Rc<dyn ByteSource> }),
    );
    let report = MergeReport {
        dtype: to,
        base_dtype: base.to_string(),
        base_quantized: base.block_len() > 1,
        tokenizer,
        merged,
        size_bytes: out.iter().map(|file| file.source.size_bytes()).sum(),
    };
    Ok(Merged { files: out, report })
}
