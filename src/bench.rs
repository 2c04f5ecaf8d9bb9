//! What a device makes of SmolLM2: the rates of its products, of training steps, and of generation. `make bench` prints
//! them, natively and in a browser; `make bench-peers` compares [`matmul_seconds`] with what others reach.

mod decode;
mod product;
mod step;

pub use decode::DecodeRate;
pub use product::{ProductRate, matmul_seconds};
pub use step::StepRate;

use std::rc::Rc;

use serde::Serialize;

use crate::Result;
use crate::gpu::{DeviceInfo, DeviceOptions, Gpu};
use crate::io::{ByteSource, Checkpoint};
use crate::kernels::probe::{self, Choice};

/// Tokens of the training steps.
const STEP_TOKENS: [usize; 3] = [128, 512, 2048];

/// All that was measured on one device.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The device.
    pub device: DeviceInfo,
    /// How it computes products, and why so.
    pub variant: Choice,
    /// Products.
    pub products: Vec<ProductRate>,
    /// The fastest of them, whatever its shape, type, direction and variant: what steps are held against.
    pub best_gflops: f64,
    /// Training steps, by tokens, then by model.
    pub steps: Vec<StepRate>,
    /// Bytes read and written by a copy from buffer to buffer.
    pub copy_gigabytes_per_second: f64,
    /// Generation, by model.
    pub decode: Vec<DecodeRate>,
}

/// Measures products of `tokens` rows, then steps and generation of `models`, each the files of one. Where the "GPU" is a
/// program on the CPU, steps of more tokens than that are left out: they take minutes. `say` is told a line for each as it
/// is done.
pub async fn measure(models: &[Vec<Rc<dyn ByteSource>>], tokens: usize, say: &mut dyn FnMut(String)) -> Result<Report> {
    let gpu = Rc::new(Gpu::request(DeviceOptions::default()).await?);
    let variant = probe::choose(&gpu, None).await?;
    let device = gpu.info().clone();
    let mut checkpoints = vec![];
    for files in models {
        checkpoints.push(Checkpoint::open(files).await?);
    }
    // A browser tells wasm neither name nor driver.
    let adapter = format!("{} {}", device.name, device.driver);
    say(format!("{adapter} products {}: {}\n", variant.variant, variant.reason).trim_start().to_owned());

    say("     W         type  product    tokens  GFLOP/s  of best variant".into());
    let products = product::product_rates(&gpu, tokens, say).await?;
    let best_gflops = products.iter().map(ProductRate::best_gflops).fold(0.0, f64::max);
    say(format!("best{best_gflops:>43.1}\n"));

    say(step::HEADING.into());
    let mut steps: Vec<StepRate> = vec![];
    for tokens in STEP_TOKENS.into_iter().filter(|&step| !device.software || step <= tokens) {
        for checkpoint in &checkpoints {
            steps.push(step::step_rate(&gpu, checkpoint, tokens, best_gflops).await?);
            say(steps[steps.len() - 1].to_string());
        }
    }

    let copy_gigabytes_per_second = decode::copy_rate(&gpu).await?;
    say(format!("\na buffer copy reads and writes {copy_gigabytes_per_second:.1} GB/s"));
    let mut decode = vec![];
    for checkpoint in &checkpoints {
        decode.push(decode::decode_rate(&gpu, checkpoint, copy_gigabytes_per_second).await?);
        say(decode[decode.len() - 1].to_string());
    }
    Ok(Report { device, variant, products, best_gflops, steps, copy_gigabytes_per_second, decode })
}

/// The middle one of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
