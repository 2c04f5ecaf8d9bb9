//! From a file to records: format, rows, shape.

use serde::Serialize;
use serde_json::{Map, Value};

use super::format::utf8;
use super::record::{add_error, parse_fields};
use super::rows::each_row;
use super::{DataMapping, Format, LineError, Records, Shape};
use crate::{Error, Result};

/// Rows shown, and how much of a text and of a list.
const SHOWN: (usize, usize, usize) = (20, 200, 8);

/// A file of examples.
#[derive(Clone, Copy, Debug)]
pub struct DataFile<'a> {
    /// As the user knows it.
    pub name: &'a str,
    /// All of it.
    pub bytes: &'a [u8],
    /// Told by content and name where not given. Parquet comes as JSON lines, one for each row.
    pub format: Option<Format>,
}

/// The records of a file, and what it is.
pub(super) struct Read {
    pub(super) records: Records,
    pub(super) errors: Vec<LineError>,
    pub(super) format: Format,
    /// Of the first row that has one.
    pub(super) shape: Option<Shape>,
}

/// Reads a file. `chat`: whether the model has a chat template. Errs when no row can be used.
pub(super) fn read(file: DataFile, mapping: Option<&DataMapping>, chat: bool) -> Result<Read> {
    let text = utf8(file.name, file.bytes)?;
    let format = file.format.unwrap_or_else(|| Format::detect(file.name, &text));
    let (mut records, mut errors, mut shape) = (Vec::new(), Vec::new(), None);
    each_row(file.name, &text, format, &mut |line, row| {
        let fields = row.and_then(|row| match (mapping, Shape::detect(&row)) {
            (Some(mapping), _) => Ok((Some(Shape::Mapped), mapping.apply(&row, chat)?)),
            (None, Some(found)) => Ok((Some(found), found.apply(row, chat)?)),
            (None, None) => Ok((None, row)),
        });
        let record = fields.and_then(|(found, fields)| {
            shape = shape.or(found);
            parse_fields(fields)
        });
        match record {
            Ok(record) => records.push((line, record)),
            Err(message) => add_error(&mut errors, line, message),
        }
    })?;
    let bad = |line, message: &str| Error::BadData { file: file.name.to_owned(), line, message: message.to_owned() };
    match (records.is_empty(), errors.first()) {
        (true, None) => Err(bad(None, "it is empty")),
        (true, Some(first)) => Err(bad(Some(first.line), &first.message)),
        _ => Ok(Read { records, errors, format, shape }),
    }
}

/// What a file is, before there is a model to read it for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataSummary {
    /// How it holds its rows.
    pub format: Format,
    /// What its columns say it is; none where a mapping has to say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Names in the order in which they come, of all rows shown.
    pub columns: Vec<String>,
    /// Rows, those that cannot be read included.
    pub rows: usize,
    /// The first rows, long texts and lists shortened.
    pub sample: Vec<Map<String, Value>>,
}

/// Looks at a file without a model.
pub fn inspect(file: DataFile) -> Result<DataSummary> {
    let text = utf8(file.name, file.bytes)?;
    let format = file.format.unwrap_or_else(|| Format::detect(file.name, &text));
    let mut summary = DataSummary { format, shape: None, columns: vec![], rows: 0, sample: vec![] };
    each_row(file.name, &text, format, &mut |_, row| {
        summary.rows += 1;
        let Ok(row) = row else { return };
        if summary.sample.len() < SHOWN.0 {
            summary.shape = summary.shape.or(Shape::detect(&row));
            for name in row.keys() {
                if !summary.columns.contains(name) {
                    summary.columns.push(name.clone());
                }
            }
            summary.sample.push(row.into_iter().map(|(name, value)| (name, shown(value))).collect());
        }
    })?;
    Ok(summary)
}

fn shown(value: Value) -> Value {
    match value {
        Value::String(text) if text.chars().nth(SHOWN.1).is_some() => {
            Value::String(text.chars().take(SHOWN.1).chain(['…']).collect())
        }
        Value::Array(values) => values.into_iter().take(SHOWN.2).map(shown).collect(),
        Value::Object(fields) => fields.into_iter().take(SHOWN.2).map(|(name, value)| (name, shown(value))).collect(),
        other => other,
    }
}
