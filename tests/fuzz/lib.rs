//! What the targets run.

mod bodies;
mod memory;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ThreadTime;

pub use bodies::*;

/// Of the processor, for one input. By the clock a busy machine would be at fault.
const MOST: Duration = Duration::from_secs(1);

/// Runs a body within its bounds of time and memory; says so whenever one took longer than all before.
pub fn bounded(body: Body, bytes: &[u8]) {
    static SLOWEST: AtomicU64 = AtomicU64::new(0);
    let start = ThreadTime::now();
    memory::within("the input", bytes.len(), || body(bytes));
    let took = start.elapsed();
    if SLOWEST.fetch_max(took.as_millis() as u64, Ordering::Relaxed) < took.as_millis() as u64 {
        eprintln!("slowest: {} ms", took.as_millis());
    }
    assert!(took < MOST, "one input took {took:?}");
}
