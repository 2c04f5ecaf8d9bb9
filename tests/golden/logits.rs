//! Logits of a whole pass, which the engine itself never holds.

use web_lora::Result;
use web_lora::gpu::{Buffer, Gpu, Plan, Step};
use web_lora::kernels::{Matrix, stride};
use web_lora::layers::Batch;
use web_lora::lora::{Adapter, AdapterView};
use web_lora::model::Decoder;
use web_lora::train::Pass;

/// Logits of every token of a pass, `[n_tokens, vocab_size]`.
pub(crate) async fn logits(gpu: &Gpu, model: &Decoder, adapter: Option<&Adapter>, pass: &Pass) -> Result<Vec<f32>> {
    logits_at(gpu, model, adapter, pass, 1.0).await
}

/// The same at another strength of the adapter.
pub(crate) async fn logits_at(
    gpu: &Gpu,
    model: &Decoder,
    adapter: Option<&Adapter>,
    pass: &Pass,
    strength: f32,
) -> Result<Vec<f32>> {
    let (n, vocab_size) = (pass.tokens.len(), model.config().vocab_size);
    let batch = Batch::new(gpu, n, n)?;
    let rows: Vec<(u32, u32)> = (0..n as u32).map(|row| (row, 0)).collect();
    batch.write(gpu, &pass.tokens, &rows);
    let out = Buffer::storage(gpu, "logits", Matrix::size_bytes(n, vocab_size))?;
    let (mut rec, view) = batch.recording();
    let factors = adapter.map_or_else(AdapterView::default, |adapter| adapter.view(&mut rec, None));
    let matrix = Matrix { slice: rec.external(&out), width: vocab_size };
    model.infer(&mut rec, &view, &factors, None, matrix);
    let plan = Plan::new(gpu, &rec, |_, _| ()).await?;
    plan.replay(gpu, &Step { n_tokens: n as u32, n_targets: n as u32, strength, ..Default::default() });
    let bytes = out.read(gpu).await?;
    let values: &[f32] = bytemuck::cast_slice(&bytes);
    Ok(values.chunks(stride(vocab_size)).take(n).flat_map(|row| &row[..vocab_size]).copied().collect())
}
