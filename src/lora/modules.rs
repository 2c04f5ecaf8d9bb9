//! What of a model can be trained.

use std::ops::Deref;
use std::rc::Rc;

use super::vectors::{VectorGroup, VectorPart};
use crate::kernels::segments::Layout;

/// A linear that can be adapted.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleShape {
    /// Hugging Face's path, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Columns of its weight.
    pub in_features: usize,
    /// Rows of its weight.
    pub out_features: usize,
}

impl ModuleShape {
    /// The last part of its path, what `target_modules` names.
    pub fn kind(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// Linears that read the same matrix and are run as one, in the order of their columns.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleGroup {
    /// Its linears, of one width of input.
    pub modules: Vec<ModuleShape>,
    /// How their outputs lie.
    pub layout: Layout,
}

/// All of a model that can be trained: [`ModuleGroup`]s of linears, which is what it derefs to, and vectors.
#[derive(Debug)]
pub struct Modules {
    /// Linears, in the order of the model.
    pub groups: Vec<ModuleGroup>,
    /// Biases and norms, likewise.
    pub vectors: Vec<Rc<VectorGroup>>,
}

impl Deref for Modules {
    type Target = [ModuleGroup];

    fn deref(&self) -> &[ModuleGroup] {
        &self.groups
    }
}

impl Modules {
    /// Paths of the norms, which can be trained in full.
    pub(super) fn norms(&self) -> impl Iterator<Item = &str> {
        self.vectors.iter().filter(|group| group.of_norms).flat_map(|group| &group.parts).map(VectorPart::module)
    }

    /// What `modules_to_save` may name: the last parts of these paths, in the order of the model.
    pub fn norm_kinds(&self) -> Vec<&str> {
        let mut kinds = vec![];
        for kind in self.norms().filter_map(|path| path.rsplit('.').next()) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}
