//! The tokenizer in a GGUF file's metadata: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`).
//!
//! What llama.cpp names and how it cuts is in its `llama-vocab.cpp`; where it and the model's own `tokenizer.json`
//! differ (Unicode normalisation of Qwen, runs of spaces of Gemma), the latter is followed, as the model was trained
//! with it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::ByteSource;
use super::encoder::{Bpe, MAX_PIECE_BYTES, Model, Parts, too_long};
use super::gguf::{Gguf, read_header};
use super::tokenizer::{SpecialTokens, Tokenizer};
use super::tokenizer_files::bad_file;
use crate::{Error, Result};

/// How a byte-level text is cut before merging.
struct Cut {
    /// llama.cpp's names for it, the values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// One pattern after the other.
    patterns: &'static [&'static str],
    /// Whether composed characters are made first (NFC).
    composes: bool,
    /// Whether a stretch that is a token stays whole.
    ignores_merges: bool,
    /// Whether plain text begins with the begin-of-text token, where the file does not say.
    adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const PLAIN: Cut = Cut { names: &[], patterns: &[], composes: false, ignores_merges: false, adds_bos: false };
const CUTS: [Cut; 7] = [
    Cut { names: &["default"], patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
    Cut { names: &["gpt-2"], patterns: &[GPT2], ..PLAIN },
    Cut { names: &["smollm", "starcoder"], patterns: &[r"\p{N}", GPT2], ..PLAIN },
    Cut {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[LLAMA3],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Cut { names: &["smaug-bpe"], patterns: &[LLAMA3], ..PLAIN },
    Cut { names: &["qwen2", "deepseek-r1-qwen"], patterns: &[QWEN2], composes: true, ..PLAIN },
    Cut { names: &["tekken"], patterns: &[TEKKEN], ignores_merges: true, adds_bos: true, ..PLAIN },
];

/// ggml's token types, `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Merges that scores may imply; Gemma's 262,144 tokens have 514,906.
const MAX_MERGES: usize = 1 << 20;

/// SentencePiece's space, a token's way to say that a word begins.
const SPACE: &str = "▁";

impl Tokenizer {
    /// The tokenizer of a GGUF file, whatever else is in the file.
    pub async fn from_gguf(source: &Rc<dyn ByteSource>) -> Result<Self> {
        read(source.name(), &read_header(source).await?)
    }
}

/// The tokenizer that `gguf`, the header of `file`, describes.
pub(super) fn read(file: &str, gguf: &Gguf) -> Result<Tokenizer> {
    let header = Header { file, gguf };
    let model = gguf.text("tokenizer.ggml.model")?.ok_or_else(|| header.missing("tokenizer.ggml.model"))?;
    let vocabulary = header.vocabulary()?;
    let (parts, defaults) = match model {
        "gpt2" => header.byte_level(&vocabulary)?,
        "llama" | "gemma4" => header.sentencepiece(&vocabulary)?,
        _ => {
            let known = "byte-level BPE ('gpt2') and SentencePiece's BPE ('llama', 'gemma4') are read; \
                         a folder with the model's tokenizer.json may do";
            return Err(header.unsupported("tokenizer.ggml.model", model, known));
        }
    };
    let special = SpecialTokens {
        bos: header.token_id("tokenizer.ggml.bos_token_id")?.or(defaults.bos),
        eos: header.token_id("tokenizer.ggml.eos_token_id")?.or(defaults.eos),
        ends: [header.token_id("tokenizer.ggml.eot_token_id")?, header.token_id("tokenizer.ggml.eom_token_id")?]
            .into_iter()
            .flatten()
            .collect(),
        add_bos: gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(defaults.add_bos),
    };
    Ok(Tokenizer::new(file, parts.build(file)?, special))
}

/// A file's tokens in the order of their ids, each with its type; no types for none.
struct Vocabulary<'a> {
    tokens: Vec<Cow<'a, str>>,
    types: &'a [i32],
}

impl Vocabulary<'_> {
    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or_default()
    }

    /// Tokens matched whole before anything is cut.
    fn added(&self, bpe: &Bpe) -> Vec<(u32, AddedToken)> {
        let added = (0..).zip(&self.tokens).zip(self.types).filter_map(|((id, token), &kind)| {
            let is_special = kind == CONTROL || kind == UNKNOWN;
            let is_added = (is_special || kind == USER_DEFINED) && bpe.vocab.get(token.as_ref()) == Some(&id);
            is_added.then(|| (id, AddedToken::from(token.as_ref(), is_special).normalized(false)))
        });
        added.collect()
    }

    /// The model's share of it. Where a token is there twice, the last one counts.
    fn bpe(&self) -> Bpe {
        Bpe { vocab: (0..).zip(&self.tokens).map(|(id, token)| (token.to_string(), id)).collect(), ..Bpe::default() }
    }
}

