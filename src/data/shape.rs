//! Which columns are what: the shapes that files of examples commonly have, and a mapping for all others. Either way a row
//! becomes the fields that records are made of.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::shortened;
use super::rows::Row;

/// What a file's columns say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `messages`: turns with `role` and `content`.
    Messages,
    /// `conversations`: turns with `from` and `value`.
    Sharegpt,
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `question` and `answer`, or names like these.
    QuestionAnswer,
    /// `text`.
    Text,
    /// `chosen` and `rejected`.
    Preference,
    /// As a mapping says.
    Mapped,
}

/// Names that a question and its answer go by.
const QUESTIONS: [(&str, &str); 8] = [
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("instruction", "response"),
    ("input", "output"),
];

/// Alpaca's prompt, for models without a chat template.
const ALPACA: [&str; 2] = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response \
     that appropriately completes the request.",
];

impl Shape {
    /// By the names of a row's columns.
    pub fn detect(row: &serde_json::Map<String, Value>) -> Option<Self> {
        let has = |name: &str| row.contains_key(name);
        match () {
            () if has("chosen") && has("rejected") => Some(Self::Preference),
            () if has("messages") => Some(Self::Messages),
            () if has("conversations") => Some(Self::Sharegpt),
            () if has("instruction") && has("output") => Some(Self::Alpaca),
            () if has("prompt") && has("completion") => Some(Self::PromptCompletion),
            () if question(row).is_some() => Some(Self::QuestionAnswer),
            () if has("text") => Some(Self::Text),
            () => None,
        }
    }

    /// The row in the names of records. `chat`: whether the model has a chat template.
    pub(super) fn apply(self, mut row: Row, chat: bool) -> Result<Row, String> {
        for name in ["messages", "conversations", "tools"] {
            parse_list(&mut row, name)?;
        }
        match self {
            Self::Sharegpt => {
                let turns = row.remove("conversations").unwrap_or_default();
                let mut messages = sharegpt(turns)?;
                lead_with_system(&mut messages, text(&row, "system")?);
                row.insert("messages".to_owned(), messages.into());
                Ok(row)
            }
            Self::Alpaca => {
                let [instruction, input, output, system] =
                    ["instruction", "input", "output", "system"].map(|name| text(&row, name));
                let (instruction, input, output, system) = (instruction?, input?, output?, system?);
                if chat {
                    let prompt = if input.is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
                    return Ok(turns(&system, &prompt, &output));
                }
                let (before, input) = match input.is_empty() {
                    true => (ALPACA[0], String::new()),
                    false => (ALPACA[1], format!("### Input:\n{input}\n\n")),
                };
                let prompt = format!("{before}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n");
                Ok(pair(&prompt, &output))
            }
            Self::QuestionAnswer => {
                let (question, answer) = question(&row).unwrap_or(QUESTIONS[0]);
                let (prompt, completion) = (text(&row, question)?, text(&row, answer)?);
                Ok(if chat { turns("", &prompt, &completion) } else { pair(&format!("{prompt}\n"), &completion) })
            }
            _ => Ok(row),
        }
    }
}

/// What the columns of a file are: each a column's name, or a template, `Q: {question}`. `{{` and `}}` are brackets.
///
/// `prompt` and `completion` are a question and its answer where `chat` says so (default: where the model has a chat
/// template), else one text of which the second part is learned. `system` goes before `prompt`, `messages`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DataMapping {
    /// What is given.
    pub prompt: Option<String>,
    /// What is learned.
    pub completion: Option<String>,
    /// All is learned.
    pub text: Option<String>,
    /// A list of turns, with `role` and `content` or `from` and `value`.
    pub messages: Option<String>,
    /// What a conversation begins with.
    pub system: Option<String>,
    /// The better answer.
    pub chosen: Option<String>,
    /// The worse answer.
    pub rejected: Option<String>,
    /// Whether prompt and completion are turns of a conversation.
    pub chat: Option<bool>,
}

