//! One adapter out of several, as peft's `add_weighted_adapter` makes it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{NewPair, Pair, Product, Rebuilt, mismatch, pairs, rebuild};
use crate::io::{AdapterFile, LoraConfig, ModuleNames};
use crate::{Error, Result};

/// How the sum Σ wᵢ ΔWᵢ becomes one pair of factors: peft's `combination_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CombineHow {
    /// Exactly: A is all `wᵢ scalingᵢ Aᵢ` one below the other, B all Bᵢ side by side. Ranks add up.
    #[default]
    Cat,
    /// The nearest of a rank, by singular values.
    Svd,
    /// A is `Σ ±√|wᵢ scalingᵢ| Aᵢ`, B `Σ √|wᵢ scalingᵢ| Bᵢ`: of the same rank, and a rough approximation, as every B
    /// then works on every A.
    Linear,
}

/// How adapters are combined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CombineOptions {
    /// See [`CombineHow`].
    pub how: CombineHow,
    /// Largest rank of a module, for `svd` alone; the largest there is among the adapters where not given.
    pub r: Option<usize>,
}

/// The adapter that does what `parts` do together, each as much as its weight says (which may be negative). A module
/// that some do not adapt gets what the others have for it. Scaling is 1: alpha is the rank.
///
/// The error of a module is the distance to the sum, ‖Σ wᵢ ΔWᵢ − ΔW‖.
pub fn combine(parts: &[(&AdapterFile, f64)], options: CombineOptions) -> Result<Rebuilt> {
    let refuse = |name: &str, value: String, allowed: &str| {
        Err(Error::BadSetting { name: name.into(), value, allowed: allowed.into() })
    };
    if parts.is_empty() {
        return refuse("adapters", "none".into(), "one or more");
    }
    if let Some((_, weight)) = parts.iter().find(|(_, weight)| !weight.is_finite()) {
        return refuse("weight", weight.to_string(), "a finite number");
    }
    if options.r == Some(0) || (options.r.is_some() && options.how != CombineHow::Svd) {
        let value = options.r.unwrap_or_default().to_string();
        return refuse("r", value, "1 or more, and only with how 'svd': the rank of the others is not open");
    }
    let mut by_module: BTreeMap<&str, Vec<(Pair, f64)>> = BTreeMap::new();
    for &(file, weight) in parts {
        for pair in pairs(file)? {
            by_module.entry(pair.name).or_default().push((pair, weight));
        }
    }
    let largest = by_module.values().flatten().map(|(pair, _)| pair.rank()).max().unwrap_or(1);
    let mut modules = vec![];
    for (name, own) in by_module {
        let [first, ..] = &own[..] else { continue };
        if let Some((other, _)) = own.iter().find(|(pair, _)| pair.shape() != first.0.shape()) {
            let ([out, width], [other_out, other_width]) = (first.0.shape(), other.shape());
            return mismatch(format!("'{name}' is {out} x {width} in one, {other_out} x {other_width} in another"));
        }
        let terms = own.iter().map(|(pair, weight)| pair.weighted(*weight)).collect::<Vec<_>>();
        let sum = Product::sum(&terms);
        let (product, error, norm) = match options.how {
            CombineHow::Cat => {
                let norm = sum.norm();
                (sum, 0.0, norm)
            }
            CombineHow::Svd => {
                let svd = sum.svd()?;
                let r = options.r.unwrap_or(largest).min(svd.singular_values.len());
                (svd.truncated(r), svd.dropped(r), svd.norm())
            }
            CombineHow::Linear => {
                if let Some((other, _)) = own.iter().find(|(pair, _)| pair.rank() != first.0.rank()) {
                    let value = format!("'linear' for ranks {} and {} of '{name}'", first.0.rank(), other.rank());
                    return refuse("how", value, "'cat' or 'svd' where ranks differ");
                }
                let product = linear(&own);
                let norm = sum.norm();
                let minus = Product { b: -&product.b, a: product.a.clone() };
                (product, Product::sum(&[sum, minus]).norm(), norm)
            }
        };
        modules.push(NewPair { name: name.to_owned(), product, scaling: 1.0, error, norm });
    }
    let configs: Vec<&LoraConfig> = parts.iter().map(|(file, _)| &file.config).collect();
    rebuild(together(&configs, &modules), modules)
}

impl Pair<'_> {
    /// `weight · scaling · B A` with the numbers in A, as peft has it.
    fn weighted(&self, weight: f64) -> Product {
        Product { b: super::to_f64(self.b), a: super::to_f64(self.a) * (weight * self.scaling) }
    }
}

fn linear(own: &[(Pair, f64)]) -> Product {
    let root = |pair: &Pair, weight: f64| (weight * pair.scaling).abs().sqrt();
    let b = own.iter().map(|(pair, weight)| super::to_f64(pair.b) * root(pair, *weight)).sum();
    let a =
        own.iter().map(|(pair, weight)| super::to_f64(pair.a) * root(pair, *weight).copysign(weight * pair.scaling));
    Product { b, a: a.sum() }
}

/// A config of all these modules, of the first's base model: its names where all agree, theirs together where they are
/// plain, and else every path.
fn together(configs: &[&LoraConfig], modules: &[NewPair]) -> LoraConfig {
    let first = LoraConfig { use_rslora: false, ..configs[0].clone() };
    let choice = |config: &LoraConfig| {
        (config.target_modules.clone(), config.exclude_modules.clone(), config.layers_to_transform.clone())
    };
    if configs.iter().all(|config| choice(config) == choice(&first)) {
        return first;
    }
    let plain = |config: &&LoraConfig| match &config.target_modules {
        ModuleNames::Names(names) if config.exclude_modules.is_none() && config.layers_to_transform.is_none() => {
            Some(names.clone())
        }
        _ => None,
    };
    let names: Option<Vec<Vec<String>>> = configs.iter().map(plain).collect();
    let names = names.map(|names| names.concat());
    let names = names.unwrap_or_else(|| modules.iter().map(|module| module.name.clone()).collect());
    let mut config = LoraConfig {
        target_modules: ModuleNames::Names(names),
        exclude_modules: None,
        layers_to_transform: None,
        ..first
    };
    config.sort_target_modules();
    config
}
