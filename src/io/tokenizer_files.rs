//! Finds the tokenizer and the chat template in a model's files.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::ChatTemplate;
use super::bpe::Parts;
use super::checkpoint::{Checkpoint, TextFiles, TextSource};
use super::gguf::Gguf;
use super::tokenizer::{SpecialTokens, Tokenizer};
use crate::{Error, Result};

const SETTINGS_FILE: &str = "tokenizer_config.json";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is cut before merging, by llama.cpp's name for it, one pattern after the other
/// (`llama-vocab.cpp`, `LLAMA_VOCAB_PRE_TYPE_*`).
const PRE_TOKENIZERS: [(&str, &[&str]); 9] = [
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    ("gpt-2", &[GPT2]),
    ("smollm", &[r"\p{N}", GPT2]),
    ("starcoder", &[r"\p{N}", GPT2]),
    ("llama-bpe", &[LLAMA3]),
    ("llama3", &[LLAMA3]),
    ("llama-v3", &[LLAMA3]),
    ("smaug-bpe", &[LLAMA3]),
    ("qwen2", &[QWEN2]),
];

impl Checkpoint {
    /// The tokenizer: `tokenizer.json`, or what a GGUF file says.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.text {
            TextSource::Gguf(gguf) => from_gguf(self.config_file(), gguf),
            TextSource::Folder(files) => from_folder(files, self.config()),
        }
    }

    /// The model's own chat template, if it has one.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &self.text {
            TextSource::Gguf(gguf) => {
                let Some(source) = gguf.text("tokenizer.chat_template")? else { return Ok(None) };
                let tokens = gguf.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
                let name = |key: &str| -> Result<&str> {
                    let id = gguf.count(key)?;
                    Ok(id.and_then(|id| tokens.get(id as usize)).map_or("", String::as_str))
                };
                let (bos, eos) = (name("tokenizer.ggml.bos_token_id")?, name("tokenizer.ggml.eos_token_id")?);
                ChatTemplate::new(self.config_file(), source, bos, eos).map(Some)
            }
            TextSource::Folder(files) => {
                let settings = settings(files, SETTINGS_FILE)?;
                let (file, Some(source)) = folder_template(files, &settings)? else { return Ok(None) };
                let name = |field: &str| special_token(&settings, field).unwrap_or_default();
                ChatTemplate::new(file, &source, name("bos_token"), name("eos_token")).map(Some)
            }
        }
    }
}

fn bad_file(file: &str, message: impl Into<String>) -> Error {
    Error::BadFile { file: file.to_owned(), message: message.into() }
}

fn from_gguf(file: &str, gguf: &Gguf) -> Result<Tokenizer> {
    let missing = |key: &str| bad_file(file, format!("metadata '{key}' is missing: the file has no tokenizer"));
    let unsupported = |key: &str, value: &str, known: String| Error::Unsupported {
        file: file.to_owned(),
        field: key.to_owned(),
        message: format!("it is '{value}'; {known}"),
    };
    let model = gguf.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    if model != "gpt2" {
        return Err(unsupported("tokenizer.ggml.model", model, "byte-pair encoding ('gpt2') is read".to_owned()));
    }
    let pre = gguf.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some((_, patterns)) = PRE_TOKENIZERS.iter().find(|(name, _)| *name == pre) else {
        let known = PRE_TOKENIZERS.map(|(name, _)| name).join(", ");
        return Err(unsupported("tokenizer.ggml.pre", pre, format!("known are {known}")));
    };
    let is_llama3 = patterns.contains(&LLAMA3);
    let tokens = gguf.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let merges = gguf.texts("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
    let types = gguf.ints("tokenizer.ggml.token_type")?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(bad_file(file, format!("it has {} tokens and {} token types", tokens.len(), types.len())));
    }

    let mut parts = Parts { ignore_merges: is_llama3, ..Parts::default() };
    for (id, token) in (0..).zip(tokens) {
        parts.vocab.insert(token.clone(), id);
    }
    // Types are ggml's: 3 control, 4 defined by the user.
    for ((id, token), &kind) in (0..).zip(tokens).zip(types) {
        if kind == 3 || kind == 4 {
            parts.added.push((id, AddedToken::from(token.as_str(), kind == 3).normalized(false)));
        }
    }
    parts.added.retain(|(id, token)| parts.vocab.get(&token.content) == Some(id));
    for (i, merge) in merges.iter().enumerate() {
        // Tokens may begin with a space when they were not byte-encoded, so the first one does not part them.
        let (left, right) = merge
            .char_indices()
            .skip(1)
            .find(|(_, char)| *char == ' ')
            .map(|(at, _)| (&merge[..at], &merge[at + 1..]))
            .ok_or_else(|| bad_file(file, format!("merge {i} ('{merge}') is not two tokens")))?;
        parts.merges.push((left.to_owned(), right.to_owned()));
    }
    let mut cuts: Vec<Value> = patterns
        .iter()
        .map(|pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}))
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    cuts.push(byte_level.clone());
    parts.pre_tokenizer = json!({"type": "Sequence", "pretokenizers": cuts});
    parts.decoder = byte_level;

    let id = |key: &str| -> Result<Option<u32>> {
        match gguf.count(key)? {
            Some(id) if id as usize >= tokens.len() => {
                Err(bad_file(file, format!("metadata '{key}' is {id} where there are {} tokens", tokens.len())))
            }
            id => Ok(id),
        }
    };
    let special = SpecialTokens {
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        ends: id("tokenizer.ggml.eot_token_id")?.into_iter().collect(),
        add_bos: gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(is_llama3),
    };
    Ok(Tokenizer::new(file, parts.build(file)?, special))
}

