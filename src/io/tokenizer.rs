//! Text to token ids and back, through the `tokenizers` crate.

use std::{collections::BTreeSet, ops::Range};

use serde_json::json;
use tokenizers::Tokenizer as Encoder;

use crate::{Error, Result};

/// Special tokens by which models end an answer, under the names they have in published vocabularies.
const ENDS_OF_TURN: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "</s>"];

/// A model's tokenizer.
pub struct Tokenizer {
    /// Where it was read from, for errors.
    file: String,
    encoder: Encoder,
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_turn: Vec<u32>,
    vocab_size: usize,
    /// Whether plain text (no chat template) begins with [`Self::bos`].
    pub add_bos: bool,
}

/// Special tokens as a model's files name them.
pub(super) struct SpecialTokens {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    /// Further ids that end an answer.
    pub(super) ends: Vec<u32>,
    pub(super) add_bos: bool,
}

impl Tokenizer {
    pub(super) fn new(file: &str, encoder: Encoder, special: SpecialTokens) -> Self {
        let vocab = encoder.get_vocab(true);
        // Gemma has a `</s>` that is HTML's.
        let is_special = |name: &&&str| encoder.get_added_vocabulary().is_special_token(name);
        let named = ENDS_OF_TURN.iter().filter(is_special).filter_map(|name| vocab.get(*name).copied());
        let ends: BTreeSet<u32> = special.eos.into_iter().chain(special.ends).chain(named).collect();
        Self {
            file: file.to_owned(),
            bos: special.bos,
            eos: special.eos,
            end_of_turn: ends.into_iter().collect(),
            vocab_size: vocab.values().max().map_or(0, |&id| id as usize + 1),
            add_bos: special.add_bos,
            encoder,
        }
    }

    fn failed(&self, error: tokenizers::Error) -> Error {
        Error::BadFile { file: self.file.clone(), message: format!("the tokenizer fails: {error}") }
    }

    /// The ids of `text`. No special tokens are added; those that `text` spells out are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.encoder.encode_fast(text, false).map_err(|error| self.failed(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Self::encode`], with the bytes of `text` that each token comes from.
    ///
    /// Tokens that share a character each have all of its bytes.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.encoder.encode(text, false).map_err(|error| self.failed(error))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    /// The text of `ids`; unknown ids are left out, incomplete characters become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.encoder.decode(ids, skip_special).map_err(|error| self.failed(error))
    }

    /// The id of one token by its name in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.encoder.token_to_id(token)
    }

    /// The name of one token in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.encoder.id_to_token(id)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens that end an answer, ascending: [`Self::eos`] and the likes of `<|im_end|>`.
    pub fn end_of_turn(&self) -> &[u32] {
        &self.end_of_turn
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The same as a tokenizer.json, which also says whether a text begins with [`Self::bos`].
    pub fn to_json(&self) -> Result<Vec<u8>> {
        // As text: a tree of values takes several times the bytes of a large vocabulary.
        const NONE: &str = r#""post_processor":null"#;
        let failed = |error: serde_json::Error| Error::BadFile { file: self.file.clone(), message: error.to_string() };
        let json = serde_json::to_string(&self.encoder).map_err(failed)?;
        let Some((bos, id)) = self.bos.filter(|_| self.add_bos).and_then(|id| Some((self.token(id)?, id))) else {
            return Ok(json.into_bytes());
        };
        let special = |type_id: u32| json!({ "SpecialToken": { "id": bos, "type_id": type_id } });
        let text = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
        let processor = json!({
            "type": "TemplateProcessing",
            "single": [special(0), text("A", 0)],
            "pair": [special(0), text("A", 0), special(1), text("B", 1)],
            "special_tokens": { &bos: { "id": bos, "ids": [id], "tokens": [bos] } },
        });
        // In a token the quotes would be escaped.
        Ok(json.replacen(NONE, &format!(r#""post_processor":{processor}"#), 1).into_bytes())
    }

    /// Begins decoding ids as they come.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, ids: Vec::new(), shown: String::new() }
    }
}

/// Decodes ids one by one into text that is complete UTF-8 so far.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Ids whose text depends on each other; starts anew when a text is complete.
    ids: Vec<u32>,
    /// What the first of `ids` gave already.
    shown: String,
}

impl DecodeStream<'_> {
    /// The text that `id` completes: empty while a character lacks bytes.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // A character has four bytes, so what is incomplete after that is no character.
        let pending = text.chars().rev().take_while(|&char| char == char::REPLACEMENT_CHARACTER).count();
        if (1..4).contains(&pending) {
            return Ok(String::new());
        }
        let fresh = self.unseen(&text);
        // Keep one id: some decoders drop a space before the first token they see.
        self.ids = vec![id];
        self.shown = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(fresh)
    }

    /// What is left when no more ids come.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(self.unseen(&text))
    }

    /// `text` without what was shown; all of it where stray bytes turned out to be part of a character after all.
    fn unseen(&self, text: &str) -> String {
        text.strip_prefix(&self.shown).unwrap_or(text).to_owned()
    }
}
