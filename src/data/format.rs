//! What kind of file examples are in, told by its content and its name, and its text whatever the encoding.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object on each line.
    Jsonl,
    /// A list of objects, or an object with one list of them.
    Json,
    /// Values between commas (or semicolons), their names in the first line.
    Csv,
    /// Values between tabs, their names in the first line.
    Tsv,
    /// Rows of a Parquet file, made into JSON lines by who hands them over.
    Parquet,
    /// One text.
    Text,
}

impl Format {
    /// By what the file begins with, then by its name.
    pub fn detect(name: &str, text: &[u8]) -> Self {
        let text = text.trim_ascii_start();
        let named = |end: &str| {
            name.len() >= end.len() && name.as_bytes()[name.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
        };
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
        match text.first() {
            _ if named(".csv") => Self::Csv,
            _ if named(".tsv") || named(".tab") => Self::Tsv,
            _ if named(".jsonl") || named(".ndjson") => Self::Jsonl,
            // A Markdown file may begin with a bracket as well.
            _ if named(".md") => Self::Text,
            Some(b'[') if text.trim_ascii_end().ends_with(b"]") => Self::Json,
            Some(b'{') if whole_object(line) && line.len() < text.trim_ascii_end().len() => Self::Jsonl,
            Some(b'{') if named(".json") || line.len() < 3 => Self::Json,
            _ if named(".txt") && text.first() != Some(&b'{') => Self::Text,
            _ => Self::Jsonl,
        }
    }
}

fn whole_object(line: &[u8]) -> bool {
    matches!(serde_json::from_slice(line), Ok(serde_json::Value::Object(_)))
}

/// The file in UTF-8, without a byte order mark. Single bytes that are no UTF-8 are left for who reads the rows, who knows
/// the line.
pub(super) fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let bad = |message: &str| Error::BadData { file: file.to_owned(), line: None, message: message.to_owned() };
    let units: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ if bytes.starts_with(b"PAR1") => return Err(bad("Parquet has to be made into JSON lines first")),
        _ if bytes.iter().take(64).any(|&byte| byte == 0) => {
            return Err(bad("it is UTF-16 without a mark or no text at all; save it as UTF-8"));
        }
        _ => return Ok(Cow::Borrowed(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))),
    };
    let (pairs, rest) = bytes[2..].as_chunks::<2>();
    if !rest.is_empty() {
        return Err(bad("it is UTF-16 that ends within a character; save it as UTF-8"));
    }
    let text: std::result::Result<String, _> = char::decode_utf16(pairs.iter().map(|&pair| units(pair))).collect();
    let text = text.map_err(|_| bad("it is UTF-16 with half a character in it; save it as UTF-8"))?;
    Ok(Cow::Owned(text.into_bytes()))
}
