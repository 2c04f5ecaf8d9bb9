//! `model_type` `gpt2` ("Language Models are Unsupervised Multitask Learners", 2019): layer norms, learned positions,
//! biases everywhere, q, k and v in one linear, GELU without a gate. Reference: transformers' `modeling_gpt2.py`.

use super::config::{Config, Fields};
use super::decoder::{Biases, LayerKind, Names, Recipe, Up};
use crate::Result;
use crate::kernels::matmul::Activation;
use crate::layers::NormKind;

const NAMES: Names = Names {
    embed_tokens: "transformer.wte",
    embed_positions: Some("transformer.wpe"),
    layers: "transformer.h",
    input_norm: "ln_1",
    qkv_proj: &["attn.c_attn"],
    qk_norm: None,
    o_proj: "attn.c_proj",
    attention_norm: None,
    mlp_norm: "ln_2",
    up: Up::Plain("mlp.c_fc"),
    down_proj: "mlp.c_proj",
    output_norm: None,
    norm: "transformer.ln_f",
    // Causal masks.
    ignored: &[".attn.bias", ".attn.masked_bias"],
};

pub(super) fn recipe(fields: &Fields) -> Result<Recipe> {
    fields.only("activation_function", &["gelu_new".into(), "gelu_pytorch_tanh".into()])?;
    fields.only("scale_attn_weights", &[true.into()])?;
    fields.only("scale_attn_by_inverse_layer_idx", &[false.into()])?;
    fields.only("add_cross_attention", &[false.into()])?;
    fields.only("quantization_config", &[])?;
    let hidden_size = fields.count("n_embd", Some(768), 1 << 16)?;
    let n_heads = fields.count("n_head", Some(12), 1 << 10)?;
    let config = Config {
        model_type: Config::model_type(fields.file, fields.map)?.to_owned(),
        vocab_size: fields.count("vocab_size", Some(50_257), 1 << 20)?,
        hidden_size,
        intermediate_size: fields.count("n_inner", Some(4 * hidden_size), 1 << 18)?,
        num_hidden_layers: fields.count("n_layer", Some(12), 512)?,
        num_attention_heads: n_heads,
        num_key_value_heads: n_heads,
        head_dim: hidden_size / n_heads,
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        max_position_embeddings: fields.count("n_positions", Some(1024), 1 << 24)?,
    };
    config.check_divides(fields, "n_embd", "n_head")?;
    config.check_heads(fields)?;
    Ok(Recipe {
        names: NAMES,
        norm: NormKind::Layer,
        norm_eps: fields.positive("layer_norm_epsilon", Some(1e-5))? as f32,
        embed_scale: 1.0,
        rotary: vec![],
        layers: vec![LayerKind { sliding_window: None, rotary: 0 }; config.num_hidden_layers],
        score_scale: 1.0 / (config.head_dim as f32).sqrt(),
        act: Activation::GeluTanh,
        bias: Biases { qkv: true, o: true, mlp: true },
        config,
    })
}
