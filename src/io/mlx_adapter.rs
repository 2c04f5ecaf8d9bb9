//! An adapter as mlx-lm's two files, `adapters.safetensors` and `adapter_config.json`.
//!
//! Names, shapes and fields: `mlx_lm/tuner/utils.py` (`load_adapters`, `linear_to_lora_layers`), `tuner/lora.py` and
//! `tuner/dora.py` of mlx-lm. It has one rank and one scale for all: smaller ranks are filled up with zeros, and what a module's scaling
//! is beyond the scale is multiplied into its `lora_b`.

use std::collections::BTreeSet;

use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::adapter::factor_pairs;
use super::{AdapterFile, Matrix};
use crate::Result;

impl AdapterFile {
    /// The adapter as `(adapter_config.json, adapters.safetensors)` for mlx-lm, for a base of so many layers: `lora_a` is
    /// `[in, r]` and `lora_b` `[r, out]`, with DoRA `m` `[out]`.
    pub fn write_mlx(&self, num_layers: usize) -> Result<(Vec<u8>, Vec<u8>)> {
        self.refuse_vectors("mlx-lm's adapters have no place for it: merge the adapter into the model")?;
        let pairs = factor_pairs(self)?;
        let rank = pairs.iter().map(|pair| pair.a.rows).max().unwrap_or(self.config.r);
        let scale = pairs.first().map_or(1.0, |pair| pair.scaling);
        let (mut keys, mut tensors) = (BTreeSet::new(), vec![]);
        for pair in pairs {
            // mlx-lm puts `model.` before what GPT-2's files begin with `h.`
            let name =
                pair.name.strip_prefix("transformer.").map_or(pair.name.to_owned(), |rest| format!("model.{rest}"));
            // `model.layers.0.self_attn.q_proj` is `self_attn.q_proj` in its layer.
            keys.insert(name.splitn(4, '.').last().unwrap_or_default().to_owned());
            tensors.push((format!("{name}.lora_a"), turned(pair.a, rank, pair.a.cols, 1.0)));
            tensors.push((format!("{name}.lora_b"), turned(pair.b, pair.b.rows, rank, pair.scaling / scale)));
            if let Some(magnitude) = pair.magnitude {
                let (_, bytes) = turned(magnitude, magnitude.rows, 1, 1.0);
                tensors.push((format!("{name}.m"), (vec![magnitude.rows], bytes)));
            }
        }
        let config = json!({
            "fine_tune_type": if self.config.use_dora { "dora" } else { "lora" },
            "num_layers": num_layers,
            "lora_parameters": { "rank": rank, "scale": scale, "dropout": 0.0, "keys": keys },
        });
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a matrix has rows × cols values");
            (name.as_str(), view)
        });
        let metadata = [("format".to_owned(), "mlx".to_owned())].into();
        let weights = serialize(views, Some(metadata)).expect("a list of whole matrices can be written");
        Ok((format!("{config:#}\n").into_bytes(), weights))
    }
}

/// The bytes of `factor` times a matrix filled up with zeros to `[rows, cols]`, as `[cols, rows]`.
fn turned(matrix: &Matrix, rows: usize, cols: usize, factor: f32) -> (Vec<usize>, Vec<u8>) {
    let is_there = |row: usize, col: usize| row < matrix.rows && col < matrix.cols;
    let value = |row: usize, col: usize| {
        if is_there(row, col) { matrix.data[row * matrix.cols + col] * factor } else { 0.0 }
    };
    let values = (0..cols).flat_map(|col| (0..rows).map(move |row| (row, col)));
    (vec![cols, rows], values.flat_map(|(row, col)| value(row, col).to_le_bytes()).collect())
}
