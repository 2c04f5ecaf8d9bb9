//! Models: one file for each `model_type`, which is a recipe for the decoder they all are.

mod config;
mod decoder;
mod gemma3_text;
mod gpt2;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;

pub use config::{Config, RopeScaling, Rotary};

use crate::Result;
use crate::gpu::{Gpu, Recording, Slice};
use crate::io::Checkpoint;
use crate::kernels::Matrix;
use crate::layers::{BatchView, KvCache, Loader};
use crate::lora::{AdapterView, ModuleGroup};
use config::Fields;
use decoder::{Decoder, Recipe};
use serde_json::{Map, Value};

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
    let recipe = recipe(checkpoint.config_file(), checkpoint.config())?;
    let loader = Loader::new(gpu, checkpoint, progress);
    Ok(Box::new(Decoder::load(gpu, recipe, context_length, loader).await?))
}

/// What the fields of `file` ask for.
fn recipe(file: &str, config: &Map<String, Value>) -> Result<Recipe> {
    let fields = Fields { file, map: config };
    let recipe = match Config::model_type(file, config)? {
        "gemma3_text" => gemma3_text::recipe,
        "gpt2" => gpt2::recipe,
        "llama" => llama::recipe,
        "mistral" => mistral::recipe,
        "phi3" => phi3::recipe,
        "qwen2" => qwen2::recipe,
        "qwen3" => qwen3::recipe,
        other => {
            let message =
                format!("it is '{other}', supported are gemma3_text, gpt2, llama, mistral, phi3, qwen2 and qwen3");
            return Err(fields.unsupported("model_type", message));
        }
    };
    recipe(&fields)
}
