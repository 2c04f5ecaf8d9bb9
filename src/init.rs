//! A fresh adapter for a model. Most begin with random numbers; those of PiSSA and OLoRA begin with what the model's
//! weights are made of, for which these are read back from the GPU, whatever their format, a module at a time. DoRA's
//! magnitudes begin as the norms of their rows.

mod factors;

use nalgebra::DMatrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::Result;
use crate::gpu::{Buffer, Gpu, Plan, Step};
use crate::io::{InitLoraWeights, LoraConfig, Matrix as HostMatrix};
use crate::kernels::embedding::embedding;
use crate::kernels::{Matrix, Token, stride};
use crate::layers::{Batch, Linear};
use crate::lora::{Adapter, InitialFactors};
use crate::model::Decoder;
use crate::train::MAX_TOKENS;
use factors::Factors;

/// Bytes of a weight read back at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// A fresh adapter of `model`, the same for the same seed.
///
/// Errs as [`Adapter::new`] does, before anything takes long. On paper it only takes its memory.
pub async fn adapter(gpu: &Gpu, model: &Decoder, config: LoraConfig, seed: u64) -> Result<Adapter> {
    let adapter = Adapter::new(gpu, config, &model.modules(), seed)?;
    if gpu.is_paper() {
        return Ok(adapter);
    }
    if adapter.config.init_lora_weights.is_of_weight() {
        set_factors(gpu, model, &adapter, seed).await?;
    }
    if adapter.config.use_dora {
        set_magnitudes(gpu, model, &adapter).await?;
    }
    Ok(adapter)
}

/// Begins with factors made of the weights.
async fn set_factors(gpu: &Gpu, model: &Decoder, adapter: &Adapter, seed: u64) -> Result<()> {
    let mut initial = InitialFactors::new();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for linear in model.linears() {
        for (index, module) in linear.modules.iter().enumerate() {
            let Some((r, scaling)) = adapter.config.of_module(&module.name)? else { continue };
            let weight = read_weight(gpu, linear, index).await?;
            let Factors { a, b } = match adapter.config.init_lora_weights {
                InitLoraWeights::PissaNiter(rounds) => {
                    factors::pissa_niter(&weight, r, scaling.into(), rounds, &mut rng)
                }
                InitLoraWeights::Olora => factors::olora(&weight, r),
                _ => factors::pissa(&weight, r, scaling.into()),
            };
            initial.insert(format!("{}.lora_A", module.name), row_major(&a));
            initial.insert(format!("{}.lora_B", module.name), row_major(&b));
        }
    }
    adapter.set_initial(gpu, &initial);
    Ok(())
}

/// Begins with the norms of the weights' rows, whatever they are with the factors there are.
async fn set_magnitudes(gpu: &Gpu, model: &Decoder, adapter: &Adapter) -> Result<()> {
    let (mut rec, _) = Batch::new(gpu, 1, 1)?.recording();
    let view = adapter.view(&mut rec, None);
    model.linears().for_each(|linear| linear.begin_magnitude(&mut rec, &view));
    let step = Step { n_tokens: 1, strength: 1.0, ..Default::default() };
    Plan::new(gpu, &rec, |_, _| ()).await?.replay(gpu, &step);
    gpu.settle().await
}

fn row_major(matrix: &DMatrix<f64>) -> HostMatrix {
    let data = matrix.transpose().iter().map(|&value| value as f32).collect();
    HostMatrix { rows: matrix.nrows(), cols: matrix.ncols(), data }
}

/// The weight of module `index` of a linear, `[out, in]`: its rows looked up as those of an embedding table are.
async fn read_weight(gpu: &Gpu, linear: &Linear, index: usize) -> Result<DMatrix<f64>> {
    let widths: Vec<usize> = linear.modules.iter().map(|module| module.out_features).collect();
    let (rows, cols) = (widths[index], linear.weight.cols());
    let chunk = rows.min((CHUNK_BYTES / (4 * stride(cols))).clamp(16, MAX_TOKENS));
    let batch = Batch::new(gpu, chunk, 1)?;
    let out = Buffer::storage(gpu, "weight", Matrix::size_bytes(chunk, cols))?;
    let (mut rec, view) = batch.recording();
    let y = Matrix { slice: rec.external(&out), width: cols };
    for weight in linear.weight.weights(&mut rec) {
        embedding(&mut rec, "weight", view.tokens, &weight, 1.0, y);
    }
    let plan = Plan::new(gpu, &rec, |_, _| ()).await?;
    let mut weight = DMatrix::zeros(rows, cols);
    for first in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - first);
        let row_of = |row: usize| linear.layout.column(&widths, index, first + row) as u32;
        let tokens: Vec<Token> = (0..n).map(|row| Token { id: row_of(row), ..Default::default() }).collect();
        batch.write(gpu, &tokens, &[]);
        plan.replay(gpu, &Step { n_tokens: n as u32, ..Default::default() });
        let bytes = out.read_range(gpu, 0, (n * stride(cols) * 4) as u64).await?;
        let values: &[f32] = bytemuck::cast_slice(&bytes);
        for (row, values) in values.chunks(stride(cols)).enumerate() {
            (0..cols).for_each(|col| weight[(first + row, col)] = f64::from(values[col]));
        }
    }
    gpu.check()?;
    Ok(weight)
}
