//! `model_type` `qwen2` (arXiv 2407.10671, 2412.15115): llama with biases on q, k and v, and in some of the larger models
//! a sliding window in the upper layers. Reference: transformers' `modeling_qwen2.py`.

use super::config::{Defaults, Fields};
use super::decoder::{Biases, Recipe};
use super::llama;
use crate::Result;

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    let defaults = Defaults { head_dim: None, tie_word_embeddings: false, max_position_embeddings: 32_768 };
    let recipe = Recipe { bias: Biases { qkv: true, ..Biases::default() }, ..llama::kin(fields, defaults, 1e-6)? };
    with_sliding_layers(fields, recipe)
}

/// `layer_types`; or, with `use_sliding_window`, a window in all layers from `max_window_layers` on.
pub(super) fn with_sliding_layers(fields: &Fields, mut recipe: Recipe) -> Result<Recipe> {
    let n_layers = recipe.layers.len();
    let window = match fields.flag("use_sliding_window", false)? {
        true => fields.count_or_none("sliding_window", 1 << 24)?.or(Some(4096)),
        false => None,
    };
    let first = fields.count("max_window_layers", Some(28), 1 << 16)?;
    let types = fields.layer_types(n_layers)?;
    for (index, layer) in recipe.layers.iter_mut().enumerate() {
        let is_sliding = types.as_ref().map_or(index >= first, |types| types[index]);
        layer.sliding_window = window.filter(|_| is_sliding);
    }
    Ok(recipe)
}
