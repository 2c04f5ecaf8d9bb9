//! `model_type` `mistral` (arXiv 2310.06825): llama with a sliding window in every layer, where it has one.
//! Reference: transformers' `modeling_mistral.py`.

use super::config::{Defaults, Fields};
use super::decoder::Recipe;
use super::llama;
use crate::Result;

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    fields.only("attention_bias", &[false.into()])?;
    let defaults = Defaults { head_dim: None, tie_word_embeddings: false, max_position_embeddings: 131_072 };
    let mut recipe = llama::kin(fields, defaults, 1e-6)?;
    // Null is none; a file that does not mention it means the first model's.
    let window = if fields.map.contains_key("sliding_window") { None } else { Some(4096) };
    let window = fields.count_or_none("sliding_window", 1 << 24)?.or(window);
    recipe.layers.iter_mut().for_each(|layer| layer.sliding_window = window);
    Ok(recipe)
}
