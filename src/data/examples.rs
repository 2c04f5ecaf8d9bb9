//! From a record to tokens, each marked as target or not.

use std::ops::Range;

use serde_json::Value;

use super::Record;
use crate::io::{ChatTemplate, Message, Tokenizer};
use crate::{Error, Result};

/// One example as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Per token: is it learned, that is, predicted from those before it. Never the first.
    pub supervised: Vec<bool>,
    /// 1-based line of the file.
    pub line: usize,
    /// Whether tokens beyond the maximum length were left out.
    pub truncated: bool,
}

impl Example {
    /// How many tokens are learned.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&supervised| supervised).count()
    }
}

/// Tokens and targets of one record, cut at `max_length` tokens.
///
/// - Messages: the model's own template. Targets are what its `{% generation %}` blocks write where it has them, else
///   the assistant's turns, each from where a prompt would end to the token that ends the turn.
/// - Prompt and completion as texts: one after the other and the end-of-text token; targets are those after the
///   prompt. As messages: like a conversation, with the targets in the completion.
/// - Text: the text and the end-of-text token, all targets.
///
/// `line` of the example is 0; who knows the line sets it.
pub fn tokenize(
    record: &Record,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    max_length: usize,
) -> Result<Example> {
    Ok(Written::new(record, tokenizer, template, max_length)?.example())
}

/// A record as the model reads it.
pub(super) struct Written {
    /// Special tokens included.
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    pub(super) truncated: bool,
}

pub(super) struct Token {
    pub(super) id: u32,
    /// Of the text. Tokens that share a character each have all of its bytes.
    pub(super) bytes: Range<usize>,
    pub(super) supervised: bool,
}

impl Written {
    pub(super) fn new(
        record: &Record,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        max_length: usize,
    ) -> Result<Self> {
        let (text, mut tokens) = match record {
            Record::Text(text) => plain(tokenizer, text, 0)?,
            Record::PromptCompletion { prompt, completion } => {
                plain(tokenizer, &format!("{prompt}{completion}"), prompt.len())?
            }
            Record::Messages { messages, given, tools } => {
                let template = template.ok_or_else(|| {
                    unusable("the model has no chat template for messages; use 'prompt' and 'completion', or 'text'")
                })?;
                Chat { template, tokenizer, messages, tools }.written(*given)?
            }
            Record::Preference { .. } => return Err(unusable("it is two examples, 'chosen' and 'rejected'")),
        };
        let truncated = tokens.len() > max_length;
        tokens.truncate(max_length);
        // There is nothing to predict the first token from.
        if let Some(first) = tokens.first_mut() {
            first.supervised = false;
        }
        Ok(Self { text, tokens, truncated })
    }

    pub(super) fn example(&self) -> Example {
        Example {
            ids: self.tokens.iter().map(|token| token.id).collect(),
            supervised: self.tokens.iter().map(|token| token.supervised).collect(),
            line: 0,
            truncated: self.truncated,
        }
    }

    /// Makes targets of all tokens from number `first` on.
    pub(super) fn learn_from(&mut self, first: usize) {
        self.tokens.iter_mut().skip(first.max(1)).for_each(|token| token.supervised = true);
    }

    /// The text as far as it has tokens, cut where learning begins and ends: each part, and whether it is learned.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&str, bool)> {
        let mut from = 0;
        self.tokens.chunk_by(|one, next| one.supervised == next.supervised).filter_map(move |run| {
            let last = run.last()?;
            let piece = self.text.get(from..last.bytes.end.max(from))?;
            from += piece.len();
            Some((piece, last.supervised))
        })
    }
}

/// `text` and the end-of-text token; targets begin at byte `given`.
fn plain(tokenizer: &Tokenizer, text: &str, given: usize) -> Result<(String, Vec<Token>)> {
    let mut written = String::new();
    let mut tokens = Vec::new();
    let special = |id: u32, supervised: bool, written: &mut String| {
        let from = written.len();
        written.push_str(&tokenizer.token(id).unwrap_or_default());
        Token { id, bytes: from..written.len(), supervised }
    };
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos) {
        tokens.push(special(bos, false, &mut written));
    }
    let from = written.len();
    written.push_str(text);
    tokens.extend(tokenizer.encode_with_offsets(text)?.into_iter().map(|(id, bytes)| Token {
        id,
        supervised: bytes.start >= given,
        bytes: from + bytes.start..from + bytes.end,
    }));
    let last = tokens.last().map(|token| token.id);
    if let Some(eos) = tokenizer.eos().filter(|&eos| last != Some(eos)) {
        tokens.push(special(eos, true, &mut written));
    }
    Ok((written, tokens))
}

/// A conversation with what writes it.
struct Chat<'a> {
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    messages: &'a [Message],
    tools: &'a [Value],
}

