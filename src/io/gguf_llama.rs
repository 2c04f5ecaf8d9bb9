//! GGUF's names for a llama put into Hugging Face's words: config fields, tensor names, rotary scaling.
//!
//! Source: `convert_hf_to_gguf.py` and `gguf-py/gguf/constants.py` of llama.cpp.

use serde_json::{Map, Value, json};

use super::checkpoint::{Tensor, row_count};
use super::gguf::{Entry, Gguf};
use crate::{Error, Result};

fn bad_file(file: &str, message: String) -> Error {
    Error::BadFile { file: file.to_owned(), message }
}

/// The fields of `config.json` that the metadata tells.
///
/// For an architecture other than llama these are its `model_type` and what it shares with llama: whether that is
/// enough is for the model to say.
pub(super) fn config(file: &str, gguf: &Gguf) -> Result<Map<String, Value>> {
    let missing = |key: &str| bad_file(file, format!("metadata '{key}' is missing"));
    let architecture = gguf.text("general.architecture")?.ok_or_else(|| missing("general.architecture"))?.to_owned();
    let key = |name: &str| format!("{architecture}.{name}");
    let count = |name: &str| gguf.count(&key(name));
    let required = |name: &str| count(name)?.ok_or_else(|| missing(&key(name)));
    let has = |name: &str| gguf.tensors.iter().any(|tensor| tensor.name == name);

    let hidden_size = required("embedding_length")?;
    let num_attention_heads = required("attention.head_count")?;
    if num_attention_heads == 0 {
        return Err(bad_file(file, format!("metadata '{}' is 0", key("attention.head_count"))));
    }
    let num_key_value_heads = count("attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let head_dim = count("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    let embedding_rows = gguf
        .tensors
        .iter()
        .find(|tensor| tensor.name == "token_embd.weight")
        .map(|t| t.dims[1..].iter().product::<u64>());
    let vocab_size = match (embedding_rows, count("vocab_size")?) {
        (Some(rows), _) => rows,
        (None, Some(size)) => size.into(),
        (None, None) => return Err(missing(&key("vocab_size"))),
    };
    // Mixtral calls itself llama in GGUF.
    let model_type = match count("expert_count")? {
        Some(experts) if experts > 0 && architecture == "llama" => "mixtral",
        _ => &architecture,
    };
    if architecture == "llama" {
        refuse_unimplemented(file, gguf, head_dim)?;
    }
    let eps = gguf.number(&key("attention.layer_norm_rms_epsilon"))?;

    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("model_type", model_type.into());
    set("hidden_size", hidden_size.into());
    set("intermediate_size", required("feed_forward_length")?.into());
    set("num_hidden_layers", required("block_count")?.into());
    set("num_attention_heads", num_attention_heads.into());
    set("num_key_value_heads", num_key_value_heads.into());
    set("head_dim", head_dim.into());
    set("hidden_act", "silu".into());
    set("max_position_embeddings", required("context_length")?.into());
    set("rms_norm_eps", as_written(eps.unwrap_or(1e-5)));
    set("rope_parameters", rope_parameters(gguf, &architecture)?);
    set("attention_bias", has("blk.0.attn_q.bias").into());
    set("mlp_bias", has("blk.0.ffn_up.bias").into());
    set("tie_word_embeddings", (!has("output.weight")).into());
    set("vocab_size", vocab_size.into());
    for (name, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = gguf.count(key)? {
            set(name, id.into());
        }
    }
    Ok(config)
}

/// Refuses by name what other families have and a llama of Hugging Face has no word for.
fn refuse_unimplemented(file: &str, gguf: &Gguf, head_dim: u32) -> Result<()> {
    let refuse =
        |key: &str, message: String| Err(Error::Unsupported { file: file.to_owned(), field: key.to_owned(), message });
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        match gguf.count(key)? {
            Some(size) if size != head_dim => return refuse(key, format!("it is {size} where a head has {head_dim}")),
            _ => {}
        }
    }
    for name in [
        "attention.sliding_window",
        "attention.scale",
        "attention.clamp_kqv",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "logit_scale",
        "embedding_scale",
        "residual_scale",
    ] {
        let key = format!("llama.{name}");
        if let Some(value) = gguf.number(&key)?.filter(|&value| value != 0.0) {
            return refuse(&key, format!("it is {value}, and llama has none"));
        }
    }
    match gguf.flag("llama.attention.causal")? {
        Some(false) => refuse("llama.attention.causal", "it is false".to_owned()),
        _ => Ok(()),
    }
}

/// Metadata floats are f32: 1e-5 comes as 9.999999747378752e-6. The shortest decimal that is the same f32 is what
/// config.json had.
fn as_written(number: f64) -> Value {
    json!((number as f32).to_string().parse().unwrap_or(number))
}

fn rope_parameters(gguf: &Gguf, architecture: &str) -> Result<Value> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let mut rope = Map::new();
    rope.insert("rope_theta".to_owned(), as_written(gguf.number(&key("freq_base"))?.unwrap_or(10_000.0)));
    let kind = gguf.text(&key("scaling.type"))?.unwrap_or("none");
    rope.insert("rope_type".to_owned(), if kind == "none" { "default" } else { kind }.into());
    if kind != "none" {
        if let Some(factor) = gguf.number(&key("scaling.factor"))? {
            rope.insert("factor".to_owned(), as_written(factor));
        }
        if let Some(length) = gguf.count(&key("scaling.original_context_length"))? {
            rope.insert("original_max_position_embeddings".to_owned(), length.into());
        }
    }
    Ok(rope.into())
}