/// tokenizer.json, of which the unused rest is skipped unread.
#[derive(Deserialize)]
struct TokenizerJson {
    model: ModelJson,
    #[serde(default)]
    added_tokens: Vec<AddedJson>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct ModelJson {
    /// Old files leave it out, and mean BPE when they have merges.
    r#type: Option<String>,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<MergeJson>,
    unk_token: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Pair(String, String),
    Spaced(String),
}

#[derive(Deserialize)]
struct AddedJson {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

fn from_folder(files: &TextFiles, config: &Map<String, Value>) -> Result<Tokenizer> {
    const FILE: &str = "tokenizer.json";
    let bytes = files.get(FILE).ok_or_else(|| bad_file(FILE, "is missing"))?;
    let json: TokenizerJson = serde_json::from_slice(bytes).map_err(|error| bad_file(FILE, error.to_string()))?;
    let model = json.model;
    let unsupported =
        |field: &str, message: String| Error::Unsupported { file: FILE.to_owned(), field: field.to_owned(), message };
    match model.r#type.as_deref() {
        Some("BPE") | None => {}
        Some(other) => return Err(unsupported("model.type", format!("it is '{other}'; 'BPE' is read"))),
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("model.dropout", "tokens would be random".to_owned()));
    }
    for (field, value) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            return Err(unsupported(field, format!("it is '{value}'; none is read")));
        }
    }
    let vocab: BTreeMap<String, u32> = serde_json::from_value(model.vocab)
        .map_err(|error| bad_file(FILE, format!("its vocabulary is not valid: {error}")))?;
    let merges = model.merges.into_iter().enumerate().map(|(i, merge)| match merge {
        MergeJson::Pair(left, right) => Ok((left, right)),
        MergeJson::Spaced(text) => match text.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(bad_file(FILE, format!("merge {i} ('{text}') is not two tokens"))),
        },
    });
    let parts = Parts {
        vocab,
        merges: merges.collect::<Result<_>>()?,
        added: json.added_tokens.into_iter().map(|added| (added.id, added.token)).collect(),
        unk_token: model.unk_token,
        fuse_unk: model.fuse_unk,
        byte_fallback: model.byte_fallback,
        ignore_merges: model.ignore_merges,
        normalizer: json.normalizer,
        pre_tokenizer: json.pre_tokenizer,
        decoder: json.decoder,
    };
    let encoder = parts.build(FILE)?;

    let settings = settings(files, SETTINGS_FILE)?;
    let by_name = |field: &str| encoder.token_to_id(special_token(&settings, field)?);
    let ids = |value: Option<&Value>| match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => Vec::from_iter(id.as_u64()),
        None => Vec::new(),
    };
    let known = |id: &u32| encoder.id_to_token(*id).is_some();
    let config_ids = |field: &str| ids(config.get(field)).into_iter().filter_map(|id| id.try_into().ok()).filter(known);
    let generation = self::settings(files, "generation_config.json")?;
    let more_ends = ids(generation.get("eos_token_id")).into_iter().filter_map(|id| id.try_into().ok()).filter(known);
    let bos = by_name("bos_token").or_else(|| config_ids("bos_token_id").next());
    let special = SpecialTokens {
        bos,
        eos: by_name("eos_token").or_else(|| config_ids("eos_token_id").next()),
        ends: config_ids("eos_token_id").chain(more_ends).collect(),
        // What transformers does with plain text is in the post-processor; older files only have the flag.
        add_bos: match json.post_processor {
            Value::Null => settings.get("add_bos_token").and_then(Value::as_bool).unwrap_or(false),
            processor => bos.and_then(|bos| encoder.id_to_token(bos)).is_some_and(|bos| begins_with(&processor, &bos)),
        },
    };
    Ok(Tokenizer::new(FILE, encoder, special))
}

/// Whether a post-processor puts `token` before a single text.
fn begins_with(processor: &Value, token: &str) -> bool {
    let nested = processor.get("processors").and_then(Value::as_array);
    let first = processor.pointer("/single/0/SpecialToken/id").and_then(Value::as_str);
    first == Some(token) || nested.into_iter().flatten().any(|inner| begins_with(inner, token))
}

/// A small file of settings; empty where there is none.
fn settings(files: &TextFiles, file: &'static str) -> Result<Map<String, Value>> {
    let Some(bytes) = files.get(file) else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|error| bad_file(file, error.to_string()))
}

/// A special token's text: by itself, or with how it is matched.
fn special_token<'a>(settings: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    let value = settings.get(field)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The template's file and text: its own file, or a field of the settings, by itself or by name.
fn folder_template(files: &TextFiles, settings: &Map<String, Value>) -> Result<(&'static str, Option<String>)> {
    const TEMPLATE: &str = "chat_template.jinja";
    if let Some(bytes) = files.get(TEMPLATE) {
        let text = String::from_utf8(bytes.clone()).map_err(|_| bad_file(TEMPLATE, "is not UTF-8"))?;
        return Ok((TEMPLATE, Some(text)));
    }
    let source = match settings.get("chat_template") {
        None | Some(Value::Null) => None,
        Some(Value::String(source)) => Some(source.clone()),
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str())
            .map(str::to_owned),
        Some(_) => return Err(bad_file(SETTINGS_FILE, "its 'chat_template' is not a text")),
    };
    Ok((SETTINGS_FILE, source))
}
