//! Self-attention with rotary positions and grouped heads.

use super::{BatchView, Linear, LinearSaved, matrix};
use crate::gpu::{Buffer, Gpu, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::attention::{AttentionShape, attention};
use crate::kernels::attention_backward::{attention_dkv, attention_dq};
use crate::kernels::matmul::Write;
use crate::kernels::rope::rope;
use crate::kernels::rows::scatter_rows;
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

/// Four linears round softmax attention.
pub struct Attention {
    /// `[n_heads · head_dim, hidden_size]`.
    pub q_proj: Linear,
    /// `[n_kv_heads · head_dim, hidden_size]`.
    pub k_proj: Linear,
    /// `[n_kv_heads · head_dim, hidden_size]`.
    pub v_proj: Linear,
    /// `[hidden_size, n_heads · head_dim]`.
    pub o_proj: Linear,
    /// Heads and scale.
    pub shape: AttentionShape,
}

/// What the backward pass reads.
pub struct AttentionSaved {
    /// Rotated.
    q: Matrix,
    /// Rotated.
    k: Matrix,
    v: Matrix,
    out: Matrix,
    /// Log-sum-exp of the scores, f32 `[n_tokens, n_heads]`.
    lse: Slice,
    q_proj: LinearSaved,
    k_proj: LinearSaved,
    v_proj: LinearSaved,
    o_proj: LinearSaved,
}

impl Attention {
    /// True when `adapter` changes any part of it.
    pub fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.inputs_are_adapted(adapter) || self.o_proj.is_adapted(adapter)
    }

    fn inputs_are_adapted(&self, adapter: &AdapterView) -> bool {
        [&self.q_proj, &self.k_proj, &self.v_proj].iter().any(|linear| linear.is_adapted(adapter))
    }

    /// Adds attention's output to `residual`. With a cache (and this layer's number in it), keys and values go there
    /// and those of earlier passes are seen.
    pub fn forward(
        &self,
        rec: &mut Recording,
        adapter: &AdapterView,
        batch: &BatchView,
        rotation: &Rope,
        cache: Option<(&KvCache, usize)>,
        x: Matrix,
        residual: Matrix,
    ) -> AttentionSaved {
        let shape = self.shape;
        let q = self.q_proj.output(rec, "q");
        let k = self.k_proj.output(rec, "k");
        let v = self.v_proj.output(rec, "v");
        let q_proj = self.q_proj.forward(rec, adapter, "q_proj", x, q, Write::Replace);
        let k_proj = self.k_proj.forward(rec, adapter, "k_proj", x, k, Write::Replace);
        let v_proj = self.v_proj.forward(rec, adapter, "v_proj", x, v, Write::Replace);
        let table = rec.external(&rotation.table);
        rope(rec, "q.rope", batch.tokens, table, q, shape.n_heads, shape.head_dim, false);
        rope(rec, "k.rope", batch.tokens, table, k, shape.n_kv_heads, shape.head_dim, false);

        let (keys, values) = match cache {
            None => (k, v),
            Some((cache, layer)) => {
                let (keys, values) = &cache.layers[layer];
                let keys = Matrix { slice: rec.external(keys), width: cache.width };
                let values = Matrix { slice: rec.external(values), width: cache.width };
                let rows = rec.external(&cache.rows);
                scatter_rows(rec, "k.cache", Rows::TOKENS, rows, k, keys);
                scatter_rows(rec, "v.cache", Rows::TOKENS, rows, v, values);
                (keys, values)
            }
        };
        let out = matrix(rec, "attention", Rows::TOKENS, q.width);
        let lse = rec.floats("lse", (rec.capacity(Rows::TOKENS) * shape.n_heads) as u64);
        attention(rec, "attention", shape, batch.tokens, q, keys, values, out, lse);
        let o_proj = self.o_proj.forward(rec, adapter, "o_proj", out, residual, Write::Add);
        AttentionSaved { q, k, v, out, lse, q_proj, k_proj, v_proj, o_proj }
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
        let shape = self.shape;
        let inner = needs_dx || self.inputs_are_adapted(adapter);
        let d_out = inner.then(|| matrix(rec, "d_attention", Rows::TOKENS, saved.out.width));
        self.o_proj.backward(rec, adapter, "o_proj", &saved.o_proj, dy, d_out.map(|d_out| (d_out, Write::Replace)));
        let d_out = d_out?;

        let AttentionSaved { q, k, v, out, lse, .. } = *saved;
        let dq = matrix(rec, "dq", Rows::TOKENS, q.width);
        let dk = matrix(rec, "dk", Rows::TOKENS, k.width);
        let dv = matrix(rec, "dv", Rows::TOKENS, v.width);
        // A pair of f32 where lse has one.
        let delta = rec.transient("delta", 2 * lse.size_bytes());
        attention_dq(rec, "attention.dq", shape, batch.tokens, q, k, v, out, lse, d_out, dq, delta);
        attention_dkv(rec, "attention.dkv", shape, batch.tokens, q, k, v, delta, d_out, dk, dv);
        let table = rec.external(&rotation.table);
        rope(rec, "dq.rope", batch.tokens, table, dq, shape.n_heads, shape.head_dim, true);
        rope(rec, "dk.rope", batch.tokens, table, dk, shape.n_kv_heads, shape.head_dim, true);

        let dx = needs_dx.then(|| matrix(rec, "dx", Rows::TOKENS, self.q_proj.weight.cols()));
        let write = |how| dx.map(|dx| (dx, how));
        self.q_proj.backward(rec, adapter, "q_proj", &saved.q_proj, dq, write(Write::Replace));
        self.k_proj.backward(rec, adapter, "k_proj", &saved.k_proj, dk, write(Write::Add));
        self.v_proj.backward(rec, adapter, "v_proj", &saved.v_proj, dv, write(Write::Add));
        dx
    }
}
