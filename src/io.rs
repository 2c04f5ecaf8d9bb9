//! Bytes in and bytes out: model files, tokenizers, adapters. No GPU, no JavaScript, no network.
//!
//! Files are untrusted. Every count in one is a claim, checked against the bytes that are left before memory is
//! reserved; what does not fit is an error that names the file and the place.

mod adapter;
mod chat_template;
mod checkpoint;
mod dtype;
mod encoder;
mod gguf;
mod gguf_adapter;
mod gguf_model;
mod lora_config;
mod mlx_adapter;
mod parts;
mod quantize;
mod safetensors;
mod source;
mod text_files;
mod tokenizer;
mod tokenizer_files;
mod tokenizer_gguf;
mod tokenizer_json;

pub use adapter::{AdapterFile, Matrix};
pub(crate) use adapter::{FactorPair, factor_pairs};
pub use chat_template::{ChatTemplate, Message};
pub use checkpoint::{Checkpoint, Tensor};
pub use dtype::{DType, dequantize, encode};
pub(crate) use dtype::{first_not_finite, half_at, iq4_xs_scale, k_pair, k_scale, q3_k_scale};
pub(crate) use lora_config::is_end;
pub use lora_config::{Bias, InitLoraWeights, LoraConfig, ModuleNames};
pub use quantize::{Quantization, QuantizationError, quantize};
#[cfg(not(target_arch = "wasm32"))]
pub use source::FileSource;
pub(crate) use source::past_the_end;
pub use source::{ByteSource, LocalBoxFuture, MemorySource};
pub use text_files::TokenizerFiles;
pub use tokenizer::{DecodeStream, Tokenizer};
