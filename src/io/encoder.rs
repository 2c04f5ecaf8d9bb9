//! Encoders of the `tokenizers` crate built from parts, each checked: the crate panics on some files.
//!
//! Known there and refused here: merges longer than any token, prefixes longer than a merge, decoders that strip
//! more than a token has, unknown added ids, pieces so long that dropping their trie overflows the stack, added
//! tokens that overlap by the white space they take in. Truncation, padding and post-processing are never wanted by us.

use std::collections::BTreeSet;

use fancy_regex::RegexBuilder;
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

/// Components of one part, those in sequences counted; the most in use are six.
const MAX_COMPONENTS: usize = 32;
/// What a pattern may have in bytes, and take when it is compiled. The longest in use have 400 and take some 100 kB.
const MAX_PATTERN_BYTES: usize = 8 << 10;
const MAX_PATTERN_SIZE: usize = 2 << 20;
/// How many times longer replacements may make a text, one after the other. Those in use make one byte into three.
const MAX_GROWTH: usize = 32;
/// What may be put before a text, and before each of its pieces.
const MAX_PREFIX_BYTES: usize = 64;

const NORMALIZERS: [&str; 8] = ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace"];
const PRE_TOKENIZERS: [&str; 6] = ["Sequence", "ByteLevel", "Split", "Digits", "Metaspace", "Punctuation"];
const DECODERS: [&str; 7] = ["Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];

impl Parts {
    /// Checks the parts and puts them together; `file` is named in errors.
    pub(super) fn build(self, file: &str) -> Result<Encoder> {
        let bad = |message: String| Error::BadFile { file: file.to_owned(), message };
        let failed = |error: tokenizers::Error| cannot_build(file, error);
        for (part, value, known) in [
            ("normalizer", &self.normalizer, &NORMALIZERS[..]),
            ("pre_tokenizer", &self.pre_tokenizer, &PRE_TOKENIZERS),
            ("decoder", &self.decoder, &DECODERS),
        ] {
            Components { file, part, known, count: 0, growth: 1 }.check(value)?;
        }
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

/// Refuses components that we have not seen to be safe and needed, and what they could cost.
struct Components<'a> {
    file: &'a str,
    part: &'a str,
    known: &'a [&'a str],
    /// Of those seen so far.
    count: usize,
    /// How many times longer they may make a text.
    growth: usize,
}

impl Components<'_> {
    fn check(&mut self, value: &Value) -> Result<()> {
        let Some(fields) = value.as_object() else { return Ok(()) };
        let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        let unsupported = |message: String| Error::Unsupported {
            file: self.file.to_owned(),
            field: format!("tokenizer {} '{kind}'", self.part),
            message,
        };
        if !self.known.contains(&kind) {
            return Err(unsupported(format!("known are {}", self.known.join(", "))));
        }
        self.count += 1;
        if self.count > MAX_COMPONENTS {
            return Err(unsupported(format!("there are more than {MAX_COMPONENTS} components")));
        }
        if kind == "Strip" && fields.get("stop").and_then(Value::as_u64) != Some(0) {
            return Err(unsupported("its 'stop' is not 0".to_owned()));
        }
        let length = |field: &str| fields.get(field).and_then(Value::as_str).map_or(0, str::len);
        if length("prepend").max(length("replacement")).max(length("str_rep")) > MAX_PREFIX_BYTES {
            return Err(unsupported(format!("it puts more than {MAX_PREFIX_BYTES} bytes before a text")));
        }
        let pattern = fields.get("pattern").and_then(Value::as_object).and_then(|pattern| pattern.iter().next());
        if let Some((pattern_kind, Value::String(pattern))) = pattern {
            if pattern.len() > MAX_PATTERN_BYTES {
                let message = format!("its pattern has {} bytes, at most {MAX_PATTERN_BYTES} are read", pattern.len());
                return Err(unsupported(message));
            }
            let is_regex = pattern_kind == "Regex";
            let compiled = || RegexBuilder::new(pattern).delegate_size_limit(MAX_PATTERN_SIZE).build();
            if is_regex && let Err(error) = compiled() {
                return Err(unsupported(format!("its pattern cannot be used: {error}")));
            }
            // What is put before a text at no letter of it belongs to none, with which tokenizers 0.23 panics.
            if kind == "Replace" && self.part == "normalizer" && may_match_nothing(pattern, is_regex) {
                return Err(unsupported("its pattern may match nothing, or looks around".to_owned()));
            }
            // An expression may match nothing, before each byte of a text.
            let (from, to) = (pattern.len(), length("content"));
            let growth = if is_regex || from == 0 { to + 1 } else { to.div_ceil(from).max(1) };
            self.growth = self.growth.saturating_mul(growth);
            if kind == "Replace" && self.growth > MAX_GROWTH {
                return Err(unsupported(format!("texts could become more than {MAX_GROWTH} times as long")));
            }
        }
        for list in ["normalizers", "pretokenizers", "decoders"] {
            for inner in fields.get(list).and_then(Value::as_array).into_iter().flatten() {
                self.check(inner)?;
            }
        }
        Ok(())
    }
}

/// Whether there may be a match without a letter. Of patterns that look around it is not known.
fn may_match_nothing(pattern: &str, is_regex: bool) -> bool {
    match regex_syntax::parse(pattern) {
        Ok(parsed) if is_regex => parsed.properties().minimum_len().is_none_or(|length| length == 0),
        _ => is_regex || pattern.is_empty(),
    }
}

fn component<T: serde::de::DeserializeOwned>(file: &str, part: &str, value: Value) -> Result<Option<T>> {
    serde_json::from_value(value)
        .map_err(|error| Error::BadFile { file: file.to_owned(), message: format!("its {part} is not valid: {error}") })
}
