//! web-lora.
pub mod data;
pub mod error;
pub mod gpu;
pub mod io;
pub use error::{Error, Result};
