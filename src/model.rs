//! Models: one file for each `model_type`, forward and backward as a list of layer calls.

mod config;
mod llama;

pub use config::{Config, RopeScaling};

use crate::gpu::{Gpu, Recording, Slice};
use crate::io::Checkpoint;
use crate::kernels::Matrix;
use crate::layers::{BatchView, KvCache, Loader};
use crate::lora::{AdapterView, ModuleGroup};
use crate::{Error, Result};

/// What every architecture can record.
pub trait Architecture {
    /// Its sizes.
    fn config(&self) -> &Config;

    /// Every linear that can be adapted, in the order of the model, with those that are run as one together.
    fn modules(&self) -> Vec<ModuleGroup>;

    /// Positions it can run at, as loaded.
    fn context_length(&self) -> usize;

    /// The logits of the rows that have a target, into `logits` `[max_targets, vocab_size]`.
    fn infer(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        cache: Option<&KvCache>,
        logits: Matrix,
    );

    /// Adds the pass's loss to `metrics[0]` and its gradients to the adapter's. The first `recompute` of its
    /// [`Architecture::n_recomputable`] parts are computed again by the backward pass rather than kept for it.
    fn train(&self, rec: &mut Recording, batch: &BatchView, adapter: &AdapterView, recompute: usize, metrics: Slice);

    /// Parts whose activations can be given up, in the order in which it costs least: the largest first, and of these
    /// the lowest layers', which the backward pass reaches when others' have gone.
    fn n_recomputable(&self) -> usize;
}

/// Streams a model to the GPU. It will run at up to `context_length` positions, or as many as it was made for.
/// `progress` is told (bytes loaded, bytes in all); false stops.
pub async fn load(
    gpu: &Gpu,
    checkpoint: &Checkpoint,
    context_length: usize,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Box<dyn Architecture>> {
    let file = checkpoint.config_file();
    // First of all, so that another architecture is not blamed for lacking llama's fields.
    match Config::model_type(file, checkpoint.config())? {
        "llama" => {
            let config = Config::parse(file, checkpoint.config())?;
            let context_length = context_length.min(config.max_position_embeddings);
            let loader = Loader::new(gpu, checkpoint, progress);
            Ok(Box::new(llama::Llama::load(gpu, config, context_length, loader).await?))
        }
        other => Err(Error::Unsupported {
            file: file.to_owned(),
            field: "model_type".into(),
            message: format!("it is '{other}', supported is llama"),
        }),
    }
}
