//! How much of what an adapter learned lies in how many directions.

use serde::Serialize;

use super::pairs;
use crate::Result;
use crate::io::AdapterFile;

/// An adapter by its singular values.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterSpectrum {
    /// By module: layers in their order, and names in theirs.
    pub modules: Vec<ModuleSpectrum>,
    /// Numbers in the adapter.
    pub parameters: usize,
    /// Numbers of the weights that it adapts.
    pub base_parameters: usize,
    /// ‖ΔW‖ over all modules together.
    pub norm: f64,
}

/// ΔW of one module.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleSpectrum {
    /// Its path.
    pub name: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Its rank.
    pub r: usize,
    /// σ of ΔW = scaling · B A, the largest first: min(r, out, in) of them.
    pub singular_values: Vec<f64>,
    /// As many directions as would have this entropy if all were used alike: exp(−Σ p ln p), p = σ / Σ σ (Roy &
    /// Vetterli 2007). From 1 to r; 0 where ΔW is zero.
    pub effective_rank: f64,
    /// ‖ΔW‖² over σ₁², which unlike the rank does not care for what is small. From 1 to r; 0 where ΔW is zero.
    pub stable_rank: f64,
    /// The share of ‖ΔW‖² that is kept by the first one, two, … directions; the last is 1.
    pub kept: Vec<f64>,
    /// ‖ΔW‖, Frobenius.
    pub norm: f64,
}

/// The singular values of every module's ΔW, and what follows of them.
pub fn spectrum(file: &AdapterFile) -> Result<AdapterSpectrum> {
    let (mut modules, mut parameters, mut base_parameters) = (vec![], 0, 0);
    for pair in pairs(file)? {
        let (r, shape @ [out, width]) = (pair.rank(), pair.shape());
        let svd = pair.product().svd()?;
        let norm = svd.norm();
        parameters += r * (out + width);
        base_parameters += out * width;
        modules.push(ModuleSpectrum {
            name: pair.name.to_owned(),
            shape,
            r,
            effective_rank: effective_rank(&svd.singular_values),
            stable_rank: svd.singular_values.first().filter(|first| **first > 0.0).map_or(0.0, |s| (norm / s).powi(2)),
            kept: (1..=svd.singular_values.len()).map(|k| kept(svd.dropped(k), norm)).collect(),
            norm,
            singular_values: svd.singular_values,
        });
    }
    modules.sort_by_cached_key(|module| natural(&module.name));
    let norm = modules.iter().map(|module| module.norm.powi(2)).sum::<f64>().sqrt();
    Ok(AdapterSpectrum { modules, parameters, base_parameters, norm })
}

/// The share of `norm`² that is left without `dropped`².
pub(super) fn kept(dropped: f64, norm: f64) -> f64 {
    if norm > 0.0 { 1.0 - (dropped / norm).powi(2) } else { 1.0 }
}

fn effective_rank(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let shares = values.iter().map(|value| value / sum).filter(|share| *share > 0.0);
    if sum > 0.0 { (-shares.map(|share| share * share.ln()).sum::<f64>()).exp() } else { 0.0 }
}

/// A path in the order that puts layer 2 before layer 10.
fn natural(name: &str) -> Vec<(usize, String)> {
    name.split('.').map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_rank_counts_what_is_used() {
        assert_eq!(effective_rank(&[0.0, 0.0]), 0.0);
        assert_eq!(effective_rank(&[3.0, 0.0]), 1.0);
        assert!((effective_rank(&[2.0; 5]) - 5.0).abs() < 1e-12);
        // exp(-(3/4 ln 3/4 + 1/4 ln 1/4))
        assert!((effective_rank(&[3.0, 1.0]) - 1.7547653506033105).abs() < 1e-12);
    }

    #[test]
    fn layers_are_in_the_order_of_the_model() {
        let mut names = ["layers.10.q", "layers.2.v", "layers.2.q"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["layers.2.q", "layers.2.v", "layers.10.q"]);
    }
}
