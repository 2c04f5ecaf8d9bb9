//! Self-attention with rotary positions and grouped heads.

use super::{BatchView, Linear, LowRank, Vector, matrix};
use crate::gpu::{Buffer, Gpu, Recording, Rows, Slice};
use crate::kernels::attention::{AttentionShape, attention};
use crate::kernels::attention_backward::{AttentionBackward, attention_dkv, attention_dq};
use crate::kernels::column_sum::Terms;
use crate::kernels::matmul::Store;
use crate::kernels::qk_norm::{self, qk_norm, qk_norm_backward, qk_norm_terms};
use crate::kernels::rms_norm::After;
use crate::kernels::rope::rope;
use crate::kernels::rows::scatter_rows;
use crate::kernels::{Columns, Matrix};
use crate::lora::AdapterView;
use crate::{Error, Result};

/// Rotation angles: cos and sin of `position · inv_freq`, made once on the host.
pub struct Rope {
    table: Buffer,
    n_positions: usize,
}

impl Rope {
    /// Angles of `inv_freq` `[head_dim / 2]` at the first `n_positions` positions. Frequencies and angles are f32 as in
    /// transformers, which rounds both; only the cosine and sine are better than its.
    pub fn new(gpu: &Gpu, inv_freq: &[f32], n_positions: usize) -> Result<Self> {
        let angles = (0..n_positions).flat_map(|position| inv_freq.iter().map(move |f| f64::from(position as f32 * f)));
        let table: Vec<[f32; 2]> = angles.map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect();
        let buffer = Buffer::storage(gpu, "rope", table.len() as u64 * 8)?;
        buffer.write(gpu, 0, bytemuck::cast_slice(&table));
        Ok(Self { table: buffer, n_positions })
    }

    /// Positions it covers.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }
}

/// Keys and values of the positions generated so far, for every layer.
pub struct KvCache {
    layers: Vec<(Buffer, Buffer)>,
    /// Cache row of each row of the pass, `array<u32>` `[max_tokens]`.
    rows: Buffer,
    width: usize,
}

impl KvCache {
    /// Room for `n_positions` positions of `width` columns in each of `n_layers` layers, filled by passes of at most
    /// `max_tokens`.
    pub fn new(gpu: &Gpu, n_layers: usize, width: usize, n_positions: usize, max_tokens: usize) -> Result<Self> {
        let size_bytes = Matrix::size_bytes(n_positions, width);
        let layers = (0..n_layers)
            .map(|layer| {
                let buffer = |name: &str| Buffer::storage(gpu, &format!("cache.{layer}.{name}"), size_bytes);
                Ok((buffer("k")?, buffer("v")?))
            })
            .collect::<Result<_>>()?;
        gpu.check().map_err(|error| match error {
            Error::OutOfMemory { .. } => Error::OutOfMemory {
                needed_bytes: size_bytes * 2 * n_layers as u64,
                message: "the key and value cache".into(),
            },
            other => other,
        })?;
        Ok(Self { layers, rows: Buffer::storage(gpu, "cache.rows", max_tokens as u64 * 4)?, width })
    }

    /// The next pass fills rows `start ..`.
    pub fn set_rows(&self, gpu: &Gpu, start: u32, n: u32) {
        let rows: Vec<u32> = (start..start + n).collect();
        self.rows.write(gpu, 0, bytemuck::cast_slice(&rows));
    }
}

/// RMS norm of each query and key head.
pub struct QkNorm {
    /// f32 `[2, head_dim]`: weights of queries, of keys.
    pub weight: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Linears round softmax attention.
pub struct Attention {
    /// q `[n_heads · head_dim, hidden_size]`, k and v `[n_kv_heads · head_dim, hidden_size]`, side by side; one linear of
    /// all three in some architectures.
    pub qkv_proj: Linear,
    /// Between qkv_proj and rotary positions.
    pub qk_norm: Option<QkNorm>,
    /// `[hidden_size, n_heads · head_dim]`.
    pub o_proj: Linear,
    /// Heads and scale.
    pub shape: AttentionShape,
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub struct AttentionSaved {
    x: Matrix,
    /// Queries and keys are normalised, where they are, and rotated.
    qkv: Matrix,
    norm: Option<qk_norm::QkNorm>,
    out: Matrix,
    /// Log-sum-exp of the scores, and room for the backward pass's delta: pairs of f32 `[n_tokens, n_heads]`.
    lse_delta: Slice,
    xa: Option<LowRank>,
}

impl Attention {
    /// True when `adapter` changes any part of it.
    pub fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.is_adapted_inside(adapter) || self.o_proj.is_adapted(adapter)
    }

