//! The tokenizer of a Hugging Face folder: `tokenizer.json`, and the settings beside it.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::checkpoint::TextFiles;
use super::encoder::{Bpe, Model, Parts};
use super::tokenizer::{SpecialTokens, Tokenizer};
use super::tokenizer_files::{SETTINGS_FILE, bad_file, settings, special_token};
use crate::{Error, Result};

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
    vocab: VocabJson,
    #[serde(default)]
    merges: Vec<MergeJson>,
    unk_token: Option<String>,
    /// Of Unigram.
    unk_id: Option<usize>,
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

/// A vocabulary, read straight into the form that the models want: those of Gemma have 262,144 tokens.
enum VocabJson {
    /// BPE: the id of each token.
    Ids(Vocab),
    /// Unigram: each piece with its log-probability, in the order of the ids.
    Scores(Vec<(String, f64)>),
}

impl Default for VocabJson {
    fn default() -> Self {
        VocabJson::Ids(Vocab::default())
    }
}

impl<'de> Deserialize<'de> for VocabJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = VocabJson;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a vocabulary: an object of ids, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabJson, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((token, id)) = map.next_entry()? {
                    vocab.insert(token, id);
                }
                Ok(VocabJson::Ids(vocab))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VocabJson, A::Error> {
                let mut pieces = Vec::new();
                while let Some(piece) = list.next_element()? {
                    pieces.push(piece);
                }
                Ok(VocabJson::Scores(pieces))
            }
        }

        deserializer.deserialize_any(Form)
    }
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

const FILE: &str = "tokenizer.json";

fn unsupported(field: &str, message: String) -> Error {
    Error::Unsupported { file: FILE.to_owned(), field: field.to_owned(), message }
}

impl ModelJson {
    fn checked(self) -> Result<Model> {
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(unsupported("model.dropout", "tokens would be random".to_owned()));
        }
        for (field, value) in [
            ("model.continuing_subword_prefix", &self.continuing_subword_prefix),
            ("model.end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                return Err(unsupported(field, format!("it is '{value}'; none is read")));
            }
        }
        match (self.r#type.as_deref(), self.vocab) {
            (Some("BPE") | None, VocabJson::Ids(vocab)) => {
                let merges = self.merges.into_iter().enumerate().map(|(i, merge)| match merge {
                    MergeJson::Pair(left, right) => Ok((left, right)),
                    MergeJson::Spaced(text) => match text.split_once(' ') {
                        Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
                        None => Err(bad_file(FILE, format!("merge {i} ('{text}') is not two tokens"))),
                    },
                });
                Ok(Model::Bpe(Bpe {
                    vocab,
                    merges: merges.collect::<Result<_>>()?,
                    unk_token: self.unk_token,
                    fuse_unk: self.fuse_unk,
                    byte_fallback: self.byte_fallback,
                    ignore_merges: self.ignore_merges,
                }))
            }
            (Some("Unigram"), VocabJson::Scores(pieces)) => {
                Ok(Model::Unigram { pieces, unk_id: self.unk_id, byte_fallback: self.byte_fallback })
            }
            (Some("BPE" | "Unigram") | None, _) => Err(bad_file(FILE, "its vocabulary is not one of its model.type")),
            (Some(other), _) => {
                Err(unsupported("model.type", format!("it is '{other}'; 'BPE' and 'Unigram' are read")))
            }
        }
    }
}

/// The tokenizer of a folder's `tokenizer.json`; its special tokens are found in the settings beside it.
pub(super) fn read(files: &TextFiles, config: &Map<String, Value>) -> Result<Tokenizer> {
    let bytes = files.get(FILE).ok_or_else(|| bad_file(FILE, "is missing"))?;
    let json: TokenizerJson = serde_json::from_slice(bytes).map_err(|error| bad_file(FILE, error.to_string()))?;
    let parts = Parts {
        model: json.model.checked()?,
        added: json.added_tokens.into_iter().map(|added| (added.id, added.token)).collect(),
        normalizer: json.normalizer,
        pre_tokenizer: json.pre_tokenizer,
        decoder: json.decoder,
    };
    let encoder = parts.build(FILE)?;

    let own = settings(files, SETTINGS_FILE)?;
    let by_name = |field: &str| encoder.token_to_id(special_token(&own, field)?);
    let ids = |value: Option<&Value>| match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => Vec::from_iter(id.as_u64()),
        None => Vec::new(),
    };
    let known = |id: &u32| encoder.id_to_token(*id).is_some();
    let config_ids = |field: &str| ids(config.get(field)).into_iter().filter_map(|id| id.try_into().ok()).filter(known);
    let generation = settings(files, "generation_config.json")?;
    let more_ends = ids(generation.get("eos_token_id")).into_iter().filter_map(|id| id.try_into().ok()).filter(known);
    let bos = by_name("bos_token").or_else(|| config_ids("bos_token_id").next());
    let special = SpecialTokens {
        bos,
        eos: by_name("eos_token").or_else(|| config_ids("eos_token_id").next()),
        ends: config_ids("eos_token_id").chain(more_ends).collect(),
        // What transformers does with plain text is in the post-processor; older files only have the flag.
        add_bos: match json.post_processor {
            Value::Null => own.get("add_bos_token").and_then(Value::as_bool).unwrap_or(false),
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
