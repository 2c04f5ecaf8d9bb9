//! Encoders of the `tokenizers` crate built from parts, each checked: the crate panics on some files.
//!
//! Known there and refused here: merges longer than any token, prefixes longer than a merge, decoders that strip
//! more than a token has, unknown added ids, pieces so long that dropping their trie overflows the stack, added
//! tokens that overlap by the white space they take in. Truncation, padding and post-processing are never wanted by us.

use std::collections::BTreeSet;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Encoder,
};

use crate::{Error, Result};

/// Longest piece of a scored vocabulary, in bytes; the longest in use have 93.
pub(super) const MAX_PIECE_BYTES: usize = 256;
/// All pieces of a Unigram vocabulary together: the crate's trie takes up to some 300 bytes for each byte. Vocabularies
/// of 250,000 have 2 MB.
const MAX_UNIGRAM_BYTES: usize = 4 << 20;

/// What an encoder is made of.
pub(super) struct Parts {
    pub(super) model: Model,
    pub(super) added: Vec<(u32, AddedToken)>,
    /// As in tokenizer.json; null for none.
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
}

/// How a stretch of text becomes tokens.
pub(super) enum Model {
    Bpe(Bpe),
    /// Pieces with their log-probabilities, in the order of their ids; the best sum wins.
    Unigram {
        pieces: Vec<(String, f64)>,
        unk_id: Option<usize>,
        byte_fallback: bool,
    },
}

/// Byte-pair encoding: neighbours are merged, those of the first merge first.
#[derive(Default)]
pub(super) struct Bpe {
    pub(super) vocab: Vocab,
    pub(super) merges: Vec<(String, String)>,
    pub(super) unk_token: Option<String>,
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

const NORMALIZERS: [&str; 8] = ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace"];
const PRE_TOKENIZERS: [&str; 6] = ["Sequence", "ByteLevel", "Split", "Digits", "Metaspace", "Punctuation"];
const DECODERS: [&str; 7] = ["Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];

impl Parts {
    /// Checks the parts and puts them together; `file` is named in errors.
    pub(super) fn build(self, file: &str) -> Result<Encoder> {
        let bad = |message: String| Error::BadFile { file: file.to_owned(), message };
        let failed = |error: tokenizers::Error| cannot_build(file, error);
        check_component(file, "normalizer", &self.normalizer, &NORMALIZERS)?;
        check_component(file, "pre_tokenizer", &self.pre_tokenizer, &PRE_TOKENIZERS)?;
        check_component(file, "decoder", &self.decoder, &DECODERS)?;
        let mut encoder = Encoder::new(self.model.build(file)?);
        let normalizer: Option<NormalizerWrapper> = component(file, "normalizer", self.normalizer)?;
        encoder.with_normalizer(normalizer).map_err(failed)?;
        encoder.with_pre_tokenizer(component::<PreTokenizerWrapper>(file, "pre_tokenizer", self.pre_tokenizer)?);
        encoder.with_decoder(component::<DecoderWrapper>(file, "decoder", self.decoder)?);

        let mut seen = BTreeSet::new();
        let mut added = self.added;
        added.retain(|(_, token)| !token.content.is_empty() && seen.insert(token.content.clone()));
        // Ids beyond the vocabulary are given in this order.
        added.sort_by_key(|(id, _)| *id);
        let takes_in = added.iter().find(|(_, token)| token.rstrip);
        let begins_white = added.iter().find(|(_, token)| token.content.starts_with(char::is_whitespace));
        if let (Some((_, token)), Some(_)) = (takes_in, begins_white) {
            return Err(bad(format!(
                "the added token '{}' takes in white space with which another begins",
                token.content
            )));
        }
        encoder.add_tokens(added.iter().map(|(_, token)| token.clone())).map_err(failed)?;
        for (id, token) in &added {
            if encoder.token_to_id(&token.content) != Some(*id) {
                return Err(bad(format!("the added token '{}' cannot have the id {id}", token.content)));
            }
        }
        Ok(encoder)
    }
}

impl Model {
    fn build(self, file: &str) -> Result<ModelWrapper> {
        match self {
            Model::Bpe(bpe) => bpe.build(file).map(ModelWrapper::BPE),
            Model::Unigram { pieces, unk_id, byte_fallback } => {
                if let Some((piece, _)) = pieces.iter().find(|(piece, _)| piece.len() > MAX_PIECE_BYTES) {
                    return Err(too_long(file, piece));
                }
                let n_bytes: usize = pieces.iter().map(|(piece, _)| piece.len()).sum();
                if n_bytes > MAX_UNIGRAM_BYTES {
                    let message = format!("its tokens have {n_bytes} bytes, at most {MAX_UNIGRAM_BYTES} are read");
                    return Err(Error::BadFile { file: file.to_owned(), message });
                }
                let model = Unigram::from(pieces, unk_id, byte_fallback).map_err(|error| cannot_build(file, error))?;
                Ok(ModelWrapper::Unigram(model))
            }
        }
    }
}

impl Bpe {
    fn build(self, file: &str) -> Result<BPE> {
        let bad = |message: String| Error::BadFile { file: file.to_owned(), message };
        let mut merged = String::new();
        for (i, (left, right)) in self.merges.iter().enumerate() {
            merged.clear();
            merged.extend([left.as_str(), right]);
            if !self.vocab.contains_key(&merged) {
                return Err(bad(format!("merge {i} ('{left}' and '{right}') makes no token of the vocabulary")));
            }
        }
        if let Some(unk) = self.unk_token.as_ref().filter(|unk| !self.vocab.contains_key(*unk)) {
            return Err(bad(format!("the unknown token '{unk}' is not in the vocabulary")));
        }
        let mut model = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .fuse_unk(self.fuse_unk)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unk) = self.unk_token {
            model = model.unk_token(unk);
        }
        model.build().map_err(|error| cannot_build(file, error))
    }
}

fn cannot_build(file: &str, error: tokenizers::Error) -> Error {
    Error::BadFile { file: file.to_owned(), message: format!("the tokenizer cannot be built: {error}") }
}

/// Refuses a piece of a scored vocabulary that has more than [`MAX_PIECE_BYTES`].
pub(super) fn too_long(file: &str, piece: &str) -> Error {
    let begin: String = piece.chars().take(20).collect();
    let message = format!("the token '{begin}…' has {} bytes, at most {MAX_PIECE_BYTES} are read", piece.len());
    Error::BadFile { file: file.to_owned(), message }
}

/// Refuses components that we have not seen to be safe and needed.
fn check_component(file: &str, part: &str, value: &Value, known: &[&str]) -> Result<()> {
    let Some(fields) = value.as_object() else { return Ok(()) };
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    let unsupported = |message: String| Error::Unsupported {
        file: file.to_owned(),
        field: format!("tokenizer {part} '{kind}'"),
        message,
    };
    if !known.contains(&kind) {
        return Err(unsupported(format!("known are {}", known.join(", "))));
    }
    if kind == "Strip" && fields.get("stop").and_then(Value::as_u64) != Some(0) {
        return Err(unsupported("its 'stop' is not 0".to_owned()));
    }
    for list in ["normalizers", "pretokenizers", "decoders"] {
        for inner in fields.get(list).and_then(Value::as_array).into_iter().flatten() {
            check_component(file, part, inner, known)?;
        }
    }
    Ok(())
}

fn component<T: serde::de::DeserializeOwned>(file: &str, part: &str, value: Value) -> Result<Option<T>> {
    serde_json::from_value(value)
        .map_err(|error| Error::BadFile { file: file.to_owned(), message: format!("its {part} is not valid: {error}") })
}
