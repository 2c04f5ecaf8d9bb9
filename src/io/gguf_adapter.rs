//! An adapter as one GGUF file, for llama.cpp's `--lora`, out and in.
//!
//! Layout and names: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` of llama.cpp. It multiplies a pair by
//! `adapter.lora.alpha / r`, with one alpha for all and the pair's own r: what a module's scaling is beyond that is
//! multiplied into its `lora_b`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::adapter::{check_factors, factor_pairs};
use super::checkpoint::bad_file;
use super::gguf::{Entry, read_header};
use super::gguf_model::{gguf_name, hugging_face_name};
use super::source::read_exact;
use super::{AdapterFile, ByteSource, LoraConfig, Matrix, dequantize};
use crate::{Error, Result};

/// Of tensors, from the start of their part of the file.
const ALIGNMENT: usize = 32;
/// Of a factor that is read; those of rank 1024 on the widest model have a quarter of it.
const MAX_FACTOR_BYTES: usize = 1 << 30;

impl AdapterFile {
    /// The adapter as a GGUF file in F32, for a base of this `model_type` with so many heads of queries and of
    /// keys. `lora_a` is `[r, in]` and `lora_b` `[out, r]` in
    /// rows; those of llama's q and k are put in llama.cpp's order.
    ///
    /// Errors with `Unsupported` where a module has no name in GGUF, and for DoRA and trained biases and norms, which llama.cpp
    /// does not know.
    pub fn write_gguf(&self, model_type: &str, heads: [usize; 2]) -> Result<Vec<u8>> {
        self.refuse_dora("GGUF has no place for the magnitudes of DoRA")?;
        self.refuse_vectors(
            "llama.cpp's adapters have no place for it: merge the adapter into the model and convert that",
        )?;
        let architecture = architecture(model_type);
        let alpha = self.config.lora_alpha;
        let mut tensors = vec![];
        for pair in factor_pairs(self)? {
            let Some(name) = gguf_name(model_type, pair.name) else {
                return Err(Error::Unsupported {
                    file: "adapter_config.json".to_owned(),
                    field: format!("the module '{}'", pair.name),
                    message: format!("GGUF has no name for it in a model of type {model_type}"),
                });
            };
            let factor = pair.scaling * pair.a.rows as f32 / alpha;
            let mut b = Matrix { data: pair.b.data.iter().map(|value| value * factor).collect(), ..*pair.b };
            if let Some(heads) = reordered(architecture, pair.name, heads) {
                b.data = permuted(&b, heads);
            }
            tensors.push((format!("{name}.weight.lora_a"), pair.a.clone()));
            tensors.push((format!("{name}.weight.lora_b"), b));
        }
        Ok(write(architecture, alpha, &tensors))
    }

    /// The adapter in a GGUF file, in any of the formats that weights may have, for a base of this `model_type` with so many
    /// heads of queries and of keys.
    ///
    /// Errors: `AdapterMismatch` for one of another architecture, `Unsupported` for what is no pair of factors of a linear.
    pub async fn parse_gguf(source: &Rc<dyn ByteSource>, model_type: &str, heads: [usize; 2]) -> Result<Self> {
        let file = source.name();
        let header = read_header(source).await?;
        if (header.text("general.type")?, header.text("adapter.type")?) != (Some("adapter"), Some("lora")) {
            return Err(bad_file(file, "is no LoRA adapter: its metadata 'adapter.type' is not 'lora'"));
        }
        let (ours, theirs) = (architecture(model_type), header.text("general.architecture")?.unwrap_or_default());
        if theirs != ours {
            return Err(Error::AdapterMismatch { message: format!("it is for {theirs}, the model is {ours}") });
        }
        let unsupported = |field: String, message: &str| {
            Err(Error::Unsupported { file: file.to_owned(), field, message: message.to_owned() })
        };
        if header.metadata.contains_key("adapter.alora.invocation_tokens") {
            return unsupported(
                "adapter.alora.invocation_tokens".to_owned(),
                "it works from some of the tokens on alone",
            );
        }
        let mut tensors = BTreeMap::new();
        for entry in &header.tensors {
            let pair = entry.name.rsplit_once('.').and_then(|(weight, factor)| {
                let module = hugging_face_name(model_type, weight);
                let module = module.strip_suffix(".weight").filter(|_| module != weight)?.to_owned();
                let factor = ["lora_A", "lora_B"].into_iter().find(|name| name.eq_ignore_ascii_case(factor))?;
                Some((module, factor))
            });
            let (Some((module, factor)), &[cols, rows]) = (pair, &entry.dims[..]) else {
                return unsupported(
                    format!("the tensor '{}'", entry.name),
                    "only lora_a and lora_b of linears are read",
                );
            };
            let mut matrix = read_matrix(source, entry, rows, cols).await?;
            let reordered = reordered(ours, &module, heads).filter(|_| factor == "lora_B");
            if let Some(heads) = reordered {
                if !matrix.rows.is_multiple_of(2 * heads) {
                    let message = format!("tensor '{}' of {rows} rows cannot have {heads} heads", entry.name);
                    return Err(bad_file(file, message));
                }
                // Two halves by turns, put back as so many by turns of two.
                matrix.data = turns(&matrix, matrix.rows / heads, 2);
            }
            tensors.insert(format!("{module}.{factor}"), matrix);
        }
        let ranks = tensors.iter().filter_map(|(name, a)| Some((name.strip_suffix(".lora_A")?, a.rows)));
        let ranks: Vec<(&str, usize)> = ranks.collect();
        let r = ranks.iter().map(|(_, r)| *r).max().unwrap_or_default();
        let alpha = header.number("adapter.lora.alpha")?.filter(|&alpha| alpha != 0.0).map(|alpha| alpha as f32);
        let modules: BTreeSet<String> = ranks.iter().map(|(name, _)| (*name).to_owned()).collect();
        let others = ranks.iter().filter(|(_, own)| *own != r).map(|(name, own)| (name.replace('.', r"\."), *own));
        let others: Vec<(String, usize)> = others.collect();
        let mut config = LoraConfig::new(r, alpha.unwrap_or(r as f32), modules.into_iter().collect());
        if alpha.is_none() {
            // None is a scaling of 1, whatever the rank.
            config.alpha_pattern = others.iter().map(|(name, own)| (name.clone(), *own as f32)).collect();
        }
        config.rank_pattern = others;
        check_factors(&config, &tensors)?;
        Ok(Self { config, tensors })
    }
}