    /// True when `adapter` changes any part of it before the last linear.
    fn is_adapted_inside(&self, adapter: &AdapterView) -> bool {
        let norm = self.qk_norm.as_ref().is_some_and(|norm| norm.weight.is_trained(adapter));
        norm || self.qkv_proj.is_adapted(adapter)
    }

    /// Room for the low-rank values of all its linears.
    pub fn low_rank(&self, rec: &mut Recording, adapter: &AdapterView, label: &str) -> Option<LowRank> {
        LowRank::new(rec, adapter, label, [&self.qkv_proj, &self.o_proj])
    }

    /// What the norm before it is to do with its result.
    pub fn projection(&self, adapter: &AdapterView, xa: Option<LowRank>) -> After {
        self.qkv_proj.projection(adapter, LowRank::part(xa, 0))
    }

    /// All but the last linear, from `x` and its projection in `xa`. With a cache (and this layer's number in it), keys
    /// and values go there and those of earlier passes are seen.
    pub fn inner(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        batch: &BatchView,
        rotation: &Rope,
        cache: Option<(&KvCache, usize)>,
        x: Matrix,
        xa: Option<LowRank>,
    ) -> AttentionSaved {
        let qkv = matrix(rec, "qkv", Rows::TOKENS, self.qkv_proj.width());
        self.qkv_proj.project_dropped(rec, adapter, "qkv_proj", x, LowRank::part(xa, 0));
        self.qkv_proj.forward(rec, adapter, "qkv_proj", x, LowRank::part(xa, 0), qkv, Store::Replace);
        let [q, mut k, mut v] = self.columns(qkv);
        let table = rec.external(&rotation.table);
        let norm = self.qk_norm.as_ref().map(|norm| {
            let n = rec.capacity(Rows::TOKENS) * qk_norm::raw_width(self.shape);
            let (weight, raw) = (norm.weight.slice(rec, adapter), rec.floats("qk", n as u64));
            qk_norm::QkNorm { weight, eps: norm.eps, raw }
        });
        match norm {
            Some(norm) => qk_norm(rec, "qk_norm", self.shape, batch.tokens, table, norm, q, k),
            None => rope(rec, "rope", self.shape, batch.tokens, table, q, k),
        }
        if let Some((cache, layer)) = cache {
            let (keys, values) = &cache.layers[layer];
            let rows = rec.external(&cache.rows);
            for (label, columns, buffer) in [("k.cache", &mut k, keys), ("v.cache", &mut v, values)] {
                let cached = Matrix { slice: rec.external(buffer), width: cache.width };
                scatter_rows(rec, label, Rows::TOKENS, rows, *columns, cached);
                *columns = cached.into();
            }
        }
        let out = matrix(rec, "attention", Rows::TOKENS, q.width);
        let lse_delta = rec.floats("lse_delta", (2 * rec.capacity(Rows::TOKENS) * self.shape.n_heads) as u64);
        attention(rec, "attention", self.shape, batch.tokens, [q, k, v], out, lse_delta);
        self.o_proj.project(rec, adapter, "o_proj", out, LowRank::part(xa, 1));
        AttentionSaved { x, qkv, norm, out, lse_delta, xa }
    }

    fn columns(&self, qkv: Matrix) -> [Columns; 3] {
        if self.qkv_proj.modules.len() > 1 {
            return [0, 1, 2].map(|index| self.qkv_proj.output(qkv, index));
        }
        // In one linear they follow each other without pads.
        let (q, kv) = self.shape.widths();
        [(0, q), (q, kv), (q + kv, kv)].map(|(first, width)| Columns { matrix: qkv, first, width })
    }