/// What a kind of tokenizer implies where the file does not say.
#[derive(Default)]
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
}

struct Header<'a> {
    file: &'a str,
    gguf: &'a Gguf,
}

impl<'a> Header<'a> {
    fn missing(&self, key: &str) -> Error {
        bad_file(self.file, format!("metadata '{key}' is missing: the file has no tokenizer"))
    }

    fn unsupported(&self, key: &str, value: &str, known: &str) -> Error {
        let (file, field) = (self.file.to_owned(), key.to_owned());
        Error::Unsupported { file, field, message: format!("it is '{value}'; {known}") }
    }

    fn vocabulary(&self) -> Result<Vocabulary<'a>> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let tokens = self.gguf.texts(TOKENS)?.ok_or_else(|| self.missing(TOKENS))?;
        let types = self.gguf.ints("tokenizer.ggml.token_type")?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            let message = format!("it has {} tokens and {} token types", tokens.len(), types.len());
            return Err(bad_file(self.file, message));
        }
        Ok(Vocabulary { tokens: tokens.iter().map(|token| Cow::Borrowed(token.as_str())).collect(), types })
    }

    /// A token's id, if the key is there; checked to be one.
    fn token_id(&self, key: &str) -> Result<Option<u32>> {
        let n_tokens = self.gguf.texts("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len);
        match self.gguf.count(key)? {
            Some(id) if id as usize >= n_tokens => {
                Err(bad_file(self.file, format!("metadata '{key}' is {id} where there are {n_tokens} tokens")))
            }
            id => Ok(id),
        }
    }

    /// The file's own merges, if it has any.
    fn merges(&self) -> Result<Option<Vec<(String, String)>>> {
        let Some(merges) = self.gguf.texts("tokenizer.ggml.merges")? else { return Ok(None) };
        let merges = merges.iter().enumerate().map(|(i, merge)| {
            // Tokens may begin with a space when they were not byte-encoded, so the first one does not part them.
            let at = merge.char_indices().skip(1).find(|(_, char)| *char == ' ');
            match at {
                Some((at, _)) => Ok((merge[..at].to_owned(), merge[at + 1..].to_owned())),
                None => Err(bad_file(self.file, format!("merge {i} ('{merge}') is not two tokens"))),
            }
        });
        merges.collect::<Result<_>>().map(Some)
    }

    /// GPT-2's kind: text is cut by patterns, its bytes are letters, and the file lists the merges.
    fn byte_level(&self, vocabulary: &Vocabulary<'_>) -> Result<(Parts, Defaults)> {
        let pre = self.gguf.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let Some(cut) = CUTS.iter().find(|cut| cut.names.contains(&pre)) else {
            let known: Vec<&str> = CUTS.iter().flat_map(|cut| cut.names).copied().collect();
            return Err(self.unsupported("tokenizer.ggml.pre", pre, &format!("known are {}", known.join(", "))));
        };
        let merges = self.merges()?.ok_or_else(|| self.missing("tokenizer.ggml.merges"))?;
        let mut cuts: Vec<Value> = cut
            .patterns
            .iter()
            .map(|regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}))
            .collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        cuts.push(byte_level.clone());
        let bpe = Bpe { merges, ignore_merges: cut.ignores_merges, ..vocabulary.bpe() };
        let parts = Parts {
            added: vocabulary.added(&bpe),
            model: Model::Bpe(bpe),
            normalizer: if cut.composes { json!({"type": "NFC"}) } else { Value::Null },
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": cuts}),
            decoder: byte_level,
        };
        Ok((parts, Defaults { add_bos: cut.adds_bos, ..Defaults::default() }))
    }

    /// SentencePiece's BPE: the whole text is merged, and what is in no token is spelled in bytes.
    fn sentencepiece(&self, stored: &Vocabulary<'_>) -> Result<(Parts, Defaults)> {
        // Tokens of spaces alone are stored as spaces (Gemma has 30), the others with SentencePiece's.
        let is_blank = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte == b' ');
        let tokens = stored.tokens.iter().map(|token| match is_blank(token) {
            true => SPACE.repeat(token.len()).into(),
            false => token.clone(),
        });
        let vocabulary = Vocabulary { tokens: tokens.collect(), types: stored.types };
        let mut bpe = vocabulary.bpe();
        bpe.merges = match self.merges()? {
            Some(merges) => merges,
            None => self.merges_by_score(&vocabulary, &bpe)?,
        };
        let unk = self.token_id("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
        bpe.unk_token = vocabulary.tokens.get(unk as usize).map(|token| token.to_string());
        (bpe.fuse_unk, bpe.byte_fallback) = (true, true);

        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let (mut before, mut after) = (vec![replace(" ", SPACE)], vec![replace(SPACE, " ")]);
        after.extend([json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
        if self.gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
            before.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            after.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let mut added = vocabulary.added(&bpe);
        // Phi-3's tokens take in the white space after them, which nothing in the file says but llama.cpp knows.
        if self.gguf.text("general.architecture")? == Some("phi3") {
            for (_, token) in &mut added {
                token.rstrip = !["<unk>", "<s>", "<|endoftext|>"].contains(&token.content.as_str());
            }
        }
        let parts = Parts {
            model: Model::Bpe(bpe),
            added,
            normalizer: json!({"type": "Sequence", "normalizers": before}),
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": after}),
        };
        let id = |id: u32| Some(id).filter(|&id| (id as usize) < vocabulary.tokens.len());
        Ok((parts, Defaults { bos: id(1), eos: id(2), add_bos: true }))
    }

    /// The merges that a scored vocabulary implies, as transformers' `generate_merges` finds them: every way to make a
    /// token of two others, the best token first. Tokens defined by the user have no score of their own and come
    /// before all others.
    fn merges_by_score(&self, vocabulary: &Vocabulary<'_>, bpe: &Bpe) -> Result<Vec<(String, String)>> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = self.gguf.floats(SCORES)?.ok_or_else(|| self.missing(SCORES))?;
        let n_tokens = vocabulary.tokens.len();
        if scores.len() != n_tokens {
            return Err(bad_file(self.file, format!("it has {n_tokens} tokens and {} scores", scores.len())));
        }
        /// Where a token is cut in two, and the characters before and after; no token has more than [`MAX_PIECE_BYTES`].
        struct Split {
            id: u32,
            at: u16,
            chars: (u16, u16),
        }
        let mut splits = Vec::new();
        for (id, token) in vocabulary.tokens.iter().enumerate() {
            if matches!(vocabulary.kind(id), UNKNOWN | CONTROL | BYTE) {
                continue;
            }
            if token.len() > MAX_PIECE_BYTES {
                return Err(too_long(self.file, token));
            }
            let n_chars = token.chars().count();
            splits.extend(token.char_indices().enumerate().skip(1).filter_map(|(before, (at, _))| {
                let (left, right) = token.split_at(at);
                (bpe.vocab.contains_key(left) && bpe.vocab.contains_key(right)).then_some(Split {
                    id: id as u32,
                    at: at as u16,
                    chars: (before as u16, (n_chars - before) as u16),
                })
            }));
            if splits.len() > MAX_MERGES {
                let message = format!("its tokens can be put together in more than {MAX_MERGES} ways");
                return Err(bad_file(self.file, message));
            }
        }
        splits.sort_by(|a, b| {
            let is_own = |split: &Split| vocabulary.kind(split.id as usize) == USER_DEFINED;
            let by_score = || match is_own(a) && is_own(b) {
                true => Ordering::Equal,
                false => scores[b.id as usize].total_cmp(&scores[a.id as usize]),
            };
            is_own(b).cmp(&is_own(a)).then_with(by_score).then_with(|| b.chars.cmp(&a.chars))
        });
        let pair = |split: Split| {
            let (left, right) = vocabulary.tokens[split.id as usize].split_at(split.at.into());
            (left.to_owned(), right.to_owned())
        };
        Ok(splits.into_iter().map(pair).collect())
    }
}
