//! Preference pairs: two answers to one prompt, of which the first is the better one. The formats are TRL's, with the
//! prompt written out or as what both have in common.

use serde_json::{Map, Value};

use super::examples::{Written, unusable};
use super::record::parse_messages;
use super::{Example, Record};
use crate::Result;
use crate::io::{ChatTemplate, Message, Tokenizer};

/// Why a line does not belong to its file: a pair among examples, an example among pairs.
pub(super) const MIXED: [&str; 2] = [
    "it is a preference pair, and the first example of the file is none: keep pairs in a file of their own",
    "it is no preference pair, and the first example of the file is one: keep pairs in a file of their own",
];

/// Two answers to one prompt as the model sees them, each with its prompt; what is learned of each is its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The better one.
    pub chosen: Example,
    /// The worse one.
    pub rejected: Example,
}

impl Pair {
    /// Tokens of both.
    pub fn tokens(&self) -> usize {
        self.chosen.ids.len() + self.rejected.ids.len()
    }

    /// Whether either was cut.
    pub fn truncated(&self) -> bool {
        self.chosen.truncated || self.rejected.truncated
    }
}

/// The record of a line that has `chosen` or `rejected`: both texts or both lists of messages, with a `prompt` of the
/// same kind or none (TRL's `extract_prompt`). A prompt that is a text goes with lists of messages as well: as the
/// user's message, or as a copy of what is in the lists where they begin alike.
pub(super) fn parse(mut fields: Map<String, Value>, tools: Vec<Value>) -> Result<Record, String> {
    let (chosen, rejected) = match (fields.remove("chosen"), fields.remove("rejected")) {
        (Some(chosen), Some(rejected)) => (chosen, rejected),
        (Some(_), None) => return Err("it has 'chosen' but no 'rejected'".to_owned()),
        (None, _) => return Err("it has 'rejected' but no 'chosen'".to_owned()),
    };
    let prompt = fields.remove("prompt").filter(|prompt| !prompt.is_null());
    let [chosen, rejected] = match (prompt, chosen, rejected) {
        (None, Value::String(chosen), Value::String(rejected)) => {
            let given = shared_text(&chosen, &rejected);
            [chosen, rejected].map(|text| Record::PromptCompletion {
                prompt: text[..given].to_owned(),
                completion: text[given..].to_owned(),
            })
        }
        (Some(Value::String(prompt)), Value::String(chosen), Value::String(rejected)) => {
            [chosen, rejected].map(|completion| Record::PromptCompletion { prompt: prompt.clone(), completion })
        }
        (
            prompt @ (None | Some(Value::Array(_) | Value::String(_))),
            chosen @ Value::Array(_),
            rejected @ Value::Array(_),
        ) => {
            let [chosen, rejected] = [parse_messages("chosen", chosen)?, parse_messages("rejected", rejected)?];
            let shared = shared_messages(&chosen, &rejected);
            let (prompt, given) = match prompt {
                Some(Value::String(text)) if shared == 0 => (vec![Message::new("user", &text)], 1),
                Some(prompt @ Value::Array(_)) => {
                    let prompt = parse_messages("prompt", prompt)?;
                    let given = prompt.len();
                    (prompt, given)
                }
                _ => (vec![], shared),
            };
            [chosen, rejected].map(|answer| {
                let messages = prompt.iter().cloned().chain(answer).collect();
                Record::Messages { messages, given, tools: tools.clone() }
            })
        }
        _ => {
            return Err(
                "'chosen' and 'rejected' (and 'prompt') are neither all texts nor all lists of messages".to_owned()
            );
        }
    };
    Ok(Record::Preference { chosen: Box::new(chosen), rejected: Box::new(rejected) })
}

/// Bytes that two texts begin with alike, such that each has something left, and a space before what differs too.
fn shared_text(one: &str, other: &str) -> usize {
    let limit = one.chars().count().min(other.chars().count()).saturating_sub(1);
    let same = one.chars().zip(other.chars()).take(limit).take_while(|(one, other)| one == other);
    let shared: usize = same.map(|(char, _)| char.len_utf8()).sum();
    if one[..shared].ends_with(' ') { shared - 1 } else { shared }
}

/// Messages that two conversations begin with alike, such that each has one left.
fn shared_messages(one: &[Message], other: &[Message]) -> usize {
    let limit = one.len().min(other.len()) - 1;
    one.iter().zip(other).take(limit).take_while(|(one, other)| one == other).count()
}

/// Both answers of a pair as the model reads them, each with the prompt and cut at `max_length` tokens from the end.
///
/// What is learned of each is what [`super::tokenize`] says. Where a text's prompt by itself would be cut into other tokens,
/// both are learned from there, as in TRL.
///
/// Errs when nothing is left of an answer, and when both are the same.
pub(super) fn write(
    chosen: &Record,
    rejected: &Record,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    max_length: usize,
) -> Result<[Written; 2]> {
    let write = |record: &Record| Written::new(record, tokenizer, template, max_length);
    let mut written = [write(chosen)?, write(rejected)?];
    if let Record::PromptCompletion { prompt, .. } = chosen {
        let bos = tokenizer.bos().filter(|_| tokenizer.add_bos);
        let prompt: Vec<u32> = bos.into_iter().chain(tokenizer.encode(prompt)?).collect();
        let shared = |i: usize| {
            let ids = written[i].example().ids;
            prompt.iter().zip(&ids).take_while(|(one, other)| one == other).count()
        };
        let first = shared(0).min(shared(1));
        written.iter_mut().for_each(|written| written.learn_from(first));
    }
    let examples = [0, 1].map(|i| written[i].example());
    for (example, name) in examples.iter().zip(["chosen", "rejected"]) {
        match (example.supervised_tokens(), example.truncated) {
            (0, true) => {
                return Err(unusable(&format!("nothing of the {name} answer is left within {max_length} tokens")));
            }
            (0, false) => return Err(unusable(&format!("there is nothing to learn in it: no {name} answer"))),
            _ => {}
        }
    }
    match examples {
        [chosen, rejected] if chosen.ids != rejected.ids => Ok(written),
        [chosen, _] if chosen.truncated => {
            Err(unusable(&format!("the chosen and the rejected answer are the same within {max_length} tokens")))
        }
        _ => Err(unusable("the chosen and the rejected answer are the same")),
    }
}