impl Chat<'_> {
    /// The whole conversation rendered once; targets are the assistant's turns from message `given` on.
    fn written(&self, given: usize) -> Result<(String, Vec<Token>)> {
        let text = self.template.render_with_tools(self.messages, self.tools, false)?;
        let tokens = self.tokenizer.encode_with_offsets(&text)?;
        let mut tokens: Vec<Token> =
            tokens.into_iter().map(|(id, bytes)| Token { id, bytes, supervised: false }).collect();
        if let Some(answers) = self.template.answers(self.messages, self.tools, &text)? {
            let learned_from = if given == 0 { 0 } else { self.prompt(given, &text)?.ok_or_else(|| differs(given))? };
            for answer in answers.into_iter().filter(|answer| answer.start >= learned_from) {
                let first = containing(&tokens, answer.start);
                learn(&mut tokens, first, answer.end);
            }
            return Ok((text, tokens));
        }
        for i in given..self.messages.len() {
            if self.messages[i].role == "assistant" {
                self.learn_turn(i, &text, &mut tokens)?;
            }
        }
        Ok((text, tokens))
    }

    /// Marks the tokens of message `i`, up to and with the token that ends the turn: what the template writes after
    /// that is not the model's to say.
    fn learn_turn(&self, i: usize, text: &str, tokens: &mut [Token]) -> Result<()> {
        let content = self.content(i, text)?;
        let calls = self.messages[i].more.contains_key("tool_calls");
        let (first, said) = match (self.prompt(i, text)?, content) {
            (Some(prompt), Some(content)) => (beginning(tokens, prompt), content.end.max(prompt)),
            // Some templates write a call in the place of what is said.
            (Some(prompt), None) if calls => (beginning(tokens, prompt), prompt),
            // Others write what is before an answer differently when the conversation goes on.
            (None, Some(content)) => (containing(tokens, content.start), content.end),
            _ => return Err(differs(i)),
        };
        let next = if i + 1 < self.messages.len() { self.content(i + 1, text)? } else { None };
        let limit = next.map_or(text.len(), |next| next.start);
        let ends = self.tokenizer.end_of_turn();
        let end = tokens.iter().find(|token| token.bytes.start >= said && ends.contains(&token.id));
        let end = match end.filter(|end| end.bytes.start < limit) {
            Some(end) => end.bytes.end,
            // A turn may end in words alone.
            None => {
                let with = self.template.render_with_tools(&self.messages[..=i], self.tools, false)?;
                if text.starts_with(&with) { with.len().max(said) } else { said }
            }
        };
        learn(tokens, first, end);
        Ok(())
    }

    /// Where in `text` the prompt for message `i` ends, if the conversation is written no differently up to there.
    fn prompt(&self, i: usize, text: &str) -> Result<Option<usize>> {
        let prompt = self.template.render_with_tools(&self.messages[..i], self.tools, true)?;
        Ok(text.starts_with(&prompt).then_some(prompt.len()))
    }

    /// Where in `text` the content of message `i` is, if it is there: between what stays the same when it changes.
    fn content(&self, i: usize, text: &str) -> Result<Option<Range<usize>>> {
        const OTHER: char = '\u{fdd2}';
        let mut messages = self.messages.to_vec();
        messages[i].content = format!("{OTHER}{}{OTHER}", messages[i].content);
        let changed = self.template.render_with_tools(&messages, self.tools, false)?;
        if changed == text {
            return Ok(None);
        }
        let same = |(one, other): &(char, char)| one == other;
        let before = text.chars().zip(changed.chars()).take_while(same).map(|(char, _)| char.len_utf8()).sum();
        let after = text.chars().rev().zip(changed.chars().rev()).take_while(same).map(|(char, _)| char.len_utf8());
        Ok(Some(before..(text.len() - after.sum::<usize>()).max(before)))
    }
}

/// The first token that begins at `at` or later.
fn beginning(tokens: &[Token], at: usize) -> usize {
    tokens.partition_point(|token| token.bytes.start < at)
}

/// The first token that ends after `at`.
fn containing(tokens: &[Token], at: usize) -> usize {
    tokens.partition_point(|token| token.bytes.end <= at)
}

/// Makes targets of the tokens from `first` to the last that begins before byte `end`.
fn learn(tokens: &mut [Token], first: usize, end: usize) {
    let end = beginning(tokens, end).max(first);
    tokens[first..end].iter_mut().for_each(|token| token.supervised = true);
}

fn differs(i: usize) -> Error {
    unusable(&format!(
        "message {}: the chat template writes a conversation differently when it goes on, so that the answer cannot be \
         told from the rest",
        i + 1
    ))
}

/// An error about one record; who knows its file and line adds them.
pub(super) fn unusable(message: &str) -> Error {
    Error::BadData { file: String::new(), line: None, message: message.to_owned() }
}
