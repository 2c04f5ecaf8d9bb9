//! `model_type` `phi3` (arXiv 2404.14219): llama whose q, k and v are one linear, and gate and up another; each is
//! adapted as one, as peft names them. Reference: transformers' `modeling_phi3.py`.

use super::config::{Defaults, Fields};
use super::decoder::{Names, Recipe, Up};
use super::llama;
use crate::Result;

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    let defaults = Defaults { head_dim: None, tie_word_embeddings: false, max_position_embeddings: 4096 };
    let mut recipe = Recipe {
        names: Names { qkv_proj: &["self_attn.qkv_proj"], up: Up::Fused("mlp.gate_up_proj"), ..llama::NAMES },
        ..llama::kin(fields, defaults, 1e-5)?
    };
    let window = fields.count_or_none("sliding_window", 1 << 24)?;
    recipe.layers.iter_mut().for_each(|layer| layer.sliding_window = window);
    Ok(recipe)
}
