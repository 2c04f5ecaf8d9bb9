//! The GGUF container, versions 2 and 3: header, metadata and tensor table.
//!
//! Nothing in the file is trusted: every count is checked against the bytes that are left before anything is
//! reserved, and sizes are checked `u64` arithmetic, as `usize` has 32 bits in a tab.
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod reader;

use std::{collections::BTreeMap, rc::Rc};

use super::source::read_exact;
use super::{ByteSource, DType};
use crate::{Error, Result};
use reader::{Reader, Stop};

/// Bytes fetched first. Headers are some 2 MB with a vocabulary of 50,000.
const FIRST_CHUNK: u64 = 1 << 20;
/// Bytes of header before we call the file nonsense; vocabularies of 260,000 need about 16 MB.
const MAX_HEADER_BYTES: u64 = 32 << 20;

/// A metadata value. Numbers are widened, arrays typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Str(String),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
}

/// One tensor of the table, its bytes checked to lie in the file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Fastest dimension first, as ggml counts.
    pub(crate) dims: Vec<u64>,
    /// Which part of the model it lies in.
    pub(crate) file: usize,
    /// From the start of that file.
    pub(crate) offset: u64,
    pub(crate) size_bytes: u64,
}

/// A checked header.
#[derive(Debug)]
pub(crate) struct Gguf {
    file: String,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: Vec<Entry>,
}

/// Reads and checks the header, fetching as much of the file as it turns out to need.
pub(crate) async fn read_header(source: &Rc<dyn ByteSource>) -> Result<Gguf> {
    let mut chunk = FIRST_CHUNK;
    loop {
        let size = chunk.min(source.size_bytes()).min(MAX_HEADER_BYTES);
        let bytes = read_exact(source, 0, size as usize).await?;
        match Reader::new(source.name(), &bytes, source.size_bytes()).header() {
            Ok(header) => return Ok(header),
            Err(Stop::Failed(error)) => return Err(error),
            // Reading on costs at most a third more than reading once.
            Err(Stop::NeedsBytes(end)) if end <= MAX_HEADER_BYTES => chunk = end.max(chunk * 4),
            Err(Stop::NeedsBytes(_)) => {
                return Err(Error::BadFile {
                    file: source.name().to_owned(),
                    message: format!("its header is longer than {MAX_HEADER_BYTES} bytes"),
                });
            }
        }
    }
}

impl Gguf {
    fn bad_key(&self, key: &str, message: &str) -> Error {
        Error::BadFile { file: self.file.clone(), message: format!("metadata '{key}' {message}") }
    }

    /// A text, if the key is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad_key(key, "is not a text")),
        }
    }

    /// A whole number from 0 to 2^32 - 1, if the key is there: every count and id of a model fits that.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u32>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(number)) => match u32::try_from(*number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.bad_key(key, &format!("is {number}, out of range"))),
            },
            Some(_) => Err(self.bad_key(key, "is not a whole number")),
        }
    }

    /// A finite number, if the key is there.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Int(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.bad_key(key, "is not a finite number")),
        }
    }

    /// A truth value, if the key is there.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.bad_key(key, "is not true or false")),
        }
    }

    /// A list of texts, if the key is there.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Strs(texts)) => Ok(Some(texts)),
            Some(_) => Err(self.bad_key(key, "is not a list of texts")),
        }
    }

    /// A list of numbers, if the key is there.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Floats(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(self.bad_key(key, "is not a list of numbers")),
        }
    }

    /// A list of whole numbers, if the key is there.
    pub(crate) fn ints(&self, key: &str) -> Result<Option<&[i32]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Ints(numbers)) => Ok(Some(numbers)),
            Some(_) => Err(self.bad_key(key, "is not a list of whole numbers")),
        }
    }
}
