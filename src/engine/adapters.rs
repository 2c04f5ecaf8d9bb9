//! Adapters beside the one in use: kept on the host, each under its name, and put in use without touching the base.
//! And what can be worked out of adapters as they are.

use std::collections::BTreeMap;

use super::{AdapterEntry, AdapterInfo, Engine, adapter_info, not_ready};
use crate::gpu::Gpu;
use crate::io::AdapterFile;
use crate::lora::Adapter;
use crate::low_rank::{AdapterSpectrum, CombineOptions, CompressOptions, Rebuilt, combine, compress, spectrum};
use crate::{Error, Result};

/// Adapters that are not in use. `None` is the name of the one that came without.
#[derive(Default)]
pub(super) struct Shelf {
    in_use: Option<String>,
    kept: BTreeMap<Option<String>, Kept>,
}

struct Kept {
    file: AdapterFile,
    info: AdapterInfo,
}

/// An adapter that is not in use, as another engine can have it.
#[derive(Debug, Clone)]
pub struct ShelvedAdapter {
    /// Its name; the one without came by no name.
    pub name: Option<String>,
    /// Steps that it was trained here.
    pub trained_steps: usize,
    /// What it is.
    pub file: AdapterFile,
}

/// Where an adapter is taken from.
#[derive(Debug, Clone, PartialEq)]
pub enum AdapterSource {
    /// The one in use, as it is now.
    InUse,
    /// One of the engine's, by its name.
    Named(String),
    /// PEFT's two files.
    Files {
        /// adapter_config.json
        config: Vec<u8>,
        /// adapter_model.safetensors
        weights: Vec<u8>,
    },
}

impl Engine {
    /// Keeps an adapter under a name that is free, ready to be put in use. What is in use stays so.
    pub async fn add_adapter(&mut self, name: &str, source: &AdapterSource) -> Result<AdapterInfo> {
        if name.is_empty() || self.has(name) {
            let value = if name.is_empty() { "empty" } else { name };
            return Err(Error::BadSetting { name: "name".into(), value: value.into(), allowed: "a new name".into() });
        }
        let (file, trained_steps) = self.copy(source).await?;
        self.shelve(ShelvedAdapter { name: Some(name.to_owned()), trained_steps, file })
    }

    /// The name of the adapter in use, and all that are not: what a training leaves as it was.
    pub fn shelf(&self) -> (Option<&str>, Vec<ShelvedAdapter>) {
        let shelved = |(name, kept): (&Option<String>, &Kept)| ShelvedAdapter {
            name: name.clone(),
            trained_steps: kept.info.trained_steps,
            file: kept.file.clone(),
        };
        (self.shelf.in_use.as_deref(), self.shelf.kept.iter().map(shelved).collect())
    }

    /// Has what was the shelf of another engine on the same model, in the place of this one's. The next adapter that is
    /// made or loaded is the one of the name in use.
    pub fn restore_shelf(&mut self, in_use: Option<String>, shelved: Vec<ShelvedAdapter>) -> Result<()> {
        self.shelf = Shelf { in_use, kept: BTreeMap::new() };
        for adapter in shelved {
            self.shelve(adapter)?;
        }
        Ok(())
    }

    /// What does not fit the model is refused now, not when it is wanted.
    fn shelve(&mut self, ShelvedAdapter { name, trained_steps, file }: ShelvedAdapter) -> Result<AdapterInfo> {
        let shapes = self.model()?.decoder.modules();
        let fits = Adapter::from_file(&Gpu::paper(self.device().clone()), &file, &shapes)?;
        let info = adapter_info(&fits, trained_steps);
        self.shelf.kept.insert(name, Kept { file, info: info.clone() });
        Ok(info)
    }

