//! Rates of products with a frozen weight.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::median;
use crate::gpu::{Buffer, Gpu, Plan, Recording, Rows, Step, Variant};
use crate::io::DType;
use crate::kernels::Matrix;
use crate::kernels::matmul::{Store, matmul, matmul_transposed};
use crate::kernels::weight::{Weight, WeightFormat};
use crate::{Error, Result};

/// Every value of `x` and of a plain weight: exact in all float types.
const VALUE: f32 = 0.0625;
/// f16 scales of 0.065, and 44 where scales are bytes.
const SCALES: [u8; 4] = [0x2c; 4];
/// How long one submit may keep the GPU busy, as in training.
const SLICE_SECONDS: f64 = 0.1;
/// How long the products of one timing take together, for the wait for the answer not to count.
const TIMED_SECONDS: f64 = 0.05;
const ROUNDS: usize = 3;

/// SmolLM2's weights, `[out, in]`: o, k and v, q with k and v, gate and up, gate with up, down.
const SHAPES: [(usize, usize); 6] = [(576, 576), (192, 576), (960, 576), (1536, 576), (3072, 576), (576, 1536)];
/// Its head, for which there are at most [`HEAD_TOKENS`] rows at a time.
const HEAD: (usize, usize) = (49152, 576);
const HEAD_TOKENS: usize = 128;
/// Where all types are measured: 1536 is a whole number of every type's blocks.
const ALL_TYPES_AT: (usize, usize) = (576, 1536);
/// Where all variants are measured, even on software, where the others are slow.
const ALL_VARIANTS_AT: (usize, usize, DType) = (1536, 576, DType::Q4_1);

/// A product and how fast it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProductRate {
    /// Rows of the weight.
    pub out: usize,
    /// Its columns.
    #[serde(rename = "in")]
    pub inputs: usize,
    /// Its type, as GGUF spells it.
    pub dtype: String,
    /// `dx = dy W`, else `y = x Wᵀ`.
    pub transposed: bool,
    /// Rows of x or dy.
    pub tokens: usize,
    /// Of the variant in use.
    pub gflops: f64,
    /// Of every variant that was measured, that one too.
    pub variants: BTreeMap<&'static str, f64>,
}

impl ProductRate {
    /// Of the fastest variant.
    pub fn best_gflops(&self) -> f64 {
        self.variants.values().copied().fold(0.0, f64::max)
    }
}

/// Measures SmolLM2's products of `tokens` rows both ways in the types that it comes in, and one of them in every other
/// type. Rates are medians of rounds over all of them, as machines have moments in which everything is twice as fast:
/// none can make a product the best alone. `say` is told each.
pub(super) async fn product_rates(gpu: &Gpu, tokens: usize, say: &mut dyn FnMut(String)) -> Result<Vec<ProductRate>> {
    let in_use = gpu.variant();
    let products = products(gpu, tokens);
    // A first round says how often each is to be repeated.
    let mut rounds = vec![(1, vec![]); products.len()];
    for first in [true].into_iter().chain([false; ROUNDS]) {
        for (product, (repeats, seconds)) in products.iter().zip(&mut rounds) {
            gpu.set_variant(product.variant);
            let taken = product.seconds(gpu, *repeats).await;
            gpu.set_variant(in_use);
            match first {
                true => *repeats = (TIMED_SECONDS / taken?).clamp(1.0, 256.0) as usize,
                false => seconds.push(taken?),
            }
        }
    }
    let rates = products.iter().zip(rounds).map(|(product, (_, seconds))| product.flops() / median(seconds) / 1e9);
    let measured: Vec<_> = products.iter().copied().zip(rates).collect();
    // Variants of one product lie beside each other.
    let same = |(a, _): &(Product, f64), (b, _): &(Product, f64)| Product { variant: b.variant, ..*a } == *b;
    let rates = measured.chunk_by(same).map(|variants| {
        let Product { shape: (out, inputs), tokens, dtype, transposed, .. } = variants[0].0;
        let variants: BTreeMap<_, _> = variants.iter().map(|(product, rate)| (product.variant.name(), *rate)).collect();
        let (dtype, gflops) = (dtype.to_string(), variants[in_use.name()]);
        ProductRate { out, inputs, dtype, transposed, tokens, gflops, variants }
    });
    let rates: Vec<_> = rates.collect();
    rates.iter().for_each(|rate| say(rate.to_string()));
    Ok(rates)
}