/// Finds the `llama3` scaling that the converter turned into `rope_freqs.weight`, one divisor per rotated pair.
///
/// With `c = original_max_position_embeddings / wavelength`, the divisor is 1 from `c = high_freq_factor` on,
/// `factor` up to `c = low_freq_factor`, and between them `1 / ((1 - s) / factor + s)` where
/// `s = (c - low) / (high - low)`. The divisors fix `factor`, and low and high only as multiples of the original
/// length; every llama has 1 and 4, so the length is what is left to find, and the result is checked.
pub(super) fn add_rope_factors(file: &str, config: &mut Map<String, Value>, factors: &[f32]) -> Result<()> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let Some(rope) = config.get_mut("rope_parameters").and_then(Value::as_object_mut) else { return Ok(()) };
    let theta = rope.get("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
    let factors: Vec<f64> = factors.iter().map(|&factor| factor.into()).collect();
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(());
    }
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let wavelength = |i: usize| std::f64::consts::TAU * theta.powf(i as f64 / factors.len() as f64);
    let divisor = |i: usize, length: f64| {
        let s = ((length / wavelength(i) - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - s) / factor + s)
    };
    let fits = |length: f64| factors.iter().enumerate().all(|(i, &f)| (divisor(i, length) / f - 1.0).abs() < 1e-4);
    let between = factors.iter().position(|&f| f > 1.0 + 1e-3 && f < factor * (1.0 - 1e-3));
    let measured = between.map(|i| {
        let s = (1.0 / factors[i] - 1.0 / factor) / (1.0 - 1.0 / factor);
        ((s * (HIGH - LOW) + LOW) * wavelength(i)).round()
    });
    // Without a divisor between the two ends several lengths fit; llama 3's own comes first.
    let Some(length) = [Some(8192.0), measured].into_iter().flatten().find(|&length| fits(length)) else {
        return Err(Error::Unsupported {
            file: file.to_owned(),
            field: "rope_freqs.weight".to_owned(),
            message: "its factors are not those of llama3 scaling, the kind that is read".to_owned(),
        });
    };
    rope.insert("rope_type".to_owned(), "llama3".into());
    rope.insert("factor".to_owned(), as_written(factor));
    rope.insert("low_freq_factor".to_owned(), LOW.into());
    rope.insert("high_freq_factor".to_owned(), HIGH.into());
    rope.insert("original_max_position_embeddings".to_owned(), (length as u64).into());
    Ok(())
}

/// The weights under Hugging Face's names and shapes.
pub(super) fn tensors(file: &str, gguf: &Gguf, config: &Map<String, Value>) -> Result<Vec<Tensor>> {
    let heads = |name: &str| config.get(name).and_then(Value::as_u64).unwrap_or(1) as usize;
    let is_llama = matches!(config.get("model_type").and_then(Value::as_str), Some("llama" | "mixtral"));
    let mut tensors = Vec::with_capacity(gguf.tensors.len());
    for entry in &gguf.tensors {
        let name = hugging_face_name(&entry.name);
        let shape = shape(file, entry)?;
        let n_heads = match &name {
            name if is_llama && name.contains(".q_proj.") => Some(heads("num_attention_heads")),
            name if is_llama && name.contains(".k_proj.") => Some(heads("num_key_value_heads")),
            _ => None,
        };
        let row_group = match n_heads {
            None => 1,
            // The converter reorders their elements too, which no one needed yet.
            Some(_) if shape.len() == 1 => {
                return Err(Error::Unsupported {
                    file: file.to_owned(),
                    field: format!("the tensor '{}'", entry.name),
                    message: "biases of q and k are not read".to_owned(),
                });
            }
            Some(n_heads) => {
                let rows = shape[0];
                if n_heads == 0 || !rows.is_multiple_of(n_heads) || !(rows / n_heads).is_multiple_of(2) {
                    return Err(bad_file(
                        file,
                        format!("tensor '{}' of {rows} rows cannot have {n_heads} heads", entry.name),
                    ));
                }
                rows / n_heads
            }
        };
        let Entry { dtype, file, offset, .. } = *entry;
        tensors.push(Tensor { name, dtype, stored: dtype, shape, file, offset, row_group, transposed: false });
    }
    Ok(tensors)
}

/// Slowest dimension first, with a count of rows that fits memory's sizes.
fn shape(file: &str, entry: &Entry) -> Result<Vec<usize>> {
    let dims: Option<Vec<usize>> = entry.dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect();
    dims.filter(|dims| row_count(dims).is_some())
        .ok_or_else(|| bad_file(file, format!("tensor '{}' is too large: {:?}", entry.name, entry.dims)))
}

/// `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; a name we do not know stays.
fn hugging_face_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => return "model.norm.weight".to_owned(),
        "output.weight" => return "lm_head.weight".to_owned(),
        _ => {}
    }
    let in_layer = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let module = match module {
            "attn_norm" => "input_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" => "self_attn.q_norm",
            "attn_k_norm" => "self_attn.k_norm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        Some(format!("model.layers.{layer}.{module}.{kind}"))
    };
    in_layer().unwrap_or_else(|| name.to_owned())
}
