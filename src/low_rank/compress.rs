//! The nearest adapter of a smaller rank: truncated singular values.

use serde::Deserialize;

use super::{NewPair, Rebuilt, Svd, pairs, rebuild, spectrum::kept};
use crate::io::AdapterFile;
use crate::{Error, Result};

/// How small an adapter is to become. Exactly one of the two is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CompressOptions {
    /// The largest rank of a module.
    pub r: Option<usize>,
    /// The share of each module's ‖ΔW‖² that is kept at the least, by as few directions as will do: above 0, up to 1.
    pub keep: Option<f64>,
}

enum Target {
    Rank(usize),
    Share(f64),
}

impl CompressOptions {
    fn target(&self) -> Result<Target> {
        let refuse = |name: &str, value: String, allowed: &str| {
            Err(Error::BadSetting { name: name.into(), value, allowed: allowed.into() })
        };
        match (self.r, self.keep) {
            (Some(0), None) => refuse("r", "0".into(), "1 or more"),
            (Some(r), None) => Ok(Target::Rank(r)),
            (None, Some(keep)) if keep > 0.0 && keep <= 1.0 => Ok(Target::Share(keep)),
            (None, Some(keep)) => refuse("keep", keep.to_string(), "above 0, up to 1"),
            (Some(_), Some(_)) => refuse("keep", "given beside r".into(), "one of the two"),
            (None, None) => refuse("r", "not given".into(), "a rank, or a share to keep"),
        }
    }
}

impl Target {
    /// One at the least, as peft knows no rank of 0.
    fn rank(&self, svd: &Svd) -> usize {
        let all = svd.singular_values.len();
        match *self {
            Self::Rank(r) => r.min(all),
            Self::Share(keep) => {
                let norm = svd.norm();
                (1..all).find(|&k| kept(svd.dropped(k), norm) >= keep).unwrap_or(all)
            }
        }
    }
}

/// The adapter of smaller rank whose every ΔW is as near as can be: U √σ and √σ Vᵀ of the largest singular values, so
/// that B and A are alike in size. Each module keeps its scaling: alpha falls with the rank. The error of a module is
/// the root of the sum of the squares of the singular values left out, and no matrix of that rank has a smaller one
/// (Eckart & Young 1936).
pub fn compress(file: &AdapterFile, options: CompressOptions) -> Result<Rebuilt> {
    let target = options.target()?;
    let mut modules = vec![];
    for pair in pairs(file)? {
        let svd = pair.product().svd()?;
        let r = target.rank(&svd);
        let (name, product) = (pair.name.to_owned(), svd.truncated(r));
        // A scaling of 0 or less cannot be trained with; its sign and size go into the factors.
        let scaling = if pair.scaling > 0.0 { pair.scaling } else { 1.0 };
        modules.push(NewPair { name, product, scaling, error: svd.dropped(r), norm: svd.norm() });
    }
    rebuild(file.config.clone(), modules)
}
