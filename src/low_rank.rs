//! What an adapter does to the weights it adapts, ΔW = scaling · B A, worked out in f64 from its factors alone: what it
//! costs, its singular values, the nearest adapter of a smaller rank, sums of several. No ΔW is ever formed: the
//! factors are as thin as the rank.
//!
//! Only what is nothing but A and B can be treated so; DoRA, and an adapter file with more in it, are refused.

mod combine;
mod compress;
mod cost;
mod spectrum;
mod svd;

pub use combine::{CombineHow, CombineOptions, combine};
pub use compress::{CompressOptions, compress};
pub use cost::{AdapterCost, ModuleCost};
pub use spectrum::{AdapterSpectrum, ModuleSpectrum, spectrum};

use nalgebra::DMatrix;
use serde::Serialize;

use crate::io::{AdapterFile, FactorPair, LoraConfig, Matrix, factor_pairs};
use crate::{Error, Result};
use svd::{Product, Svd};

/// A module's pair in a file.
struct Pair<'a> {
    /// Path of the module.
    name: &'a str,
    /// `[r, in]`.
    a: &'a Matrix,
    /// `[out, r]`.
    b: &'a Matrix,
    scaling: f64,
}

impl Pair<'_> {
    fn rank(&self) -> usize {
        self.a.rows
    }

    /// `[out, in]`.
    fn shape(&self) -> [usize; 2] {
        [self.b.rows, self.a.cols]
    }

    fn product(&self) -> Product {
        let mut b = to_f64(self.b);
        b *= self.scaling;
        Product { b, a: to_f64(self.a) }
    }
}

fn to_f64(matrix: &Matrix) -> DMatrix<f64> {
    DMatrix::from_row_iterator(matrix.rows, matrix.cols, matrix.data.iter().map(|&value| f64::from(value)))
}

fn to_f32(matrix: &DMatrix<f64>) -> Matrix {
    let data = matrix.row_iter().flat_map(|row| row.iter().map(|&value| value as f32).collect::<Vec<_>>()).collect();
    Matrix { rows: matrix.nrows(), cols: matrix.ncols(), data }
}

fn mismatch<T>(message: String) -> Result<T> {
    Err(Error::AdapterMismatch { message })
}

/// The pairs of a file in the order of their names.
fn pairs(file: &AdapterFile) -> Result<Vec<Pair<'_>>> {
    file.refuse_dora("with DoRA ΔW is no product of two factors")?;
    file.refuse_vectors("this is of products of two factors: merge the adapter into the model instead")?;
    let of = |FactorPair { name, a, b, scaling, .. }| Pair { name, a, b, scaling: f64::from(scaling) };
    Ok(factor_pairs(file)?.into_iter().map(of).collect())
}

/// An adapter made of others, and how far it is from what was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuilt {
    /// Not part of the report.
    #[serde(skip)]
    pub file: AdapterFile,
    /// By module.
    pub modules: Vec<RebuiltModule>,
    /// ‖ΔW − ΔW′‖ over all modules together (Frobenius norms here and below).
    pub error: f64,
    /// That over ‖ΔW‖; 0 where ΔW is.
    pub relative_error: f64,
    /// Numbers in it.
    pub parameters: usize,
}

/// One module of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuiltModule {
    /// Its path.
    pub name: String,
    /// Its rank now.
    pub r: usize,
    /// ‖ΔW − ΔW′‖.
    pub error: f64,
    /// That over ‖ΔW‖; 0 where ΔW is.
    pub relative_error: f64,
}

/// A module as it is to be.
struct NewPair {
    name: String,
    /// ΔW.
    product: Product,
    /// What its config is to multiply with, above 0: the factors are divided by it.
    scaling: f64,
    error: f64,
    /// Of what was asked for.
    norm: f64,
}

/// A file of these pairs with a config like `config`, which may differ in ranks and alphas alone.
fn rebuild(config: LoraConfig, pairs: Vec<NewPair>) -> Result<Rebuilt> {
    let config = with_ranks(config, &pairs);
    let share = |error: f64, norm: f64| if norm > 0.0 { error / norm } else { 0.0 };
    let total = |of: fn(&NewPair) -> f64| pairs.iter().map(|pair| of(pair).powi(2)).sum::<f64>().sqrt();
    let (error, norm) = (total(|pair| pair.error), total(|pair| pair.norm));
    let (mut tensors, mut modules, mut parameters) = (std::collections::BTreeMap::new(), vec![], 0);
    for NewPair { name, product: Product { b, a }, error, norm, .. } in pairs {
        let r = a.nrows();
        let Some((_, scaling)) = config.of_module(&name)?.filter(|(rank, _)| *rank == r) else {
            return mismatch(format!("no config can be written that gives '{name}' the rank {r}"));
        };
        parameters += r * (a.ncols() + b.nrows());
        let factor = 1.0 / f64::from(scaling).sqrt();
        tensors.insert(format!("{name}.lora_A"), to_f32(&(a * factor)));
        tensors.insert(format!("{name}.lora_B"), to_f32(&(b * factor)));
        modules.push(RebuiltModule { name, r, error, relative_error: share(error, norm) });
    }
    let relative_error = share(error, norm);
    Ok(Rebuilt { file: AdapterFile { config, tensors }, modules, error, relative_error, parameters })
}

/// The config that gives each module its rank and scaling: the commonest of both for all, patterns for the rest.
fn with_ranks(config: LoraConfig, pairs: &[NewPair]) -> LoraConfig {
    let settings: Vec<(usize, f32)> = pairs
        .iter()
        .map(|pair| {
            let r = pair.product.a.nrows();
            let divisor = if config.use_rslora { (r as f64).sqrt() } else { r as f64 };
            (r, (pair.scaling * divisor) as f32)
        })
        .collect();
    let count = |of: &dyn Fn(&(usize, f32)) -> bool| settings.iter().filter(|setting| of(setting)).count();
    let r = settings.iter().map(|&(r, _)| r).max_by_key(|&r| (count(&|other| other.0 == r), r));
    let alpha = settings.iter().map(|&(_, alpha)| alpha).max_by_key(|alpha| count(&|other| other.1 == *alpha));
    let (r, lora_alpha) = (r.unwrap_or(config.r), alpha.unwrap_or(config.lora_alpha));
    let named = || pairs.iter().map(|pair| pair.name.clone()).zip(&settings);
    LoraConfig {
        r,
        lora_alpha,
        rank_pattern: named().filter(|(_, own)| own.0 != r).map(|(name, own)| (name, own.0)).collect(),
        alpha_pattern: named().filter(|(_, own)| own.1 != lora_alpha).map(|(name, own)| (name, own.1)).collect(),
        ..config
    }
}
