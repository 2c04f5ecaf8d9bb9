//! Weights in several files: parts of a GGUF as llama.cpp's `gguf-split` writes them, shards of safetensors as
//! transformers does. The files come in any order; one that is missing is named.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Deserialize;

use super::checkpoint::{MAX_TEXT_BYTES, Tensor, bad_file, file_name, find};
use super::gguf::{self, Gguf};
use super::source::read_all;
use super::{ByteSource, safetensors};
use crate::{Error, Result};

type Sources = Vec<Rc<dyn ByteSource>>;

/// Where transformers writes which tensor is in which shard.
const INDEX: &str = "model.safetensors.index.json";

/// A name like `model-00002-of-00003.gguf`, which both formats give to parts, counting from 1.
struct PartName<'a> {
    stem: &'a str,
    count: u32,
    ending: &'a str,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a str, ending: &'a str) -> Option<Self> {
        let (stem, count) = name.strip_suffix(ending)?.rsplit_once("-of-")?;
        let (stem, number) = stem.rsplit_once('-')?;
        let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
        (is_number(number) && is_number(count)).then_some(())?;
        Some(Self { stem, count: count.parse().ok()?, ending })
    }

    /// The name of part `number` of the same model.
    fn of(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}{}", self.stem, self.count, self.ending)
    }
}

/// The name of the model that a GGUF file is, or is a part of.
pub(super) fn gguf_name(file: &str) -> &str {
    let whole = file.get(..file.len().saturating_sub(".gguf".len())).unwrap_or(file);
    PartName::parse(file, ".gguf").map_or(whole, |part| part.stem)
}

/// One model from GGUF `files`: a header with the metadata of the first part and the tensors of all, and the files in
/// the order of their parts.
pub(super) async fn open_gguf(files: &[&Rc<dyn ByteSource>]) -> Result<(Gguf, Sources)> {
    let mut parts = vec![];
    for &source in files {
        let header = gguf::read_header(source).await?;
        let count = header.count("split.count")?.unwrap_or(1).max(1);
        let number = header.count("split.no")?.unwrap_or(0);
        if number >= count {
            return Err(bad_file(source.name(), format!("metadata 'split.no' is {number} of {count} parts")));
        }
        parts.push((number, count, header, source.clone()));
    }
    let count = parts[0].1;
    if let Some((.., other)) = parts.iter().skip(1).find(|part| count == 1 || part.1 != count) {
        let message =
            format!("is a second model beside {}: choose one .gguf file, or all parts of one", files[0].name());
        return Err(bad_file(other.name(), message));
    }
    parts.sort_by_key(|part| part.0);
    if let Some([first, second]) = parts.array_windows().find(|[first, second]| first.0 == second.0) {
        let message = format!("is part {} of {count}, as {} is: choose one", second.0 + 1, first.3.name());
        return Err(bad_file(second.3.name(), message));
    }
    // Ends where the parts do, whatever number of them the file claims.
    let missing = (0..count).find(|&number| parts.get(number as usize).is_none_or(|part| part.0 != number));
    if let Some(missing) = missing {
        let (number, .., present) = &parts[0];
        let is = format!("{} is part {} of {count}", file_name(present), number + 1);
        return Err(match PartName::parse(present.name(), ".gguf").filter(|name| name.count == count) {
            Some(name) => bad_file(&name.of(missing + 1), format!("is missing: {is}")),
            None => bad_file(present.name(), format!("part {} is missing: {is}", missing + 1)),
        });
    }
    let mut parts = parts.into_iter().map(|(.., header, source)| (header, source));
    let (mut whole, first) = parts.next().expect("a model has a file");
    let mut sources = vec![first];
    for (header, source) in parts {
        let file = sources.len();
        whole.tensors.extend(header.tensors.into_iter().map(|entry| gguf::Entry { file, ..entry }));
        sources.push(source);
    }
    let mut seen = BTreeMap::new();
    for tensor in &whole.tensors {
        if let Some(first) = seen.insert(&tensor.name, tensor.file) {
            let message = format!("tensor '{}' is there already in {}", tensor.name, sources[first].name());
            return Err(bad_file(sources[tensor.file].name(), message));
        }
    }
    match whole.count("split.tensors.count")? {
        Some(claimed) if count > 1 && claimed as usize != whole.tensors.len() => {
            let message = format!(
                "its parts have {} tensors, metadata 'split.tensors.count' is {claimed}: they are not of one model",
                whole.tensors.len()
            );
            Err(bad_file(sources[0].name(), message))
        }
        _ => Ok((whole, sources)),
    }
}

#[derive(Deserialize)]
struct Index {
    /// Tensor to file.
    weight_map: BTreeMap<String, String>,
}

/// The weights of a Hugging Face folder: their tensors, the files these are in, and the name to blame where a tensor is
/// in none. `model.safetensors` where there is one, else the shards that the index names, else those that name each
/// other.
pub(super) async fn open_safetensors(files: &[Rc<dyn ByteSource>]) -> Result<(Vec<Tensor>, Sources, String)> {
    let mut index = BTreeMap::new();
    let (names, blamed) = if let Some(whole) = find(files, "model.safetensors")? {
        (vec!["model.safetensors".to_owned()], whole.name())
    } else if let Some(source) = find(files, INDEX)? {
        let text = read_all(source, MAX_TEXT_BYTES).await?;
        let read: Index = serde_json::from_slice(&text).map_err(|error| bad_file(source.name(), error.to_string()))?;
        index = read.weight_map;
        let mut names: Vec<String> = index.values().cloned().collect();
        names.sort_unstable();
        names.dedup();
        (names, source.name())
    } else {
        let shard = |file| PartName::parse(file_name(file), ".safetensors").map(|part| (file, part));
        let Some((first, part)) = files.iter().find_map(shard) else { return Err(no_weights(files)) };
        ((1..=part.count).map(|number| part.of(number)).collect(), first.name())
    };

    let (mut tensors, mut sources) = (BTreeMap::<String, Tensor>::new(), Sources::new());
    for name in &names {
        let missing = || bad_file(name, format!("is missing: {blamed} goes with it"));
        let source = find(files, name)?.ok_or_else(missing)?;
        for entry in safetensors::read_header(source).await? {
            let safetensors::Entry { name, dtype, shape, offset } = entry;
            let (stored, file, transposed, plus_one) = (dtype, sources.len(), false, false);
            let tensor = Tensor { name, dtype, stored, shape, file, offset, row_group: 1, transposed, plus_one };
            if let Some(first) = tensors.insert(tensor.name.clone(), tensor.clone()) {
                let message = format!("tensor '{}' is there already in {}", first.name, sources[first.file].name());
                return Err(bad_file(source.name(), message));
            }
        }
        sources.push(source.clone());
    }
    for (tensor, file) in &index {
        if tensors.get(tensor).is_none_or(|tensor| names.get(tensor.file) != Some(file)) {
            return Err(bad_file(file, format!("the tensor '{tensor}' is missing, which {INDEX} says is here")));
        }
    }
    Ok((tensors.into_values().collect(), sources, blamed.to_owned()))
}

/// Says which kind of weights there is instead of safetensors.
fn no_weights(files: &[Rc<dyn ByteSource>]) -> Error {
    let pickle = files.iter().map(file_name).find(|name| name.ends_with(".bin") || name.ends_with(".pth"));
    match pickle {
        Some(name) => Error::Unsupported {
            file: name.to_owned(),
            field: "its kind of weights".to_owned(),
            message: "it is a pickle, which can run code; save the model as model.safetensors".to_owned(),
        },
        None => bad_file("model.safetensors", "is missing"),
    }
}
