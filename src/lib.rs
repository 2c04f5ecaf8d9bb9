//! web-lora.
pub mod data;
pub mod engine;
pub mod error;
pub mod generate;
pub mod gpu;
pub mod io;
pub mod kernels;
pub mod layers;
pub mod lora;
pub mod model;
pub mod train;
#[cfg(target_arch = "wasm32")]
pub mod web;
pub use error::{Error, Result};
