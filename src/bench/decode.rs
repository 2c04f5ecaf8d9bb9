//! Generation a token at a time, which reads every weight once a token: held against how fast memory can be copied.

use std::fmt;
use std::rc::Rc;

use serde::Serialize;
use web_time::Instant;

use super::median;
use super::step::Tuned;
use crate::Result;
use crate::generate::{GenerateOptions, Generator};
use crate::gpu::{Buffer, Gpu, Plan, Recording, Step};
use crate::io::{Checkpoint, Tensor};

const PROMPT_TOKENS: u32 = 16;
/// Tokens timed.
const TOKENS: usize = 32;
const POSITIONS: usize = 256;
/// Larger than caches, within every device's limits.
const COPY_BYTES: u64 = 128 << 20;
/// Copies in a row.
const COPIES: usize = 8;
/// Timings of which the median counts.
const TIMINGS: usize = 3;

/// How fast a model answers, its adapter on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeRate {
    /// The model's name.
    pub model: String,
    /// Tokens a second, the prompt's time left out.
    pub tokens_per_second: f64,
    /// Bytes of the weights in the file.
    pub weight_bytes: u64,
    /// The weights' bytes, once a token.
    pub gigabytes_per_second: f64,
    /// That over the bytes that a buffer copy reads and writes.
    pub of_copy: f64,
}

pub(super) async fn decode_rate(gpu: &Rc<Gpu>, checkpoint: &Checkpoint, copy: f64) -> Result<DecodeRate> {
    let tuned = Tuned::load(gpu, checkpoint, POSITIONS).await?;
    let generator = Generator::new(gpu.clone(), &tuned.model, Some(&tuned.adapter), POSITIONS).await?;
    let prompt: Vec<u32> = (100..100 + PROMPT_TOKENS).collect();
    let mut first = Instant::now();
    // The first answer pays for what drivers put off until then.
    for max_new_tokens in [4, TOKENS + 1] {
        let options = GenerateOptions { max_new_tokens, ..Default::default() };
        let mut told = 0;
        let on_token = |_| {
            if told == 0 {
                first = Instant::now();
            }
            told += 1;
            true
        };
        generator.generate(&prompt, options, &[], on_token).await?;
    }
    let tokens_per_second = TOKENS as f64 / first.elapsed().as_secs_f64();
    let weight_bytes: u64 = checkpoint.tensors().map(Tensor::size_bytes).sum();
    let gigabytes_per_second = weight_bytes as f64 * tokens_per_second / 1e9;
    let (model, of_copy) = (checkpoint.name().to_owned(), gigabytes_per_second / copy);
    Ok(DecodeRate { model, tokens_per_second, weight_bytes, gigabytes_per_second, of_copy })
}

/// Gigabytes that a copy reads and writes a second.
pub(super) async fn copy_rate(gpu: &Gpu) -> Result<f64> {
    let [from, to] = ["from", "to"].map(|label| Buffer::storage(gpu, label, COPY_BYTES));
    let (from, to) = (from?, to?);
    let uniform = Buffer::uniform(gpu, "step", size_of::<Step>() as u64)?;
    let mut rec = Recording::new(&uniform, 1);
    let slices = (rec.external(&from), rec.external(&to));
    (0..COPIES).for_each(|_| rec.copy(slices.0, slices.1));
    let plan = Plan::new(gpu, &rec, |_, _| ()).await?;
    let mut seconds = vec![];
    // One more than counts: the first touches the memory.
    for _ in 0..=TIMINGS {
        let start = Instant::now();
        plan.replay(gpu, &Step::default());
        to.read_range(gpu, 0, 16).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    gpu.check()?;
    Ok(2e-9 * (COPIES as u64 * COPY_BYTES) as f64 / median(seconds.split_off(1)))
}

impl fmt::Display for DecodeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, tokens_per_second, gigabytes_per_second, of_copy, .. } = self;
        write!(
            f,
            "{model:<28} generates {tokens_per_second:.1} tokens/s: {gigabytes_per_second:.2} GB/s of weights, "
        )?;
        write!(f, "{:.0}% of the copy", 100.0 * of_copy)
    }
}
