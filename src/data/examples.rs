//! From a record to tokens, each marked as target or not.

use std::ops::Range;

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
/// - Messages: the model's own template; targets are the assistant's turns with the token that ends each.
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
    let (mut ids, mut supervised) = match record {
        Record::Text(text) => plain(tokenizer, text, 0)?,
        Record::PromptCompletion { prompt, completion } => {
            plain(tokenizer, &format!("{prompt}{completion}"), prompt.len())?
        }
        Record::Messages { messages, given } => conversation(tokenizer, template, messages, *given)?,
    };
    let truncated = ids.len() > max_length;
    ids.truncate(max_length);
    supervised.truncate(max_length);
    // There is nothing to predict the first token from.
    if let Some(first) = supervised.first_mut() {
        *first = false;
    }
    Ok(Example { ids, supervised, line: 0, truncated })
}

/// `text` and the end-of-text token; targets begin at byte `given`.
fn plain(tokenizer: &Tokenizer, text: &str, given: usize) -> Result<(Vec<u32>, Vec<bool>)> {
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos);
    let mut ids = Vec::from_iter(bos);
    let mut supervised = vec![false; ids.len()];
    for (id, bytes) in tokenizer.encode_with_offsets(text)? {
        ids.push(id);
        supervised.push(bytes.start >= given);
    }
    if let Some(eos) = tokenizer.eos().filter(|eos| ids.last() != Some(eos)) {
        ids.push(eos);
        supervised.push(true);
    }
    Ok((ids, supervised))
}

/// The whole conversation rendered once; targets are the assistant's turns from message `given` on.
fn conversation(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    messages: &[Message],
    given: usize,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let template = template.ok_or_else(|| {
        unusable("the model has no chat template for messages; use 'prompt' and 'completion', or 'text'")
    })?;
    let text = template.render(messages, false)?;
    let tokens = tokenizer.encode_with_offsets(&text)?;
    let mut supervised = vec![false; tokens.len()];
    for (i, message) in messages.iter().enumerate().skip(given) {
        if message.role != "assistant" {
            continue;
        }
        let turn = turn(template, messages, i, &text)?;
        let first = tokens.partition_point(|(_, bytes)| bytes.start < turn.start);
        let end = tokens.partition_point(|(_, bytes)| bytes.start < turn.end).max(first);
        // What the template writes after the end of the turn is not the model's to say.
        let last = tokens[first..end].iter().rposition(|(id, _)| tokenizer.end_of_turn().contains(id));
        let end = last.map_or(end, |last| first + last + 1);
        supervised[first..end].fill(true);
    }
    Ok((tokens.into_iter().map(|(id, _)| id).collect(), supervised))
}

/// Where in `text` the template puts message `i`: between the conversation before it, ready for an answer, and the
/// conversation with it.
fn turn(template: &ChatTemplate, messages: &[Message], i: usize, text: &str) -> Result<Range<usize>> {
    let before = template.render(&messages[..i], true)?;
    let with = template.render(&messages[..=i], false)?;
    if with.starts_with(&before) && text.starts_with(&with) {
        Ok(before.len()..with.len())
    } else {
        Err(unusable(&format!(
            "message {}: the chat template writes a conversation differently when it goes on, so that the answer \
             cannot be told from the rest",
            i + 1
        )))
    }
}

/// An error about one record; who knows its file and line adds them.
fn unusable(message: &str) -> Error {
    Error::BadData { file: String::new(), line: None, message: message.to_owned() }
}
