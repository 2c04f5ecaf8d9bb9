//! `model_type` `gemma3_text` (arXiv 2503.19786): four norms a layer by one more than their weight, norms of query and key
//! heads, GeGLU, scaled embeddings, and five layers with a sliding window and rotary frequencies of their own for each
//! that sees all. Reference: transformers' `modeling_gemma3.py`.

use super::config::{Config, Defaults, Fields, Rotary};
use super::decoder::{Biases, LayerKind, Names, Recipe, Up};
use super::llama;
use crate::Result;
use crate::kernels::matmul::Activation;
use crate::layers::NormKind;

const NAMES: Names = Names {
    qk_norm: Some(["self_attn.q_norm", "self_attn.k_norm"]),
    attention_norm: Some("post_attention_layernorm"),
    mlp_norm: "pre_feedforward_layernorm",
    up: Up::Gated(["mlp.gate_proj", "mlp.up_proj"]),
    output_norm: Some("post_feedforward_layernorm"),
    ..llama::NAMES
};
/// Which of the rotary frequencies.
const FULL: usize = 0;
const SLIDING: usize = 1;

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    fields.only("hidden_activation", &["gelu_pytorch_tanh".into()])?;
    fields.only("attn_logit_softcapping", &[])?;
    fields.only("final_logit_softcapping", &[])?;
    fields.only("use_bidirectional_attention", &[false.into()])?;
    let defaults = Defaults { head_dim: Some(256), tie_word_embeddings: true, max_position_embeddings: 131_072 };
    let config = Config::parse(fields, defaults)?;
    let attention_bias = fields.flag("attention_bias", false)?;

    let window = fields.count("sliding_window", Some(4096), 1 << 24)?;
    let pattern = fields.count("sliding_window_pattern", Some(6), 1 << 16)?;
    let types = fields.layer_types(config.num_hidden_layers)?;
    let layer = |index: usize| {
        let is_sliding = types.as_ref().map_or(!(index + 1).is_multiple_of(pattern), |types| types[index]);
        match is_sliding {
            true => LayerKind { sliding_window: Some(window), rotary: SLIDING },
            false => LayerKind { sliding_window: None, rotary: FULL },
        }
    };
    Ok(Recipe {
        names: NAMES,
        norm: NormKind::RmsPlusOne,
        norm_eps: fields.positive("rms_norm_eps", Some(1e-6))? as f32,
        embed_scale: (config.hidden_size as f32).sqrt(),
        rotary: rotary(fields)?.to_vec(),
        layers: (0..config.num_hidden_layers).map(layer).collect(),
        score_scale: 1.0 / (fields.positive("query_pre_attn_scalar", Some(256.0))? as f32).sqrt(),
        act: Activation::GeluTanh,
        bias: Biases { qkv: attention_bias, o: attention_bias, mlp: false },
        config,
    })
}

/// Of layers that see all and of those with a window: by kind in `rope_parameters` (transformers 5), or by
/// `rope_theta` with `rope_scaling` and `rope_local_base_freq`.
fn rotary(fields: &Fields) -> Result<[Rotary; 2]> {
    const THETA: f64 = 1_000_000.0;
    const LOCAL_THETA: f64 = 10_000.0;
    if let Some(by_kind) = fields.object("rope_parameters")? {
        let of = |kind: &str, theta: f64| match by_kind.object(kind)? {
            Some(nested) => Rotary::parse_nested(&nested, theta),
            None => Err(by_kind.bad(kind, "is missing from rope_parameters")),
        };
        return Ok([of("full_attention", THETA)?, of("sliding_attention", LOCAL_THETA)?]);
    }
    let theta = fields.rope_theta("rope_theta", THETA)?;
    let full = match fields.object("rope_scaling")? {
        Some(nested) => Rotary::parse_nested(&nested, theta)?,
        None => Rotary { rope_theta: theta, scaling: None },
    };
    let local = fields.rope_theta("rope_local_base_freq", LOCAL_THETA)?;
    Ok([full, Rotary { rope_theta: local, scaling: None }])
}
