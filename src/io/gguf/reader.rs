//! Reads a GGUF header from the first bytes of a file.

use std::collections::BTreeMap;

use super::{Entry, Gguf, Value};
use crate::io::DType;
use crate::{Error, Result};

/// llama.cpp's GGML_MAX_NAME, including a final zero byte.
const MAX_TENSOR_NAME: u64 = 63;
/// The longest key that the format allows.
const MAX_KEY: u64 = 65_535;
/// Alignments in the wild are 32; beyond this one it is an attack on 32-bit sizes.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Most tensors and most entries: models have up to some thousands and some tens.
const MAX_ENTRIES: u64 = 1 << 16;
/// Items of all lists together, which take up to 24 bytes each however few they have in the file. Gemma 3 has 1.3 million.
const MAX_ITEMS: u64 = 1 << 21;

/// Why parsing stopped: the fetched part ends, or the file is wrong.
pub(super) enum Stop {
    NeedsBytes(u64),
    Failed(Error),
}

type Parsed<T> = Result<T, Stop>;

pub(super) struct Reader<'a> {
    file: &'a str,
    /// The first bytes of the file.
    bytes: &'a [u8],
    at: usize,
    file_bytes: u64,
    /// Of all lists so far.
    n_items: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8], file_bytes: u64) -> Self {
        Self { file, bytes, at: 0, file_bytes, n_items: 0 }
    }

    fn bad<T>(&self, message: impl std::fmt::Display) -> Parsed<T> {
        Err(Stop::Failed(Error::BadFile { file: self.file.to_owned(), message: message.to_string() }))
    }

    fn left(&self) -> u64 {
        self.file_bytes - self.at as u64
    }

    fn take(&mut self, size: u64, what: &str) -> Parsed<&[u8]> {
        if size > self.left() {
            return self.bad(format!(
                "{what} at byte {} needs {size} bytes and {} are left: it is cut short or damaged",
                self.at,
                self.left()
            ));
        }
        let end = self.at as u64 + size;
        if end > self.bytes.len() as u64 {
            return Err(Stop::NeedsBytes(end));
        }
        let from = std::mem::replace(&mut self.at, end as usize);
        Ok(&self.bytes[from..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `each` bytes, refused if the file has no room for them.
    fn count(&mut self, what: &str, each: u64) -> Parsed<u64> {
        let at = self.at;
        let count = self.u64(what)?;
        if count > self.left() / each {
            return self.bad(format!("{what} at byte {at} is {count}, more than the {} bytes left hold", self.left()));
        }
        Ok(count)
    }

    fn string(&mut self, what: &str, max: u64) -> Parsed<String> {
        let at = self.at;
        let size = self.count(what, 1)?;
        if size > max {
            return self.bad(format!("{what} at byte {at} has {size} bytes, at most {max} are allowed"));
        }
        match std::str::from_utf8(self.take(size, what)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.bad(format!("{what} at byte {at} is not UTF-8")),
        }
    }

    /// All of the header.
    pub(super) fn header(&mut self) -> Parsed<Gguf> {
        if self.array::<4>("the magic")? != *b"GGUF" {
            return self.bad("it does not begin with 'GGUF': it is another kind of file, or a failed download");
        }
        match self.u32("the version")? {
            2 | 3 => {}
            version if (1..=3).contains(&version.swap_bytes()) => {
                return self.unsupported("GGUF byte order", "it is big-endian; little-endian files are read");
            }
            version => return self.unsupported(&format!("GGUF version {version}"), "versions 2 and 3 are read"),
        }
        // A tensor takes a name length, a dimension count, a type and an offset; an entry a key length, a type, a value.
        let n_tensors = self.count("the number of tensors", 8 + 4 + 4 + 8)?;
        let n_entries = self.count("the number of metadata entries", 8 + 4 + 1)?;
        for (what, count) in [("tensors", n_tensors), ("metadata entries", n_entries)] {
            if count > MAX_ENTRIES {
                return self.bad(format!("it has {count} {what}, at most {MAX_ENTRIES} are read"));
            }
        }
        let metadata = self.metadata(n_entries)?;
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Int(number)) => *number as u64,
            Some(_) => return self.bad("metadata 'general.alignment' is not a whole number"),
        };
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return self
                .bad(format!("metadata 'general.alignment' is {alignment}, no power of two up to {MAX_ALIGNMENT}"));
        }
        let mut tensors = Vec::new();
        for _ in 0..n_tensors {
            tensors.push(self.tensor(alignment)?);
        }
        self.place(&mut tensors, alignment)?;
        Ok(Gguf { file: self.file.to_owned(), metadata, tensors })
    }

    fn unsupported<T>(&self, field: &str, message: &str) -> Parsed<T> {
        Err(Stop::Failed(Error::Unsupported {
            file: self.file.to_owned(),
            field: field.to_owned(),
            message: message.to_owned(),
        }))
    }

    fn metadata(&mut self, n_entries: u64) -> Parsed<BTreeMap<String, Value>> {
        let mut metadata = BTreeMap::new();
        for _ in 0..n_entries {
            let key = self.string("a metadata key", MAX_KEY)?;
            if key.is_empty() {
                return self.bad(format!("the metadata key that ends at byte {} is empty", self.at));
            }
            let kind = self.u32("a metadata type")?;
            let value = self.value(kind, &key)?;
            if key == "general.alignment" && kind != 4 {
                return self.bad("metadata 'general.alignment' is not a u32");
            }
            if metadata.contains_key(&key) {
                return self.bad(format!("metadata '{key}' is there twice"));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, kind: u32, key: &str) -> Parsed<Value> {
        let what = format!("metadata '{key}'");
        Ok(match kind {
            0..=5 | 10 | 11 => Value::Int(self.int(kind, &what)?),
            6 => Value::Float(f32::from_le_bytes(self.array(&what)?).into()),
            7 => Value::Bool(self.bool(&what)?),
            8 => Value::Str(self.string(&what, u64::MAX)?),
            9 => self.list(&what)?,
            12 => Value::Float(f64::from_le_bytes(self.array(&what)?)),
            _ => return self.bad(format!("{what} has the unknown type {kind}")),
        })
    }

    fn int(&mut self, kind: u32, what: &str) -> Parsed<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(what)?).into(),
            1 => i8::from_le_bytes(self.array(what)?).into(),
            2 => u16::from_le_bytes(self.array(what)?).into(),
            3 => i16::from_le_bytes(self.array(what)?).into(),
            4 => self.u32(what)?.into(),
            5 => i32::from_le_bytes(self.array(what)?).into(),
            10 => self.u64(what)?.into(),
            _ => i64::from_le_bytes(self.array(what)?).into(),
        })
    }

    fn bool(&mut self, what: &str) -> Parsed<bool> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => self.bad(format!("{what} is a truth value of {byte}")),
        }
    }

    fn list(&mut self, what: &str) -> Parsed<Value> {
        let kind = self.u32(what)?;
        let each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return self.bad(format!("{what} is a list of lists")),
            _ => return self.bad(format!("{what} is a list of the unknown type {kind}")),
        };
        let len = self.count(what, each)?;
        self.n_items = self.n_items.saturating_add(len);
        if self.n_items > MAX_ITEMS {
            return self.bad(format!("{what} is a list of {len}, where all lists may have {MAX_ITEMS} items"));
        }
        // Fixed-size items are fetched before they are counted out, so that the claim is never reserved.
        if kind != 8 {
            self.take(len * each, what)?;
            self.at -= (len * each) as usize;
        }
        Ok(match kind {
            6 => Value::Floats((0..len).map(|_| self.array(what).map(f32::from_le_bytes)).collect::<Parsed<_>>()?),
            7 => Value::Bools((0..len).map(|_| self.bool(what)).collect::<Parsed<_>>()?),
            8 => Value::Strs((0..len).map(|_| self.string(what, u64::MAX)).collect::<Parsed<_>>()?),
            12 => Value::Floats(
                (0..len).map(|_| self.array(what).map(|b| f64::from_le_bytes(b) as f32)).collect::<Parsed<_>>()?,
            ),
            // Lists are of small numbers; what is beyond i32 stays out of every range.
            _ => Value::Ints(
                (0..len)
                    .map(|_| self.int(kind, what).map(|i| i32::try_from(i).unwrap_or(i32::MAX)))
                    .collect::<Parsed<_>>()?,
            ),
        })
    }

    fn tensor(&mut self, alignment: u64) -> Parsed<Entry> {
        let name = self.string("a tensor name", MAX_TENSOR_NAME)?;
        let what = format!("tensor '{name}'");
        let n_dims = self.u32(&what)?;
        if !(1..=4).contains(&n_dims) {
            return self.bad(format!("{what} has {n_dims} dimensions, 1 to 4 are allowed"));
        }
        let dims = (0..n_dims).map(|_| self.u64(&what)).collect::<Parsed<Vec<_>>>()?;
        let dtype = self.dtype(&what)?;
        let offset = self.u64(&what)?;
        if !offset.is_multiple_of(alignment) {
            return self.bad(format!("{what} begins at {offset}, no multiple of {alignment}"));
        }
        let rows = dims[1..].iter().try_fold(1u64, |rows, &dim| rows.checked_mul(dim));
        let size_bytes = dtype.size_bytes(dims[0]).zip(rows).and_then(|(row, rows)| row.checked_mul(rows));
        match size_bytes {
            None | Some(0) => self.bad(format!("{what} cannot be {dtype} with dimensions {dims:?}")),
            Some(size_bytes) => Ok(Entry { name, dtype, dims, file: 0, offset, size_bytes }),
        }
    }

    fn dtype(&mut self, what: &str) -> Parsed<DType> {
        /// ggml's types in the order of their numbers; empty where one was withdrawn.
        const NAMES: [&str; 42] = [
            "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
            "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16",
            "I32", "I64", "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4", "NVFP4", "Q1_0",
        ];
        let number = self.u32(what)?;
        let name = NAMES.get(number as usize).copied().unwrap_or_default();
        match DType::ALL.into_iter().find(|dtype| dtype.to_string() == name) {
            Some(dtype) => Ok(dtype),
            None if name.is_empty() => self.bad(format!("{what} has the unknown type {number}")),
            None => {
                let all = DType::ALL.map(|dtype| dtype.to_string()).join(", ");
                let message = format!(
                    "{what} has it; {all} are read: choose the model in one of these, or convert it with llama-quantize"
                );
                self.unsupported(&format!("tensor type {name}"), &message)
            }
        }
    }

    /// Turns offsets into places in the file, and checks that tensors lie in it, apart from each other.
    fn place(&self, tensors: &mut [Entry], alignment: u64) -> Parsed<()> {
        let data_start = (self.at as u64).next_multiple_of(alignment);
        let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return self.bad(format!("tensor '{}' is there twice", twice[0]));
        }
        for tensor in &mut *tensors {
            let offset = tensor.offset.checked_add(data_start);
            match offset.and_then(|offset| offset.checked_add(tensor.size_bytes)) {
                Some(end) if end <= self.file_bytes => tensor.offset += data_start,
                _ => {
                    return self.bad(format!(
                        "tensor '{}' of {} bytes at {} lies past its end ({} bytes): it is cut short or damaged",
                        tensor.name, tensor.size_bytes, tensor.offset, self.file_bytes
                    ));
                }
            }
        }
        let mut places: Vec<&Entry> = tensors.iter().collect();
        places.sort_unstable_by_key(|tensor| tensor.offset);
        match places.windows(2).find(|pair| pair[0].offset + pair[0].size_bytes > pair[1].offset) {
            Some(pair) => self.bad(format!("tensors '{}' and '{}' overlap", pair[0].name, pair[1].name)),
            None => Ok(()),
        }
    }
}
