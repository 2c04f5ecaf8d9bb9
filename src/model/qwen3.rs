//! `model_type` `qwen3` (arXiv 2505.09388): llama with a norm of each query and key head.
//! Reference: transformers' `modeling_qwen3.py`.

use super::config::{Defaults, Fields};
use super::decoder::{Biases, Names, Recipe};
use super::{llama, qwen2};
use crate::Result;

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    let defaults = Defaults { head_dim: Some(128), tie_word_embeddings: false, max_position_embeddings: 32_768 };
    let attention_bias = fields.flag("attention_bias", false)?;
    let recipe = Recipe {
        names: Names { qk_norm: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..llama::NAMES },
        bias: Biases { qkv: attention_bias, o: attention_bias, mlp: false },
        ..llama::kin(fields, defaults, 1e-6)?
    };
    qwen2::with_sliding_layers(fields, recipe)
}
