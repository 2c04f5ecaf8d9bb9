//! `model_type` `llama` (arXiv 2302.13971, 2307.09288, 2407.21783): pre-norm, grouped heads, rotary positions, SwiGLU,
//! no biases; tied or untied head. SmolLM2, Llama 3.2 and TinyLlama are of this kind. Reference: transformers'
//! `modeling_llama.py`.

use super::{Architecture, Config};
use crate::Result;
use crate::gpu::{Gpu, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::attention::AttentionShape;
use crate::kernels::embedding::embedding;
use crate::kernels::segments::Layout;
use crate::layers::{
    Attention, AttentionSaved, BatchView, Frozen, Head, KvCache, Linear, Loader, Mlp, MlpSaved, NormSaved, RmsNorm,
    Rope, matrix,
};
use crate::lora::{AdapterView, ModuleGroup, ModuleShape};

/// Tensors that some files carry and no llama reads: tables that the engine makes itself.
const IGNORED: [&str; 1] = ["rotary_emb.inv_freq"];

pub(super) struct Llama {
    config: Config,
    rope: Rope,
    embed_tokens: Frozen,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// None when the head is the embedding table.
    lm_head: Option<Frozen>,
}

struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

/// What the backward pass reads of a layer: what its halves read, and what they kept unless that is to be recomputed.
struct LayerSaved {
    x: Matrix,
    mid: Matrix,
    self_attn: Option<(NormSaved, AttentionSaved)>,
    mlp: Option<(NormSaved, MlpSaved)>,
}

impl Llama {
    pub(super) async fn load(gpu: &Gpu, config: Config, context_length: usize, mut loader: Loader<'_>) -> Result<Self> {
        let Config { hidden_size, intermediate_size, vocab_size, head_dim, rms_norm_eps, .. } = config;
        let (n_heads, n_kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let embed_tokens = loader.frozen("model.embed_tokens.weight", vocab_size, hidden_size).await?;
        let mut layers = vec![];
        for layer in 0..config.num_hidden_layers {
            let path = |module: &str| format!("model.layers.{layer}.{module}");
            let shape =
                |module: &str, out_features, in_features| ModuleShape { name: path(module), in_features, out_features };
            layers.push(Layer {
                input_layernorm: loader.rms_norm(&path("input_layernorm"), hidden_size, rms_norm_eps).await?,
                self_attn: Attention {
                    qkv_proj: loader
                        .linear(
                            vec![
                                shape("self_attn.q_proj", q_width, hidden_size),
                                shape("self_attn.k_proj", kv_width, hidden_size),
                                shape("self_attn.v_proj", kv_width, hidden_size),
                            ],
                            Layout::SideBySide,
                        )
                        .await?,
                    o_proj: loader
                        .linear(vec![shape("self_attn.o_proj", hidden_size, q_width)], Layout::SideBySide)
                        .await?,
                    shape: AttentionShape {
                        n_heads,
                        n_kv_heads,
                        head_dim,
                        scale: 1.0 / (head_dim as f32).sqrt(),
                        sliding_window: None,
                    },
                },
                post_attention_layernorm: loader
                    .rms_norm(&path("post_attention_layernorm"), hidden_size, rms_norm_eps)
                    .await?,
                mlp: Mlp {
                    gate_up_proj: loader
                        .linear(
                            vec![
                                shape("mlp.gate_proj", intermediate_size, hidden_size),
                                shape("mlp.up_proj", intermediate_size, hidden_size),
                            ],
                            Layout::Interleaved,
                        )
                        .await?,
                    down_proj: loader
                        .linear(vec![shape("mlp.down_proj", hidden_size, intermediate_size)], Layout::SideBySide)
                        .await?,
                },
            });
        }
        let norm = loader.rms_norm("model.norm", hidden_size, rms_norm_eps).await?;
        let mut ignored = IGNORED.to_vec();
        let lm_head = if config.tie_word_embeddings {
            // A tied checkpoint may still carry a copy of the table.
            ignored.push("lm_head.weight");
            None
        } else {
            Some(loader.frozen("lm_head.weight", vocab_size, hidden_size).await?)
        };
        loader.finish(&ignored).await?;
        let rope = Rope::new(gpu, &config.inv_freq(), context_length)?;
        Ok(Self { config, rope, embed_tokens, layers, norm, lm_head })
    }

    fn head(&self) -> Head<'_> {
        Head { norm: &self.norm, weight: self.lm_head.as_ref().unwrap_or(&self.embed_tokens) }
    }

    /// Hidden states after the last layer, and what the backward pass needs of each layer.
    fn forward(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        cache: Option<&KvCache>,
    ) -> (Matrix, Vec<LayerSaved>) {
        let mut hidden = matrix(rec, "embed_tokens", Rows::TOKENS, self.config.hidden_size);
        for weight in self.embed_tokens.weights(rec) {
            embedding(rec, "embed_tokens", batch.tokens, &weight, hidden);
        }
        let mut saved = vec![];
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = cache.map(|cache| (cache, index));
            let (next, layer_saved) = rec
                .scope(&format!("layers.{index}"), |rec| layer.forward(rec, batch, adapter, &self.rope, cache, hidden));
            hidden = next;
            saved.push(layer_saved);
        }
        (hidden, saved)
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| {
            let (attn, mlp) = (&layer.self_attn, &layer.mlp);
            [&attn.qkv_proj, &attn.o_proj, &mlp.gate_up_proj, &mlp.down_proj]
        })
    }
}

