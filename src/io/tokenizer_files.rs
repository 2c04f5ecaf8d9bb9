//! Finds the tokenizer and the chat template in a model's files.

use serde_json::{Map, Value};

use super::checkpoint::{Checkpoint, TextFiles, TextSource};
use super::{ChatTemplate, Tokenizer, tokenizer_gguf, tokenizer_json};
use crate::{Error, Result};

pub(super) const SETTINGS_FILE: &str = "tokenizer_config.json";

impl Checkpoint {
    /// The tokenizer: `tokenizer.json`, or what a GGUF file says.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.text {
            TextSource::Gguf(gguf) => tokenizer_gguf::read(self.config_file(), gguf),
            TextSource::Folder(files) => tokenizer_json::read(files, self.config()),
        }
    }

    /// The model's own chat template, if it has one.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &self.text {
            TextSource::Gguf(gguf) => {
                let Some(source) = gguf.text("tokenizer.chat_template")? else { return Ok(None) };
                let tokens = gguf.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
                let name = |key: &str| -> Result<&str> {
                    let id = gguf.count(key)?;
                    Ok(id.and_then(|id| tokens.get(id as usize)).map_or("", String::as_str))
                };
                let (bos, eos) = (name("tokenizer.ggml.bos_token_id")?, name("tokenizer.ggml.eos_token_id")?);
                ChatTemplate::new(self.config_file(), source, bos, eos).map(Some)
            }
            TextSource::Folder(files) => {
                let settings = settings(files, SETTINGS_FILE)?;
                let (file, Some(source)) = folder_template(files, &settings)? else { return Ok(None) };
                let name = |field: &str| special_token(&settings, field).unwrap_or_default();
                ChatTemplate::new(file, &source, name("bos_token"), name("eos_token")).map(Some)
            }
        }
    }
}

pub(super) fn bad_file(file: &str, message: impl Into<String>) -> Error {
    Error::BadFile { file: file.to_owned(), message: message.into() }
}

/// A small file of settings; empty where there is none.
pub(super) fn settings(files: &TextFiles, file: &'static str) -> Result<Map<String, Value>> {
    let Some(bytes) = files.get(file) else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|error| bad_file(file, error.to_string()))
}

/// A special token's text: by itself, or with how it is matched.
pub(super) fn special_token<'a>(settings: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    let value = settings.get(field)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The template's file and text: its own file, or a field of the settings, by itself or by name.
fn folder_template(files: &TextFiles, settings: &Map<String, Value>) -> Result<(&'static str, Option<String>)> {
    const TEMPLATE: &str = "chat_template.jinja";
    if let Some(bytes) = files.get(TEMPLATE) {
        let text = String::from_utf8(bytes.clone()).map_err(|_| bad_file(TEMPLATE, "is not UTF-8"))?;
        return Ok((TEMPLATE, Some(text)));
    }
    let source = match settings.get("chat_template") {
        None | Some(Value::Null) => None,
        Some(Value::String(source)) => Some(source.clone()),
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str())
            .map(str::to_owned),
        Some(_) => return Err(bad_file(SETTINGS_FILE, "its 'chat_template' is not a text")),
    };
    Ok((SETTINGS_FILE, source))
}