fn architecture(model_type: &str) -> &str {
    match model_type {
        "gemma3_text" => "gemma3",
        // As llama.cpp's converter has it.
        "mistral" => "llama",
        other => other,
    }
}

/// How many heads have the rows of a module that llama.cpp keeps in another order; None where it does not.
fn reordered(architecture: &str, module: &str, [queries, keys]: [usize; 2]) -> Option<usize> {
    match module.rsplit('.').next() {
        Some("q_proj") if architecture == "llama" => Some(queries),
        Some("k_proj") if architecture == "llama" => Some(keys),
        _ => None,
    }
}

async fn read_matrix(source: &Rc<dyn ByteSource>, entry: &Entry, rows: u64, cols: u64) -> Result<Matrix> {
    let bad = |message: String| bad_file(source.name(), format!("tensor '{}' {message}", entry.name));
    let size = usize::try_from(entry.size_bytes).ok().filter(|&size| size <= MAX_FACTOR_BYTES);
    let size = size.ok_or_else(|| bad(format!("has {} bytes, more than a factor can have", entry.size_bytes)))?;
    let data = dequantize(entry.dtype, &read_exact(source, entry.offset, size).await?);
    if let Some(at) = data.iter().position(|value| !value.is_finite()) {
        return Err(bad(format!("has {} at element {at}", data[at])));
    }
    Ok(Matrix { rows: rows as usize, cols: cols as usize, data })
}

/// Rows in llama.cpp's order: of each head those of the first and the second half by turns.
fn permuted(matrix: &Matrix, heads: usize) -> Vec<f32> {
    let head = matrix.rows / heads;
    turns(matrix, head, head / 2)
}

/// Rows of every group of so many, those that lie `apart` in it one after the other by turns.
fn turns(matrix: &Matrix, group: usize, apart: usize) -> Vec<f32> {
    let n = group / apart;
    let from = |row: usize| row / group * group + row % group % n * apart + row % group / n;
    (0..matrix.rows).flat_map(|row| &matrix.data[from(row) * matrix.cols..][..matrix.cols]).copied().collect()
}

fn write(architecture: &str, alpha: f32, tensors: &[(String, Matrix)]) -> Vec<u8> {
    const F32: u32 = 0;
    const VALUE_F32: u32 = 6;
    const VALUE_STRING: u32 = 8;
    let texts = [("general.architecture", architecture), ("general.type", "adapter"), ("adapter.type", "lora")];
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((texts.len() as u64 + 1).to_le_bytes());
    for (key, text) in texts {
        push_text(&mut file, key);
        file.extend(VALUE_STRING.to_le_bytes());
        push_text(&mut file, text);
    }
    push_text(&mut file, "adapter.lora.alpha");
    file.extend(VALUE_F32.to_le_bytes());
    file.extend(alpha.to_le_bytes());
    let mut offset = 0;
    for (name, matrix) in tensors {
        push_text(&mut file, name);
        file.extend(2u32.to_le_bytes());
        // The fastest dimension first.
        file.extend((matrix.cols as u64).to_le_bytes());
        file.extend((matrix.rows as u64).to_le_bytes());
        file.extend(F32.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset += (matrix.data.len() * 4).next_multiple_of(ALIGNMENT);
    }
    for (_, matrix) in tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(matrix.data.iter().flat_map(|value| value.to_le_bytes()));
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file
}

fn push_text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}
