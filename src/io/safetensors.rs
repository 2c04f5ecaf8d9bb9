//! The header of a safetensors file, from the header alone.
//!
//! The `safetensors` crate wants the whole file in memory and measures in `usize`, 32 bits in a tab; a model is
//! larger than both. The verdicts are the crate's: no holes, no overlaps, no duplicate names.

use std::{collections::BTreeMap, rc::Rc};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::checkpoint::checked_shape;
use super::source::read_exact;
use super::{ByteSource, DType};
use crate::{Error, Result};

/// As in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor as the header tells it, its bytes checked to lie in the file.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// From the start of the file.
    pub(crate) offset: u64,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header in the order of the file, duplicates kept so that they can be refused.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut entries, mut has_metadata) = (Vec::new(), false);
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(serde::de::Error::duplicate_field("__metadata__"));
                        }
                        map.next_value::<Option<BTreeMap<String, String>>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads and checks the header.
pub(crate) async fn read_header(source: &Rc<dyn ByteSource>) -> Result<Vec<Entry>> {
    let bad = |message: String| Error::BadFile { file: source.name().to_owned(), message };
    let size_bytes = source.size_bytes();
    if size_bytes < 8 {
        return Err(bad(format!("{size_bytes} bytes are too few for a safetensors file")));
    }
    let mut header_bytes = [0; 8];
    header_bytes.copy_from_slice(&read_exact(source, 0, 8).await?);
    let header_bytes = u64::from_le_bytes(header_bytes);
    let left = size_bytes - 8;
    if header_bytes > left || header_bytes > MAX_HEADER_BYTES {
        return Err(bad(format!(
            "it claims a header of {header_bytes} bytes, where {left} are left and {MAX_HEADER_BYTES} allowed: \
             it is cut short or no safetensors file"
        )));
    }
    let header = read_exact(source, 8, header_bytes as usize).await?;
    if header.first() != Some(&b'{') {
        return Err(bad("its header does not begin with '{': it is no safetensors file".to_owned()));
    }
    let Header(entries) =
        serde_json::from_slice(&header).map_err(|error| bad(format!("its header is not valid: {error}")))?;
    check(source.name(), entries, left - header_bytes, 8 + header_bytes)
}

fn check(file: &str, mut entries: Vec<(String, Info)>, data_bytes: u64, data_start: u64) -> Result<Vec<Entry>> {
    let bad = |name: &str, message: String| Error::BadFile {
        file: file.to_owned(),
        message: format!("tensor '{name}': {message}"),
    };
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(bad(twice[0], "is there twice".to_owned()));
    }
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    let mut checked = Vec::new();
    for (name, info) in entries {
        let dtype = match info.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            other => {
                return Err(Error::Unsupported {
                    file: file.to_owned(),
                    field: format!("tensor type {other}"),
                    message: format!("'{name}' has it; F32, F16 and BF16 are read"),
                });
            }
        };
        let len = info.shape.iter().try_fold(1u64, |len, &dim| len.checked_mul(dim));
        let size = len.and_then(|len| dtype.size_bytes(len));
        let (from, to) = info.data_offsets;
        if from != end {
            return Err(bad(&name, format!("its data begins at {from} where the one before ends at {end}")));
        }
        if to < from || Some(to - from) != size {
            return Err(bad(&name, format!("bytes {from} to {to} do not hold {dtype} of shape {:?}", info.shape)));
        }
        end = to;
        let shape = checked_shape(info.shape.iter().copied());
        let shape = shape.ok_or_else(|| bad(&name, format!("its shape {:?} is too large", info.shape)))?;
        checked.push(Entry { name, dtype, shape, offset: data_start + from });
    }
    if end != data_bytes {
        return Err(Error::BadFile {
            file: file.to_owned(),
            message: format!("its tensors take {end} bytes, the file has {data_bytes}: it is cut short or damaged"),
        });
    }
    Ok(checked)
}
