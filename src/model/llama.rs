//! `model_type` `llama` (arXiv 2302.13971, 2307.09288, 2407.21783): pre-norm, grouped heads, rotary positions, SwiGLU;
//! tied or untied head. SmolLM2, Llama 3.2 and TinyLlama are of this kind. Reference: transformers' `modeling_llama.py`.

use super::config::{Config, Defaults, Fields, Rotary};
use super::decoder::{Biases, LayerKind, Names, Recipe, Up};
use crate::Result;
use crate::kernels::matmul::Activation;
use crate::layers::NormKind;

/// Its modules' names, which most later architectures kept.
pub(super) const NAMES: Names = Names {
    embed_tokens: "model.embed_tokens",
    embed_positions: None,
    layers: "model.layers",
    input_norm: "input_layernorm",
    qkv_proj: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    qk_norm: None,
    o_proj: "self_attn.o_proj",
    attention_norm: None,
    mlp_norm: "post_attention_layernorm",
    up: Up::Gated(["mlp.gate_proj", "mlp.up_proj"]),
    down_proj: "mlp.down_proj",
    output_norm: None,
    norm: "model.norm",
    ignored: &["rotary_emb.inv_freq"],
};

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    fields.only("sliding_window", &[])?;
    fields.only("layer_types", &[])?;
    let defaults = Defaults { head_dim: None, tie_word_embeddings: false, max_position_embeddings: 2048 };
    let attention_bias = fields.flag("attention_bias", false)?;
    let bias = Biases { qkv: attention_bias, o: attention_bias, mlp: fields.flag("mlp_bias", false)? };
    Ok(Recipe { bias, ..kin(fields, defaults, 1e-6)? })
}

/// What llama shares with the architectures after it: full attention, no biases, unless they say otherwise.
pub(super) fn kin(fields: &Fields, defaults: Defaults, rms_norm_eps: f64) -> Result<Recipe> {
    fields.only("hidden_act", &["silu".into()])?;
    fields.only("partial_rotary_factor", &[1.into(), 1.0.into()])?;
    let config = Config::parse(fields, defaults)?;
    Ok(Recipe {
        names: NAMES,
        norm: NormKind::Rms,
        norm_eps: fields.positive("rms_norm_eps", Some(rms_norm_eps))? as f32,
        embed_scale: 1.0,
        rotary: vec![Rotary::parse(fields)?],
        layers: vec![LayerKind { sliding_window: None, rotary: 0 }; config.num_hidden_layers],
        score_scale: 1.0 / (config.head_dim as f32).sqrt(),
        act: Activation::Silu,
        bias: Biases::default(),
        config,
    })
}
