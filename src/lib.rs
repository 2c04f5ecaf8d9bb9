//! web-lora.
pub mod data;
pub mod error;
pub mod gpu;
pub mod io;
pub mod kernels;
pub use error::{Error, Result};
