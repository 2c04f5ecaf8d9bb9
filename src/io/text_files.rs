//! What a Hugging Face folder has beside its weights, written: as it was given, or made of a GGUF file's metadata.

use std::rc::Rc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, TextSource, find};
use super::{ByteSource, DType, MemorySource};
use crate::Result;

/// Those that belong to a tokenizer, as published folders have them.
const TEXT_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// A file under the name that it is looked for by.
pub(crate) type NamedSource = (String, Rc<dyn ByteSource>);

/// Where the files of a written tokenizer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerFiles {
    /// They are those that were given.
    Copied,
    /// They say what the GGUF file's metadata says.
    Made,
    /// There are none.
    None,
}

impl Checkpoint {
    /// `config.json` for weights in `dtype`: the folder's own, or one made of a GGUF file's metadata.
    pub(crate) fn config_json(&self, dtype: DType) -> Vec<u8> {
        let torch = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        let mut config = self.config().clone();
        if let TextSource::Gguf(_) = &self.text {
            complete(&mut config);
        }
        // transformers 5 has another name for it, and reads both.
        let name = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(name.to_owned(), torch.into());
        pretty(config.into())
    }

    /// The files about the tokenizer, by name, of those that the model was opened from; made where there are none.
    pub(crate) fn text_files(&self, files: &[Rc<dyn ByteSource>]) -> Result<(TokenizerFiles, Vec<NamedSource>)> {
        let mut given = vec![];
        for name in TEXT_FILES {
            given.extend(find(files, name)?.map(|file| (name.to_owned(), file.clone())));
        }
        let TextSource::Gguf(gguf) = &self.text else {
            let kind = if given.is_empty() { TokenizerFiles::None } else { TokenizerFiles::Copied };
            return Ok((kind, given));
        };
        if given.iter().any(|(name, _)| name == "tokenizer.json") {
            return Ok((TokenizerFiles::Copied, given));
        }
        // A tokenizer that is not read here is no reason not to write the weights.
        let Ok(tokenizer) = self.tokenizer() else { return Ok((TokenizerFiles::None, vec![])) };
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.config().get("max_position_embeddings").or(self.config().get("n_positions")),
        });
        let named = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let special = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos()),
            ("unk_token", gguf.count("tokenizer.ggml.unknown_token_id")?),
            ("pad_token", gguf.count("tokenizer.ggml.padding_token_id")?),
        ];
        for (field, id) in special {
            if let Some(token) = named(id) {
                settings[field] = token.into();
            }
        }
        if let Some(template) = gguf.text("tokenizer.chat_template")? {
            settings["chat_template"] = template.into();
        }
        let generation = json!({ "bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.end_of_turn() });
        let made = [
            ("tokenizer.json", tokenizer.to_json()?),
            ("tokenizer_config.json", pretty(settings)),
            ("generation_config.json", pretty(generation)),
        ];
        let source = |(name, bytes): (&str, Vec<u8>)| -> NamedSource {
            (name.to_owned(), Rc::new(MemorySource::new(name, bytes)))
        };
        Ok((TokenizerFiles::Made, made.map(source).to_vec()))
    }
}

fn pretty(value: Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Adds to what a GGUF file's metadata says what transformers would otherwise take from its own defaults, which are those
/// of other models.
fn complete(config: &mut Map<String, Value>) {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let class = match model_type {
        "gemma3_text" => "Gemma3ForCausalLM",
        "gpt2" => "GPT2LMHeadModel",
        "llama" => "LlamaForCausalLM",
        "mistral" => "MistralForCausalLM",
        "phi3" => "Phi3ForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => "",
    };
    config.insert("architectures".to_owned(), json!([class]));
    for id in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        config.entry(id).or_insert(Value::Null);
    }
    if let (Some(pattern), Some(layers)) = (count(config, "sliding_window_pattern"), count(config, "num_hidden_layers"))
    {
        let kind = |layer: u64| if layer.is_multiple_of(pattern) { "full_attention" } else { "sliding_attention" };
        config.insert("layer_types".to_owned(), (1..=layers).map(kind).collect());
    }
    // The names of transformers 4.
    let Some(rope) = config.get("rope_parameters").cloned() else { return };
    let (full, local) = (rope.get("full_attention").unwrap_or(&rope), rope.get("sliding_attention"));
    let theta = |rope: &Value| rope.get("rope_theta").cloned().unwrap_or_default();
    config.insert("rope_theta".to_owned(), theta(full));
    if let Some(local) = local {
        config.insert("rope_local_base_freq".to_owned(), theta(local));
    }
    if full.get("rope_type").and_then(Value::as_str).is_some_and(|kind| kind != "default") {
        config.insert("rope_scaling".to_owned(), full.clone());
    }
}

fn count(config: &Map<String, Value>, name: &str) -> Option<u64> {
    config.get(name).and_then(Value::as_u64).filter(|&count| count > 0)
}