    /// Puts the adapter of this name in use: it answers, is trained, saved and replaced from here on, and the one before
    /// is kept as it is. Without a name, the one that came without; where there is none, the base answers alone.
    ///
    /// An adapter with the settings of the one before takes its place in the GPU's memory, and what is compiled stays;
    /// others are compiled for with their first answer. The base stays where it is either way.
    pub async fn use_adapter(&mut self, name: Option<&str>) -> Result<Option<AdapterInfo>> {
        let shapes = self.model()?.decoder.modules();
        let name = name.map(str::to_owned);
        if name == self.shelf.in_use {
            return Ok(self.adapter_info());
        }
        if let Some(name) = name.as_deref().filter(|name| !self.has(name)) {
            return Err(self.unknown(name));
        }
        self.end_training();
        let before = match self.adapter_info() {
            Some(info) => Some(Kept { file: self.copy(&AdapterSource::InUse).await?.0, info }),
            None => None,
        };
        let next = self.shelf.kept.get(&name);
        let refilled = match (&mut self.adapter, next) {
            (Some((adapter, _)), Some(next)) => adapter.refill(&self.gpu, &next.file)?,
            _ => false,
        };
        if !refilled {
            let adapter = next.map(|next| Adapter::from_file(&self.gpu, &next.file, &shapes)).transpose()?;
            self.gpu.check()?;
            self.adapter = adapter.map(|adapter| (adapter, 0));
            (self.evaluator, self.generator) = (None, None);
        }
        if let (Some((_, trained_steps)), Some(next)) = (&mut self.adapter, next) {
            *trained_steps = next.info.trained_steps;
        }
        self.shelf.kept.remove(&name);
        let left = std::mem::replace(&mut self.shelf.in_use, name);
        if let Some(before) = before {
            self.shelf.kept.insert(left, before);
        }
        Ok(self.adapter_info())
    }

    /// All adapters there are: the one without a name first, then by name.
    pub fn list_adapters(&self) -> Vec<AdapterEntry> {
        let entry = |name: &Option<String>, info, in_use| AdapterEntry { name: name.clone(), in_use, info };
        let kept = self.shelf.kept.iter().map(|(name, kept)| entry(name, kept.info.clone(), false));
        let mut entries: Vec<AdapterEntry> = kept.collect();
        if let Some(info) = self.adapter_info() {
            let at = entries.partition_point(|other| other.name < self.shelf.in_use);
            entries.insert(at, entry(&self.shelf.in_use, info, true));
        }
        entries
    }

    /// Forgets the adapter of this name. Where it is in use, the one without a name is from here on, or the base alone.
    pub async fn remove_adapter(&mut self, name: &str) -> Result<()> {
        if !self.has(name) {
            return Err(self.unknown(name));
        }
        if self.shelf.in_use.as_deref() == Some(name) {
            self.use_adapter(None).await?;
        }
        self.shelf.kept.remove(&Some(name.to_owned()));
        Ok(())
    }

    /// The singular values of every ΔW of an adapter. Of DoRA's, whose ΔW is no product of factors, there are none.
    pub async fn inspect_adapter(&self, source: &AdapterSource) -> Result<AdapterSpectrum> {
        spectrum(&self.copy(source).await?.0)
    }

    /// The nearest adapter of a smaller rank; the one it is made of stays as it is, in use or not.
    pub async fn compress_adapter(&self, source: &AdapterSource, options: CompressOptions) -> Result<Rebuilt> {
        compress(&self.copy(source).await?.0, options)
    }

    /// The sum of adapters, each times its weight; they stay as they are.
    pub async fn combine_adapters(&self, parts: &[(AdapterSource, f64)], options: CombineOptions) -> Result<Rebuilt> {
        let mut files = vec![];
        for (source, weight) in parts {
            files.push((self.copy(source).await?.0, *weight));
        }
        let parts: Vec<(&AdapterFile, f64)> = files.iter().map(|(file, weight)| (file, *weight)).collect();
        combine(&parts, options)
    }

    /// A copy of the source, and how many steps it was trained here.
    async fn copy(&self, source: &AdapterSource) -> Result<(AdapterFile, usize)> {
        match source {
            AdapterSource::Files { config, weights } => Ok((AdapterFile::parse(config, weights)?, 0)),
            AdapterSource::Named(name) if self.shelf.in_use.as_ref() != Some(name) => {
                let kept = self.shelf.kept.get(&Some(name.clone())).ok_or_else(|| self.unknown(name))?;
                Ok((kept.file.clone(), kept.info.trained_steps))
            }
            AdapterSource::InUse | AdapterSource::Named(_) => match &self.adapter {
                None => not_ready("make or load an adapter first"),
                Some((adapter, trained_steps)) => Ok((adapter.to_file(&self.gpu).await?, *trained_steps)),
            },
        }
    }

    fn has(&self, name: &str) -> bool {
        self.shelf.in_use.as_deref() == Some(name) || self.shelf.kept.contains_key(&Some(name.to_owned()))
    }

    fn unknown(&self, name: &str) -> Error {
        let names = self.shelf.kept.keys().chain([&self.shelf.in_use]).flatten();
        let names: Vec<&str> = names.map(String::as_str).collect();
        let allowed = if names.is_empty() { "no name, as none was added".into() } else { names.join(", ") };
        Error::BadSetting { name: "adapter".into(), value: name.into(), allowed }
    }
}
