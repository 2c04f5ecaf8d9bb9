//! The lines of a JSONL file as records, with an error for each line that is none.

use serde::Serialize;
use serde_json::{Map, Value};

use super::pair;
use crate::io::Message;
use crate::{Error, Result};

/// A line beyond this is a mistake, and tokenizing it would take minutes.
pub(super) const MAX_LINE_BYTES: usize = 16 << 20;
/// Conversations are rendered once per turn; this keeps that within bounds.
const MAX_MESSAGES: usize = 400;
/// Errors kept; the last one says that there are more.
const MAX_ERRORS: usize = 1000;

/// One example as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A conversation; the assistant's turns are learned.
    Messages {
        /// All turns.
        messages: Vec<Message>,
        /// How many of the first are a prompt, of which nothing is learned.
        given: usize,
        /// JSON descriptions of the functions that the model may call.
        tools: Vec<Value>,
    },
    /// A text in two parts; the second is learned.
    PromptCompletion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// All of the text is learned.
    Text(String),
    /// Two answers to one prompt, each a [`Record::Messages`] or a [`Record::PromptCompletion`] with that prompt.
    Preference {
        /// The better one.
        chosen: Box<Record>,
        /// The worse one.
        rejected: Box<Record>,
    },
}

/// Records, each with its 1-based line.
pub type Records = Vec<(usize, Record)>;

/// A line that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LineError {
    /// The file's name.
    pub file: String,
    /// 1-based.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Adds an error unless there are many already.
pub(super) fn add_error(errors: &mut Vec<LineError>, line: usize, message: String) {
    let listed = errors.len();
    let mut add = |message| errors.push(LineError { file: String::new(), line, message });
    match listed {
        0..MAX_ERRORS => add(message),
        MAX_ERRORS => add("further errors are not listed".to_owned()),
        _ => {}
    }
}

/// Reads the records of a JSONL file, each with its 1-based line, and the lines that are none.
///
/// Errs only when there is nothing usable at all.
pub fn parse_jsonl(file: &str, bytes: &[u8]) -> Result<(Records, Vec<LineError>)> {
    let bad = |line, message: &str| Error::BadData { file: file.to_owned(), line, message: message.to_owned() };
    let zeros = bytes.iter().take(64).filter(|&&byte| byte == 0).count();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || zeros > 0 {
        return Err(bad(None, "it is UTF-16 or no text at all; save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.trim_ascii().starts_with(b"[") && bytes.trim_ascii().ends_with(b"]") {
        return Err(bad(None, "it is one JSON list; write each example as an object on a line of its own"));
    }
    let mut records = Vec::new();
    let mut errors = Vec::new();
    for (line, text) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match parse_line(text).and_then(parse_fields) {
            Ok(record) => records.push((line, record)),
            Err(message) => add_error(&mut errors, line, message),
        }
    }
    match (records.is_empty(), errors.first()) {
        (true, None) => Err(bad(None, "it is empty")),
        (true, Some(first)) => Err(bad(Some(first.line), &first.message)),
        _ => Ok((records, errors)),
    }
}

/// One JSON object.
pub(super) fn parse_line(text: &[u8]) -> Result<Map<String, Value>, String> {
    if text.len() > MAX_LINE_BYTES {
        return Err(format!("the line has {} bytes, at most {MAX_LINE_BYTES} are read", text.len()));
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| format!("byte {} of the line is not UTF-8", error.valid_up_to() + 1))?;
    let value: Value = serde_json::from_str(text).map_err(|error| {
        // serde_json counts lines of its own input, which is one line.
        let words = error.to_string();
        let what = words.split(" at line ").next().unwrap_or_default();
        format!("it is not JSON: {what} at column {}", error.column())
    })?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err("it is not a JSON object".to_owned()),
    }
}

/// The record that named values are.
pub(super) fn parse_fields(mut fields: Map<String, Value>) -> Result<Record, String> {
    let tools = match fields.remove("tools") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err("'tools' is not a list".to_owned()),
    };
    if fields.contains_key("chosen") || fields.contains_key("rejected") {
        return pair::parse(fields, tools);
    }
    if let Some(messages) = fields.remove("messages") {
        return Ok(Record::Messages { messages: parse_messages("messages", messages)?, given: 0, tools });
    }
    match (fields.remove("prompt"), fields.remove("completion")) {
        (Some(Value::String(prompt)), Some(Value::String(completion))) => {
            Ok(Record::PromptCompletion { prompt, completion })
        }
        // TRL's conversational form.
        (Some(prompt @ Value::Array(_)), Some(completion @ Value::Array(_))) => {
            let mut messages = parse_messages("prompt", prompt)?;
            let given = messages.len();
            messages.extend(parse_messages("completion", completion)?);
            Ok(Record::Messages { messages, given, tools })
        }
        (Some(_), Some(_)) => {
            Err("'prompt' and 'completion' are neither both texts nor both lists of messages".to_owned())
        }
        (Some(_), None) => Err("it has 'prompt' but no 'completion'".to_owned()),
        (None, Some(_)) => Err("it has 'completion' but no 'prompt'".to_owned()),
        (None, None) => match fields.remove("text") {
            Some(Value::String(text)) => Ok(Record::Text(text)),
            Some(_) => Err("'text' is not a text".to_owned()),
            None => Err(unknown_fields(&fields)),
        },
    }
}

fn unknown_fields(fields: &Map<String, Value>) -> String {
    let names: Vec<String> = fields.keys().take(8).map(|name| format!("'{}'", shortened(name))).collect();
    let found = if names.is_empty() { "no fields".to_owned() } else { names.join(", ") };
    format!("it has {found}; needed is 'messages', or 'prompt' and 'completion', or 'text', or 'chosen' and 'rejected'")
}

/// Enough of a text from the file to recognise it in an error.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().nth(40).is_none() { text.to_owned() } else { text.chars().take(40).chain(['…']).collect() }
}

pub(super) fn parse_messages(field: &str, value: Value) -> Result<Vec<Message>, String> {
    let Value::Array(values) = value else {
        return Err(format!("'{field}' is not a list of messages"));
    };
    if values.is_empty() {
        return Err(format!("'{field}' is empty"));
    }
    if values.len() > MAX_MESSAGES {
        return Err(format!("'{field}' has {} messages, at most {MAX_MESSAGES} are read", values.len()));
    }
    let message = |(i, value): (usize, Value)| {
        let Value::Object(mut fields) = value else {
            return Err(format!("'{field}', message {}: it is not an object", i + 1));
        };
        let text = |fields: &mut Map<String, Value>, name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("'{field}', message {}: '{name}' is not a text", i + 1)),
            None => Err(format!("'{field}', message {}: '{name}' is missing", i + 1)),
        };
        let role = text(&mut fields, "role")?;
        // Who calls a function need not say anything.
        let content = match fields.get("content") {
            None | Some(Value::Null) if fields.contains_key("tool_calls") => String::new(),
            _ => text(&mut fields, "content")?,
        };
        fields.remove("content");
        Ok(Message { role, content, more: fields })
    };
    values.into_iter().enumerate().map(message).collect()
}
