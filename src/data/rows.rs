//! The rows of a file, whatever its format: named values, each row with the line that it begins in.

use serde_json::{Map, Value};

use super::Format;
use super::record::{MAX_LINE_BYTES, parse_line};
use crate::{Error, Result};

/// Columns of a table; more are a mistake.
const MAX_COLUMNS: usize = 4096;

/// Named values.
pub(super) type Row = Map<String, Value>;

/// Calls `take` for each row: its 1-based line (of Parquet, its number), and its values or why they cannot be read.
///
/// - JSONL: a row for each line that is not empty.
/// - JSON: a row for each element of the list; of an object with one list, of that.
/// - CSV, TSV: the first line has the names, every value is a text. CSV's separator is whichever of comma, semicolon and
///   tab the first line has most of.
/// - Text: one row, `text`, with all of it.
pub(super) fn each_row(
    file: &str,
    text: &[u8],
    format: Format,
    take: &mut dyn FnMut(usize, Result<Row, String>),
) -> Result<()> {
    match format {
        Format::Jsonl | Format::Parquet => {
            for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
                let text = text.trim_ascii();
                if !text.is_empty() {
                    take(line, parse_line(text));
                }
            }
            Ok(())
        }
        Format::Json => json(file, text, take),
        Format::Csv => {
            let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let count = |separator: u8| first.iter().filter(|&&byte| byte == separator).count();
            // Of equals, the last: a comma.
            let separator = [b'\t', b';', b','].into_iter().max_by_key(|&separator| count(separator));
            table(file, text, separator.unwrap_or(b','), take)
        }
        Format::Tsv => table(file, text, b'\t', take),
        Format::Text => {
            let text = std::str::from_utf8(text).map_err(|error| {
                let line = 1 + count_lines(&text[..error.valid_up_to()]);
                bad(file, Some(line), "it is not UTF-8; save the file as UTF-8".to_owned())
            })?;
            if !text.trim().is_empty() {
                take(1, Ok(Row::from_iter([("text".to_owned(), text.into())])));
            }
            Ok(())
        }
    }
}

fn bad(file: &str, line: Option<usize>, message: String) -> Error {
    Error::BadData { file: file.to_owned(), line, message }
}

fn count_lines(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

/// Elements are found by brackets and quotes and parsed one by one, so that one that is broken is the only one lost.
fn json(file: &str, text: &[u8], take: &mut dyn FnMut(usize, Result<Row, String>)) -> Result<()> {
    let start = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(text.len());
    let list = match text.get(start) {
        None => return Ok(()),
        Some(b'[') => start,
        Some(b'{') => match lists(text, start)[..] {
            // An object without a list of objects is a row itself, and others may follow.
            [] => return elements(text, start, take),
            [(_, at)] => at,
            ref several => {
                let names: Vec<&str> = several.iter().take(8).map(|(name, _)| name.as_str()).collect();
                let message = format!("it has several lists, {}; keep each in a file of its own", names.join(", "));
                return Err(bad(file, None, message));
            }
        },
        Some(_) => return Err(bad(file, Some(1 + count_lines(&text[..start])), "it is not JSON".to_owned())),
    };
    elements(text, list + 1, take)
}

/// The lists of objects that the object at `start` has: their names, and where they begin. Of an object that is an example
/// itself, as it has messages, none.
fn lists(text: &[u8], start: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut at = start + 1;
    while let Some(end) = value_end(text, at) {
        let part = text[at..end].trim_ascii_start();
        let key_at = end - part.len();
        let Some(key_end) = string_end(text, key_at) else { break };
        let Ok(name) = serde_json::from_slice::<String>(&text[key_at..key_end]) else { break };
        if ["messages", "conversations", "prompt", "chosen", "rejected"].contains(&name.as_str()) {
            return vec![];
        }
        let value = text[key_end..end].trim_ascii_start().strip_prefix(b":").unwrap_or_default().trim_ascii_start();
        if value.first() == Some(&b'[') && value[1..].trim_ascii_start().first() == Some(&b'{') {
            found.push((name, end - value.len()));
        }
        match text.get(end) {
            Some(b',') => at = end + 1,
            _ => break,
        }
    }
    found
}

/// Values from `at` on, with commas or nothing between them, up to a closing bracket or the end.
fn elements(text: &[u8], mut at: usize, take: &mut dyn FnMut(usize, Result<Row, String>)) -> Result<()> {
    let (mut line, mut counted) = (1, 0);
    loop {
        while text.get(at).is_some_and(|&byte| byte.is_ascii_whitespace() || byte == b',') {
            at += 1;
        }
        line += count_lines(&text[counted..at]);
        counted = at;
        match (text.get(at), value_end(text, at)) {
            (None | Some(b']' | b'}'), _) => return Ok(()),
            (_, Some(end)) if end > at => {
                take(line, parse_line(text[at..end].trim_ascii_end()));
                at = end;
            }
            _ => {
                take(line, Err("it is not whole: a bracket or a quote that begins here is never closed".to_owned()));
                return Ok(());
            }
        }
    }
}

/// Where the value at `at` ends: before the comma or bracket that follows, or behind the bracket that closes it.
fn value_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    (depth == 0).then_some(at)
}

