//! Measurements that other programs are compared by.

use crate::gpu::{Buffer, Gpu, Plan, Recording, Rows, Step};
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
    let product = if transposed { matmul_transposed } else { matmul };
    for _ in 0..repeats {
        product(&mut rec, "product", Rows::TOKENS, x, &w, None, result, Store::Replace);
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