#[derive(Clone, Copy, PartialEq)]
struct Product {
    /// Of the weight, `(out, in)`.
    shape: (usize, usize),
    tokens: usize,
    dtype: DType,
    transposed: bool,
    variant: Variant,
}

/// All that are measured.
fn products(gpu: &Gpu, tokens: usize) -> Vec<Product> {
    let plain = [DType::Q4_1, DType::F16, DType::F32];
    let shapes = SHAPES.map(|shape| (shape, tokens)).into_iter().chain([(HEAD, tokens.min(HEAD_TOKENS))]);
    let others = DType::ALL.into_iter().filter(|dtype| !plain.contains(dtype));
    let weights = shapes.flat_map(|(shape, tokens)| plain.map(|dtype| (shape, tokens, dtype)));
    let weights = weights.chain(others.map(|dtype| (ALL_TYPES_AT, tokens, dtype)));
    let ways = weights.flat_map(|weight| [(weight, false), (weight, true)]);
    let variants = |(((out, inputs), tokens, dtype), transposed)| {
        let all = !gpu.info().software || (out, inputs, dtype) == ALL_VARIANTS_AT;
        let measured = move |variant: &Variant| gpu.info().has(*variant) && (all || *variant == gpu.variant());
        let product = move |variant| Product { shape: (out, inputs), tokens, dtype, transposed, variant };
        Variant::ALL.into_iter().filter(measured).map(product)
    };
    ways.flat_map(variants).collect()
}

impl Product {
    async fn seconds(&self, gpu: &Gpu, repeats: usize) -> Result<f64> {
        let Self { shape: (n, k), tokens, dtype, transposed, .. } = *self;
        matmul_seconds(gpu, dtype, tokens, n, k, transposed, repeats).await
    }

    fn flops(&self) -> f64 {
        2.0 * self.tokens as f64 * self.shape.0 as f64 * self.shape.1 as f64
    }
}

/// One line of the table.
impl fmt::Display for ProductRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { out, inputs, dtype, transposed, tokens, gflops, .. } = self;
        let way = if *transposed { "dx = dy W" } else { "y = x Wᵀ" };
        write!(f, "{out:>6} x {inputs:<5} {dtype:<5} {way:<10} {tokens:>6} {gflops:>8.1}")?;
        if self.variants.len() > 1 {
            write!(f, " {:>8.0}%  ", 100.0 * gflops / self.best_gflops())?;
            self.variants.iter().try_for_each(|(variant, gflops)| write!(f, " {variant} {gflops:.1}"))?;
        }
        Ok(())
    }
}

