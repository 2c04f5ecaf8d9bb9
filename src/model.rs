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
pub use decoder::{Decoder, PassExtras};

use serde_json::{Map, Value};

use crate::Result;
use crate::gpu::Gpu;
use crate::io::Checkpoint;
use crate::layers::Loader;
use config::Fields;
use decoder::Recipe;

/// Streams a model to the GPU. It will run at up to `context_length` positions, or as many as it was made for.
/// `progress` is told (bytes loaded, bytes in all); false stops.
pub async fn load(
    gpu: &Gpu,
    checkpoint: &Checkpoint,
    context_length: usize,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Decoder> {
    let recipe = recipe(checkpoint.config_file(), checkpoint.config())?;
    let loader = Loader::new(gpu, checkpoint, progress);
    Decoder::load(gpu, recipe, context_length, loader).await
}

/// Ends of the names of tensors that the files may carry and the model does not have: copies, and tables made of the config.
pub fn unused_tensors(checkpoint: &Checkpoint) -> Result<Vec<&'static str>> {
    Ok(recipe(checkpoint.config_file(), checkpoint.config())?.unused_tensors())
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