    /// Attention's output, stored as `store` says.
    pub fn output(&self, rec: &mut Recording, adapter: &AdapterView, saved: &AttentionSaved, store: Store) -> Matrix {
        let y = matrix(rec, "out", Rows::TOKENS, saved.x.width);
        self.o_proj.forward(rec, adapter, "o_proj", saved.out, LowRank::part(saved.xa, 1), y, store);
        y
    }

    /// The gradient on `x` from `dy`, that on the output, in a transient; none unless `needs_dx`.
    pub fn backward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        batch: &BatchView,
        rotation: &Rope,
        saved: &AttentionSaved,
        dy: Matrix,
        needs_dx: bool,
    ) -> Option<Matrix> {
        let dxa = self.low_rank(rec, adapter, "dxa");
        self.o_proj.backward_bias(rec, adapter, "o_proj", dy);
        let dy = self.o_proj.backward_magnitude(rec, adapter, "o_proj", saved.out, LowRank::part(saved.xa, 1), dy);
        self.o_proj.backward_low_rank(rec, adapter, "o_proj", dy.product, LowRank::part(dxa, 1));
        let inner = needs_dx || self.is_adapted_inside(adapter);
        let d_qkv = inner.then(|| {
            let d_out = matrix(rec, "d_attention", Rows::TOKENS, saved.out.width);
            self.o_proj.backward(rec, adapter, "o_proj", dy, LowRank::part(dxa, 1), d_out, Store::Replace);
            let backward = AttentionBackward {
                shape: self.shape,
                tokens: batch.tokens,
                qkv: self.columns(saved.qkv),
                out: saved.out,
                lse_delta: saved.lse_delta,
                d_out,
                table: rec.external(&rotation.table),
                d_qkv: matrix(rec, "d_qkv", Rows::TOKENS, saved.qkv.width),
            };
            attention_dq(rec, "attention.dq", &backward);
            attention_dkv(rec, "attention.dkv", &backward);
            let d_qkv = backward.d_qkv;
            if let Some(norm) = saved.norm {
                let [dq, dk, _] = self.columns(d_qkv);
                if let Some(QkNorm { weight, .. }) =
                    self.qk_norm.as_ref().filter(|norm| norm.weight.is_trained(adapter))
                {
                    let terms = matrix(rec, "d_qk_norm", Rows::TOKENS, 2 * self.shape.head_dim);
                    qk_norm_terms(rec, "qk_norm.terms", self.shape, norm, dq, dk, terms);
                    weight.backward(rec, adapter, "qk_norm.dw", Rows::TOKENS, terms, Terms::Plain);
                }
                qk_norm_backward(rec, "qk_norm.dx", self.shape, norm, dq, dk);
            }
            self.qkv_proj.backward_bias(rec, adapter, "qkv_proj", d_qkv);
            let xa = LowRank::part(saved.xa, 0);
            let d_qkv = self.qkv_proj.backward_magnitude(rec, adapter, "qkv_proj", saved.x, xa, d_qkv);
            self.qkv_proj.backward_low_rank(rec, adapter, "qkv_proj", d_qkv.product, LowRank::part(dxa, 0));
            d_qkv
        });
        let dx = d_qkv.filter(|_| needs_dx).map(|d_qkv| {
            let dx = matrix(rec, "dx", Rows::TOKENS, saved.x.width);
            self.qkv_proj.backward(rec, adapter, "qkv_proj", d_qkv, LowRank::part(dxa, 0), dx, Store::Replace);
            dx
        });
        let d_product = d_qkv.map(|d_qkv| d_qkv.product);
        let linears = [(&self.qkv_proj, saved.x, d_product), (&self.o_proj, saved.out, Some(dy.product))];
        LowRank::backward(rec, adapter, "lora_grad", linears, saved.xa, dxa);
        dx
    }
}