/// Seconds that one product of `tokens` rows with a weight `[n, k]` takes: `y = x Wᵀ`, or `dx = dy W` where
/// `transposed`. The mean of `repeats`, recorded one after the other in one plan and timed until the first bytes of the
/// result are back; the same ones have run before, so that nothing is compiled or first touched in that time. `n` and `k`
/// are multiples of eight, and of `dtype`'s block.
///
/// Errors when the device fails, and when the product comes out as none could.
pub async fn matmul_seconds(
    gpu: &Gpu,
    dtype: DType,
    tokens: usize,
    n: usize,
    k: usize,
    transposed: bool,
    repeats: usize,
) -> Result<f64> {
    let format = WeightFormat::of(dtype);
    let (value_bytes, scale_bytes) = format.row_bytes(k);
    let (x_width, y_width) = if transposed { (n, k) } else { (k, n) };
    let values = filled(gpu, "values", word(dtype), n as u64 * value_bytes)?;
    let scales = (scale_bytes > 0).then(|| filled(gpu, "scales", SCALES, n as u64 * scale_bytes)).transpose()?;
    let x = filled(gpu, "x", word(DType::F32), Matrix::size_bytes(tokens, x_width))?;
    let y = Buffer::storage(gpu, "y", Matrix::size_bytes(tokens, y_width))?;
    let uniform = Buffer::uniform(gpu, "step", size_of::<Step>() as u64)?;

    let mut rec = Recording::new(&uniform, tokens).with_variant(gpu.variant());
    let w = Weight {
        format,
        rows: n,
        cols: k,
        first_row: 0,
        values: rec.external(&values),
        scales: scales.as_ref().map(|scales| rec.external(scales)),
    };
    let x = Matrix { slice: rec.external(&x), width: x_width };
    let result = Matrix { slice: rec.external(&y), width: y_width };
    for _ in 0..repeats {
        let (rows, store) = (Rows::TOKENS, Store::Replace);
        match transposed {
            false => matmul(&mut rec, "product", rows, x, &w, None, None, result, store),
            true => matmul_transposed(&mut rec, "product", rows, x, &w, None, result, store),
        }
    }
    let plan = Plan::new(gpu, &rec, |_, _| ()).await?;
    let step = Step { n_tokens: tokens as u32, ..Default::default() };

    let replay = async || {
        let start = web_time::Instant::now();
        plan.replay(gpu, &step);
        let first = y.read_range(gpu, 0, 16).await?;
        check(dtype, x_width, bytemuck::pod_read_unaligned(&first[..4]))?;
        Ok::<f64, Error>(start.elapsed().as_secs_f64() / repeats as f64)
    };
    let cold = replay().await?;
    let flops = 2.0 * tokens as f64 * n as f64 * k as f64;
    plan.set_slice_flops((SLICE_SECONDS * flops / cold) as u64);
    let seconds = replay().await?;
    gpu.check()?;
    Ok(seconds)
}

/// Four bytes that repeated make a weight without zeros.
fn word(dtype: DType) -> [u8; 4] {
    match dtype {
        DType::F32 => VALUE.to_le_bytes(),
        DType::F16 => bytemuck::cast([half::f16::from_f32(VALUE); 2]),
        DType::BF16 => bytemuck::cast([half::bf16::from_f32(VALUE); 2]),
        _ => [0x11; 4],
    }
}

fn filled(gpu: &Gpu, label: &str, word: [u8; 4], size_bytes: u64) -> Result<Buffer> {
    let buffer = Buffer::storage(gpu, label, size_bytes)?;
    buffer.write(gpu, 0, &word.repeat((buffer.size_bytes() / 4) as usize));
    Ok(buffer)
}

/// A kernel that did not run leaves zeros; plain types have a sum known beforehand, exact in f32.
fn check(dtype: DType, terms: usize, found: f32) -> Result<()> {
    let good = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => found == terms as f32 * VALUE * VALUE,
        _ => found.is_finite() && found != 0.0,
    };
    let message = || format!("a product of {terms} terms came out as {found}");
    if good { Ok(()) } else { Err(Error::Gpu { message: message() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn every_type_both_ways() {
        let gpu = crate::kernels::testing::gpu().await;
        for (dtype, transposed) in DType::ALL.into_iter().flat_map(|dtype| [(dtype, false), (dtype, true)]) {
            let seconds = matmul_seconds(&gpu, dtype, 16, 72, 256, transposed, 2).await;
            assert!(seconds.as_ref().is_ok_and(|seconds| *seconds > 0.0), "{dtype}: {seconds:?}");
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    #[test]
    fn matmul_is_measured() {
        pollster::block_on(every_type_both_ways());
    }

    #[cfg(target_arch = "wasm32")]
    #[wasm_bindgen_test::wasm_bindgen_test]
    async fn matmul_is_measured() {
        every_type_both_ways().await;
    }
}
