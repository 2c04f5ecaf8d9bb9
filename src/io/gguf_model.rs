//! GGUF's names put into Hugging Face's words: config fields, tensor names, rotary scaling.
//!
//! Source: `conversion/` and `gguf-py/gguf/constants.py` of llama.cpp.

use serde_json::{Map, Value, json};

use super::checkpoint::{Tensor, checked_shape};
use super::gguf::{Entry, Gguf};
use crate::{Error, Result};

fn bad_file(file: &str, message: String) -> Error {
    Error::BadFile { file: file.to_owned(), message }
}

/// Reads metadata of the file's own architecture.
struct Metadata<'a> {
    file: &'a str,
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Metadata<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn count(&self, name: &str) -> Result<Option<u32>> {
        self.gguf.count(&self.key(name))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.gguf.number(&self.key(name))
    }

    fn missing(&self, key: &str) -> Error {
        bad_file(self.file, format!("metadata '{key}' is missing"))
    }

    fn required(&self, name: &str) -> Result<u32> {
        self.count(name)?.ok_or_else(|| self.missing(&self.key(name)))
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.gguf.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// Rows of the embedding table, or what the metadata says where there is none.
    fn vocab_size(&self) -> Result<u64> {
        let table = self.gguf.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        match (table, self.count("vocab_size")?) {
            (Some(table), _) => Ok(table.dims[1..].iter().copied().fold(1, u64::saturating_mul)),
            (None, Some(size)) => Ok(size.into()),
            (None, None) => Err(self.missing(&self.key("vocab_size"))),
        }
    }
}