impl Layer {
    fn forward(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        rope: &Rope,
        cache: Option<(&KvCache, usize)>,
        x: Matrix,
    ) -> (Matrix, LayerSaved) {
        let self_attn = self.attend(rec, batch, adapter, rope, cache, x);
        let mid = rec.scope("self_attn", |rec| self.self_attn.output(rec, adapter, &self_attn.1, x));
        let mlp = self.feed_forward(rec, adapter, mid);
        let out = rec.scope("mlp", |rec| self.mlp.output(rec, adapter, &mlp.1, mid));
        (out, LayerSaved { x, mid, self_attn: Some(self_attn), mlp: Some(mlp) })
    }

    /// The first half of the layer, up to its last linear.
    fn attend(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        rope: &Rope,
        cache: Option<(&KvCache, usize)>,
        x: Matrix,
    ) -> (NormSaved, AttentionSaved) {
        let attention = &self.self_attn;
        let xa = attention.low_rank(rec, adapter, "self_attn.xa");
        let project = attention.projection(adapter, xa);
        let (normed, norm) = self.input_layernorm.forward(rec, "input_layernorm", Rows::TOKENS, x, project);
        (norm, rec.scope("self_attn", |rec| attention.inner(rec, adapter, batch, rope, cache, normed, xa)))
    }

    /// The second half of the layer, up to its last linear.
    fn feed_forward(&self, rec: &mut Recording, adapter: &AdapterView, mid: Matrix) -> (NormSaved, MlpSaved) {
        let xa = self.mlp.low_rank(rec, adapter, "mlp.xa");
        let project = self.mlp.projection(adapter, xa);
        let norm = &self.post_attention_layernorm;
        let (normed, norm) = norm.forward(rec, "post_attention_layernorm", Rows::TOKENS, mid, project);
        (norm, rec.scope("mlp", |rec| self.mlp.inner(rec, adapter, normed, xa)))
    }

    /// `d` is the gradient on the layer's output and becomes that on its input, unless nothing below needs it.
    fn backward(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        rope: &Rope,
        saved: &LayerSaved,
        d: Matrix,
        needs_dx: bool,
    ) {
        let needs_mid = needs_dx || self.self_attn.is_adapted(adapter);
        let (norm, mlp) =
            saved.mlp.unwrap_or_else(|| rec.scope("recompute", |rec| self.feed_forward(rec, adapter, saved.mid)));
        let d_normed = rec.scope("mlp", |rec| self.mlp.backward(rec, adapter, &mlp, d, needs_mid));
        let Some(d_normed) = d_normed else { return };
        let label = "post_attention_layernorm";
        self.post_attention_layernorm.backward(rec, label, Rows::TOKENS, &norm, d_normed, d, true);
        if !needs_dx && !self.self_attn.is_adapted(adapter) {
            return;
        }
        let (norm, self_attn) = saved
            .self_attn
            .unwrap_or_else(|| rec.scope("recompute", |rec| self.attend(rec, batch, adapter, rope, None, saved.x)));
        let d_normed =
            rec.scope("self_attn", |rec| self.self_attn.backward(rec, adapter, batch, rope, &self_attn, d, needs_dx));
        let Some(d_normed) = d_normed else { return };
        self.input_layernorm.backward(rec, "input_layernorm", Rows::TOKENS, &norm, d_normed, d, true);
    }

    fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.self_attn.is_adapted(adapter) || self.mlp.is_adapted(adapter)
    }
}

impl Architecture for Llama {
    fn config(&self) -> &Config {
        &self.config
    }

    fn modules(&self) -> Vec<ModuleGroup> {
        self.linears().map(|linear| ModuleGroup { modules: linear.modules.clone(), layout: linear.layout }).collect()
    }

    fn context_length(&self) -> usize {
        self.rope.n_positions()
    }

    fn infer(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        cache: Option<&KvCache>,
        logits: Matrix,
    ) {
        let (hidden, _) = self.forward(rec, batch, adapter, cache);
        rec.scope("head", |rec| self.head().logits(rec, batch, hidden, logits));
    }

    fn n_recomputable(&self) -> usize {
        2 * self.layers.len()
    }

    fn train(&self, rec: &mut Recording, batch: &BatchView, adapter: &AdapterView, recompute: usize, metrics: Slice) {
        let (hidden, mut saved) = self.forward(rec, batch, adapter, None);
        // Feed-forward halves keep some three times as much as attention's, for the same work.
        for index in 0..recompute.min(self.n_recomputable()) {
            let layer = &mut saved[index % self.layers.len()];
            if index < self.layers.len() {
                layer.mlp = None;
            } else {
                layer.self_attn = None;
            }
        }
        let d = matrix(rec, "d_hidden", Rows::TOKENS, hidden.width);
        rec.scope("head", |rec| self.head().loss(rec, batch, hidden, metrics, d));
        rec.phase("backward");
        // Nothing is computed below the lowest adapted layer.
        let lowest = self.layers.iter().position(|layer| layer.is_adapted(adapter)).unwrap_or(self.layers.len());
        for index in (lowest..self.layers.len()).rev() {
            let (layer, saved) = (&self.layers[index], &saved[index]);
            rec.scope(&format!("layers.{index}.backward"), |rec| {
                layer.backward(rec, batch, adapter, &self.rope, saved, d, index > lowest)
            });
        }
    }
}
