//! web-lora.
pub mod error;
pub mod gpu;
pub mod kernels;
pub use error::{Error, Result};
