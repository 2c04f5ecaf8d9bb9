//! Examples: from the lines of a file to tokens, each marked as target or not. No GPU, no JavaScript.
//!
//! What is supervised is decided here, once, and shown to the user as it is.

mod dataset;
mod examples;
mod pack;
mod pair;
mod record;

pub use dataset::{Dataset, DatasetReport, Piece, Preview};
pub use examples::{Example, tokenize};
pub use pack::{Pack, pack};
pub use pair::Pair;
pub use record::{LineError, Record, Records, parse_jsonl};