/// The fields of `config.json` that the metadata tells.
///
/// For an architecture that we do not know these are its `model_type` and what it shares with llama: whether that is
/// enough is for the model to say.
pub(super) fn config(file: &str, gguf: &Gguf) -> Result<Map<String, Value>> {
    const ARCHITECTURE: &str = "general.architecture";
    let Some(architecture) = gguf.text(ARCHITECTURE)? else {
        return Err(bad_file(file, format!("metadata '{ARCHITECTURE}' is missing")));
    };
    let metadata = Metadata { file, gguf, architecture };
    let mut config = match architecture {
        "gpt2" => gpt2(&metadata)?,
        _ => llama_and_kin(&metadata)?,
    };
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("tie_word_embeddings", (!metadata.has_tensor("output.weight")).into());
    set("vocab_size", metadata.vocab_size()?.into());
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

fn gpt2(metadata: &Metadata) -> Result<Map<String, Value>> {
    let eps = metadata.number("attention.layer_norm_epsilon")?;
    let fields = [
        ("model_type", "gpt2".into()),
        ("n_embd", metadata.required("embedding_length")?.into()),
        ("n_inner", metadata.required("feed_forward_length")?.into()),
        ("n_layer", metadata.required("block_count")?.into()),
        ("n_head", metadata.required("attention.head_count")?.into()),
        ("n_positions", metadata.required("context_length")?.into()),
        ("activation_function", "gelu_new".into()),
        ("layer_norm_epsilon", as_written(eps.unwrap_or(1e-5))),
    ];
    Ok(fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
}

fn llama_and_kin(metadata: &Metadata) -> Result<Map<String, Value>> {
    let (gguf, architecture) = (metadata.gguf, metadata.architecture);
    let hidden_size = metadata.required("embedding_length")?;
    let num_attention_heads = metadata.required("attention.head_count")?;
    if num_attention_heads == 0 {
        return Err(bad_file(metadata.file, format!("metadata '{}' is 0", metadata.key("attention.head_count"))));
    }
    let num_key_value_heads = metadata.count("attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let head_dim = metadata.count("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    let num_hidden_layers = metadata.required("block_count")?;
    let sliding_window = metadata.count("attention.sliding_window")?.filter(|&window| window > 0);
    let model_type = match architecture {
        // Mixtral and Mistral call themselves llama in GGUF.
        "llama" if metadata.count("expert_count")?.is_some_and(|experts| experts > 0) => "mixtral",
        "llama" if sliding_window.is_some() => "mistral",
        "gemma3" => "gemma3_text",
        other => other,
    };
    if ["gemma3", "llama", "phi3", "qwen2", "qwen3"].contains(&architecture) {
        refuse_unimplemented(metadata, head_dim)?;
    }
    let eps = metadata.number("attention.layer_norm_rms_epsilon")?;

    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("model_type", model_type.into());
    set("hidden_size", hidden_size.into());
    set("intermediate_size", metadata.required("feed_forward_length")?.into());
    set("num_hidden_layers", num_hidden_layers.into());
    set("num_attention_heads", num_attention_heads.into());
    set("num_key_value_heads", num_key_value_heads.into());
    set("head_dim", head_dim.into());
    set("max_position_embeddings", metadata.required("context_length")?.into());
    set("rms_norm_eps", as_written(eps.unwrap_or(1e-5)));
    let rope = rope_parameters(gguf, architecture)?;
    if architecture != "gemma3" {
        set("hidden_act", "silu".into());
        set("rope_parameters", rope);
        if architecture != "qwen2" {
            set("attention_bias", metadata.has_tensor("blk.0.attn_q.bias").into());
        }
        set("mlp_bias", metadata.has_tensor("blk.0.ffn_up.bias").into());
        if let Some(window) = sliding_window {
            set("sliding_window", window.into());
        }
        return Ok(config);
    }
    set("hidden_activation", "gelu_pytorch_tanh".into());
    // Not in the metadata: llama.cpp knows them by the architecture, and the largest model by its number of layers.
    let scalar = if num_hidden_layers == 62 { hidden_size / num_attention_heads } else { head_dim };
    set("query_pre_attn_scalar", scalar.into());
    let local = metadata.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local = json!({ "rope_type": "default", "rope_theta": as_written(local) });
    set("rope_parameters", json!({ "full_attention": rope, "sliding_attention": local }));
    set("sliding_window", sliding_window.ok_or_else(|| metadata.missing("gemma3.attention.sliding_window"))?.into());
    set("sliding_window_pattern", metadata.count("attention.sliding_window_pattern")?.unwrap_or(6).into());
    Ok(config)
}

/// Refuses by name what other families have and Hugging Face's configs of these have no word for.
fn refuse_unimplemented(metadata: &Metadata, head_dim: u32) -> Result<()> {
    let refuse = |name: &str, message: String| {
        let (file, field) = (metadata.file.to_owned(), metadata.key(name));
        Err(Error::Unsupported { file, field, message })
    };
    for name in ["rope.dimension_count", "attention.value_length"] {
        match metadata.count(name)? {
            Some(size) if size != head_dim => return refuse(name, format!("it is {size} where a head has {head_dim}")),
            _ => {}
        }
    }
    for name in [
        "attention.scale",
        "attention.clamp_kqv",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "logit_scale",
        "embedding_scale",
        "residual_scale",
    ] {
        if let Some(value) = metadata.number(name)?.filter(|&value| value != 0.0) {
            return refuse(name, format!("it is {value}, and {} has none", metadata.architecture));
        }
    }
    if ["qwen2", "qwen3"].contains(&metadata.architecture) {
        // Which layers have it is not said.
        if let Some(window) = metadata.count("attention.sliding_window")?.filter(|&window| window > 0) {
            return refuse("attention.sliding_window", format!("it is {window}, supported is none"));
        }
    }
    match metadata.gguf.flag(&metadata.key("attention.causal"))? {
        Some(false) => refuse("attention.causal", "it is false".to_owned()),
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
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let is_llama = matches!(model_type, "llama" | "mistral" | "mixtral");
    let mut tensors = Vec::with_capacity(gguf.tensors.len());
    for entry in &gguf.tensors {
        let name = hugging_face_name(model_type, &entry.name);
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
        let plus_one = model_type == "gemma3_text" && name.ends_with("norm.weight");
        let Entry { dtype, file, offset, .. } = *entry;
        let (stored, transposed) = (dtype, false);
        tensors.push(Tensor { name, dtype, stored, shape, file, offset, row_group, transposed, plus_one });
    }
    Ok(tensors)
}

/// Slowest dimension first.
fn shape(file: &str, entry: &Entry) -> Result<Vec<usize>> {
    checked_shape(entry.dims.iter().rev().copied())
        .ok_or_else(|| bad_file(file, format!("tensor '{}' is too large: {:?}", entry.name, entry.dims)))
}

/// `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; a name we do not know stays.
pub(super) fn hugging_face_name(model_type: &str, name: &str) -> String {
    let Some((path, kind)) = name.rsplit_once('.') else { return name.to_owned() };
    let found = |part: &str| names(model_type).find(|(theirs, _)| *theirs == part).map(|(_, ours)| *ours);
    let layer = path.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let ours = match layer {
        None => found(path).map(str::to_owned),
        Some((layer, part)) => found(part).map(|part| {
            let layers = if model_type == "gpt2" { "transformer.h" } else { "model.layers" };
            format!("{layers}.{layer}.{part}")
        }),
    };
    ours.map_or_else(|| name.to_owned(), |ours| format!("{ours}.{kind}"))
}

/// `model.layers.3.self_attn.q_proj` → `blk.3.attn_q`, where GGUF has a name for it.
pub(super) fn gguf_name(model_type: &str, module: &str) -> Option<String> {
    let layers = if model_type == "gpt2" { "transformer.h." } else { "model.layers." };
    let (layer, part) = module.strip_prefix(layers)?.split_once('.')?;
    let (theirs, _) = names(model_type).find(|(_, ours)| *ours == part)?;
    Some(format!("blk.{layer}.{theirs}"))
}

/// GGUF's names and Hugging Face's, what an architecture has of its own first.
fn names(model_type: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let own: &[_] = match model_type {
        "gemma3_text" => GEMMA3,
        "phi3" => PHI3,
        _ => &[],
    };
    own.iter().chain(if model_type == "gpt2" { GPT2 } else { LLAMA_AND_KIN })
}

const LLAMA_AND_KIN: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// What Gemma 3 has otherwise.
const GEMMA3: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// And Phi-3.
const PHI3: &[(&str, &str)] = &[("ffn_up", "mlp.gate_up_proj")];

const GPT2: &[(&str, &str)] = &[
    ("token_embd", "transformer.wte"),
    ("position_embd", "transformer.wpe"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];