/// Behind the closing quote of the string at `at`.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut end = at + 1;
    loop {
        match text.get(end)? {
            b'"' => return Some(end + 1),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
}

fn table(file: &str, text: &[u8], separator: u8, take: &mut dyn FnMut(usize, Result<Row, String>)) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).has_headers(false).flexible(true).from_reader(text);
    let mut record = csv::ByteRecord::new();
    let mut names: Option<Vec<String>> = None;
    loop {
        // Of the record to come; the lines that the reader passes over before it are empty.
        let from = reader.position().byte() as usize;
        let blank = text[from..].iter().take_while(|&&byte| byte == b'\n' || byte == b'\r');
        let line = reader.position().line() as usize + blank.filter(|&&byte| byte == b'\n').count();
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => return Err(bad(file, Some(line), error.to_string())),
        }
        let Some(names) = &names else {
            names = Some(headers(&record).map_err(|message| bad(file, Some(line), message))?);
            continue;
        };
        take(line, row(names, &record));
    }
}

/// Names of columns: those without one are called by their number, and of equal ones all but the first get a number.
fn headers(record: &csv::ByteRecord) -> Result<Vec<String>, String> {
    if record.len() > MAX_COLUMNS {
        return Err(format!("it has {} columns, at most {MAX_COLUMNS} are read", record.len()));
    }
    let mut names: Vec<String> = Vec::new();
    for (i, name) in record.iter().enumerate() {
        let name = std::str::from_utf8(name).map_err(|_| "it is not UTF-8; save the file as UTF-8".to_owned())?.trim();
        let name = if name.is_empty() { format!("column {}", i + 1) } else { name.to_owned() };
        let others = names.iter().filter(|other| **other == name).count();
        names.push(if others > 0 { format!("{name}.{others}") } else { name });
    }
    Ok(names)
}

fn row(names: &[String], record: &csv::ByteRecord) -> Result<Row, String> {
    if record.as_slice().len() > MAX_LINE_BYTES {
        return Err(format!("it has more than {MAX_LINE_BYTES} bytes; is there a quote that is never closed?"));
    }
    if record.len() != names.len() {
        let quote = if record.as_slice().contains(&b'\n') { "; is there a quote that is never closed?" } else { "" };
        return Err(format!("it has {} values where the first line names {}{quote}", record.len(), names.len()));
    }
    let value = |(name, value): (&String, &[u8])| match std::str::from_utf8(value) {
        Ok(value) => Ok((name.clone(), value.into())),
        Err(_) => Err("it is not UTF-8; save the file as UTF-8".to_owned()),
    };
    names.iter().zip(record).map(value).collect()
}
