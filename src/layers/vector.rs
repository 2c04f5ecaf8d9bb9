//! Vectors of the base, biases and weights of norms, which an adapter may train as they are.

use std::rc::Rc;

use crate::gpu::{Buffer, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::column_sum::{Terms, column_sum};
use crate::lora::{AdapterView, VectorGroup};

/// A vector on the GPU, or several that kernels read as one.
pub struct Vector {
    base: Buffer,
    group: Rc<VectorGroup>,
}

impl Vector {
    /// One whose numbers are in `base`.
    pub(super) fn new(base: Buffer, group: VectorGroup) -> Self {
        Self { base, group: Rc::new(group) }
    }

    /// What an adapter is told of it.
    pub(crate) fn group(&self) -> &Rc<VectorGroup> {
        &self.group
    }

    fn name(&self) -> &str {
        &self.group.parts[0].name
    }

    /// What kernels are to read: the base's own, unless `adapter` trains it.
    pub fn slice(&self, rec: &mut Recording, adapter: &AdapterView) -> Slice {
        match adapter.vector(self.name()) {
            Some(trained) => trained.effective,
            None => rec.external(&self.base),
        }
    }

    /// True when `adapter` trains any of it.
    pub fn is_trained(&self, adapter: &AdapterView) -> bool {
        adapter.vector(self.name()).is_some()
    }

    /// Adds to its gradient, where it is trained, what the `terms` of `dy` come to over `rows`.
    pub fn backward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        label: &str,
        rows: Rows,
        dy: Matrix,
        terms: Terms,
    ) {
        let Some(trained) = adapter.vector(self.name()) else { return };
        let grads = trained.grads.expect("a backward pass has somewhere to put gradients");
        for &run in &trained.trained {
            column_sum(rec, label, rows, dy, terms, run, grads);
        }
    }
}
