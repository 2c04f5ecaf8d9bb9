//! Examples: from the lines of a file to tokens, each marked as target or not. No GPU, no JavaScript.
//!
//! What is supervised is decided here, once, and shown to the user as it is.

mod dataset;
mod examples;
mod format;
mod pack;
mod pair;
mod read;
mod record;
mod rows;
mod shape;
mod split;
mod windows;

pub use dataset::{Bin, Dataset, DatasetReport, FileReport, Piece, Preview};
pub use examples::{Example, tokenize};
pub use format::Format;
pub use pack::{Pack, pack};
pub use pair::Pair;
pub use read::{DataFile, DataSummary, inspect};
pub use record::{LineError, Record, Records, parse_jsonl};
pub use shape::{DataMapping, Shape};