impl DataMapping {
    /// The row in the names of records. `chat`: whether the model has a chat template.
    pub(super) fn apply(&self, row: &Row, chat: bool) -> Result<Row, String> {
        let get = |from: &Option<String>| from.as_ref().map(|from| value(row, from)).transpose();
        let written = |from: &Option<String>| Ok::<_, String>(get(from)?.map(|value| as_text(&value)));
        let system = written(&self.system)?.unwrap_or_default();
        if self.messages.is_some() {
            let mut fields = Row::from_iter([("messages".to_owned(), get(&self.messages)?.unwrap_or_default())]);
            parse_list(&mut fields, "messages")?;
            let mut messages = sharegpt(fields.remove("messages").unwrap_or_default())?;
            lead_with_system(&mut messages, system);
            fields.insert("messages".to_owned(), messages.into());
            return Ok(fields);
        }
        if self.chosen.is_some() || self.rejected.is_some() {
            let all = [("prompt", &self.prompt), ("chosen", &self.chosen), ("rejected", &self.rejected)];
            let mut fields = Row::new();
            for (name, from) in all {
                if let Some(value) = get(from)? {
                    fields.insert(name.to_owned(), if value.is_array() { value } else { as_text(&value).into() });
                }
            }
            return Ok(fields);
        }
        match (written(&self.prompt)?, written(&self.completion)?, written(&self.text)?) {
            (Some(prompt), Some(completion), _) if self.chat.unwrap_or(chat) => {
                Ok(turns(&system, &prompt, &completion))
            }
            (Some(prompt), Some(completion), _) => Ok(pair(&format!("{system}{prompt}"), &completion)),
            (None, None, Some(text)) => Ok(Row::from_iter([("text".to_owned(), text.into())])),
            _ => Err("the mapping names neither prompt and completion, nor text, messages, or chosen and rejected"
                .to_owned()),
        }
    }
}

fn question(row: &Row) -> Option<(&'static str, &'static str)> {
    QUESTIONS.into_iter().find(|(question, answer)| row.contains_key(*question) && row.contains_key(*answer))
}

fn turns(system: &str, prompt: &str, answer: &str) -> Row {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let mut messages = vec![message("user", prompt), message("assistant", answer)];
    lead_with_system(&mut messages, system.to_owned());
    Row::from_iter([("messages".to_owned(), messages.into())])
}

fn pair(prompt: &str, completion: &str) -> Row {
    Row::from_iter([("prompt".to_owned(), prompt.into()), ("completion".to_owned(), completion.into())])
}

/// Puts the system's message first, unless there is none or the conversation has its own.
fn lead_with_system(messages: &mut Vec<Value>, system: String) {
    if !system.is_empty() && messages.first().is_none_or(|first| first["role"] != "system") {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
}

/// Turns in ShareGPT's names as messages; what has a role already stays.
fn sharegpt(turns: Value) -> Result<Vec<Value>, String> {
    let Value::Array(turns) = turns else { return Err("the conversation is not a list of turns".to_owned()) };
    let message = |(i, turn): (usize, Value)| {
        if turn.get("role").is_some() {
            return Ok(turn);
        }
        let role = match turn["from"].as_str() {
            Some("human" | "user") => "user",
            Some("gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" | "function_call") => "assistant",
            Some("system") => "system",
            Some("tool" | "observation" | "function_response") => "tool",
            Some(other) => return Err(format!("turn {}: it is not known who '{}' is", i + 1, shortened(other))),
            None => return Err(format!("turn {}: it has neither 'role' nor 'from'", i + 1)),
        };
        match &turn["value"] {
            Value::String(value) => Ok(json!({"role": role, "content": value})),
            _ => Err(format!("turn {}: 'value' is not a text", i + 1)),
        }
    };
    turns.into_iter().enumerate().map(message).collect()
}

/// Tables have lists as JSON in a text.
fn parse_list(row: &mut Row, name: &str) -> Result<(), String> {
    if let Some(Value::String(text)) = row.get(name) {
        let text = text.trim();
        if text.starts_with('[') {
            let list = serde_json::from_str(text).map_err(|error| format!("'{name}' is not JSON: {error}"))?;
            row.insert(name.to_owned(), list);
        }
    }
    Ok(())
}

/// A column as text; nothing where there is none.
fn text(row: &Row, name: &str) -> Result<String, String> {
    match row.get(name) {
        Some(Value::Array(_) | Value::Object(_)) => Err(format!("'{name}' is not a text")),
        value => Ok(value.map(as_text).unwrap_or_default()),
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The column of this name, else what the template makes of the row.
fn value(row: &Row, from: &str) -> Result<Value, String> {
    let column = |name: &str| {
        row.get(name).ok_or_else(|| {
            let names: Vec<String> = row.keys().take(8).map(|name| format!("'{}'", shortened(name))).collect();
            format!("the mapping names '{}', and it has {}", shortened(name), names.join(", "))
        })
    };
    if row.contains_key(from) || !from.contains(['{', '}']) {
        return column(from).cloned();
    }
    let mut written = String::new();
    let mut rest = from;
    while let Some(at) = rest.find(['{', '}']) {
        written.push_str(&rest[..at]);
        let bracket = &rest[at..at + 1];
        rest = &rest[at + 1..];
        match (rest.strip_prefix(bracket), rest.find('}')) {
            (Some(after), _) => {
                written.push_str(bracket);
                rest = after;
            }
            (None, Some(end)) if bracket == "{" => {
                written.push_str(&as_text(column(&rest[..end])?));
                rest = &rest[end + 1..];
            }
            _ => return Err(format!("the template '{}' has a bracket without its other", shortened(from))),
        }
    }
    Ok(Value::String(written + rest))
}
