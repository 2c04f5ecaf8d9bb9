//! An adapter as one GGUF file, for llama.cpp's `--lora`.
//!
//! Layout and names: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` of llama.cpp. It multiplies a pair by
//! `adapter.lora.alpha / r`, with one alpha for all and the pair's own r: what a module's scaling is beyond that is
//! multiplied into its `lora_b`.

use super::adapter::factor_pairs;
use super::gguf_model::gguf_name;
use super::{AdapterFile, Matrix};
use crate::{Error, Result};

/// Of tensors, from the start of their part of the file.
const ALIGNMENT: usize = 32;

impl AdapterFile {
    /// The adapter as a GGUF file in F32, for a base of this `model_type` with so many heads of queries and of
    /// keys. `lora_a` is `[r, in]` and `lora_b` `[out, r]` in
    /// rows; those of llama's q and k are put in llama.cpp's order.
    ///
    /// Errors with `Unsupported` where a module has no name in GGUF, and for DoRA, which llama.cpp does not know.
    pub fn write_gguf(&self, model_type: &str, heads: [usize; 2]) -> Result<Vec<u8>> {
        self.refuse_dora("GGUF has no place for the magnitudes of DoRA")?;
        let architecture = match model_type {
            "gemma3_text" => "gemma3",
            // As llama.cpp's converter has it.
            "mistral" => "llama",
            other => other,
        };
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
            let heads = match name.rsplit('.').next() {
                Some("attn_q") if architecture == "llama" => Some(heads[0]),
                Some("attn_k") if architecture == "llama" => Some(heads[1]),
                _ => None,
            };
            if let Some(heads) = heads {
                if heads == 0 || !b.rows.is_multiple_of(2 * heads) {
                    let message = format!("'{}' has {} rows, which are not those of {heads} heads", pair.name, b.rows);
                    return Err(Error::AdapterMismatch { message });
                }
                b.data = permuted(&b, heads);
            }
            tensors.push((format!("{name}.weight.lora_a"), pair.a.clone()));
            tensors.push((format!("{name}.weight.lora_b"), b));
        }
        Ok(write(architecture, alpha, &tensors))
    }
}

/// Rows in llama.cpp's order: of each head those of the first and the second half by turns.
fn permuted(matrix: &Matrix, heads: usize) -> Vec<f32> {
    let head = matrix.rows / heads;
    let rows = (0..matrix.rows).map(|row| row / head * head + row % head % 2 * (head / 2) + row % head / 2);
    rows.flat_map(|row| &matrix.data[row * matrix.cols..][..matrix.cols]).copied().collect()
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
