//! `model_type` `llama` (arXiv 2302.13971, 2307.09288, 2407.21783): pre-norm, grouped heads, rotary positions, SwiGLU,
//! no biases; tied or untied head. SmolLM2, Llama 3.2 and TinyLlama are of this kind. Reference: transformers'
//! `modeling_llama.py`.

use super::{Architecture, Config};
use crate::Result;
use crate::gpu::{Gpu, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::attention::AttentionShape;
use crate::kernels::embedding::embedding;
use crate::layers::{
    Attention, AttentionSaved, BatchView, Frozen, Head, KvCache, Linear, Loader, Mlp, MlpSaved, NormSaved, RmsNorm,
    Rope, matrix,
};
use crate::lora::{AdapterView, ModuleShape};

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

struct LayerSaved {
    input_layernorm: NormSaved,
    self_attn: AttentionSaved,
    post_attention_layernorm: NormSaved,
    mlp: MlpSaved,
}

impl Llama {
    pub(super) async fn load(gpu: &Gpu, config: Config, context_length: usize, mut loader: Loader<'_>) -> Result<Self> {
        let Config { hidden_size, intermediate_size, vocab_size, head_dim, rms_norm_eps, .. } = config;
        let (n_heads, n_kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let embed_tokens = loader.frozen("model.embed_tokens.weight", vocab_size, hidden_size).await?;
        let mut layers = vec![];
        for layer in 0..config.num_hidden_layers {
            let path = |module: &str| format!("model.layers.{layer}.{module}");
            layers.push(Layer {
                input_layernorm: loader.rms_norm(&path("input_layernorm"), hidden_size, rms_norm_eps).await?,
                self_attn: Attention {
                    q_proj: loader.linear(&path("self_attn.q_proj"), n_heads * head_dim, hidden_size).await?,
                    k_proj: loader.linear(&path("self_attn.k_proj"), n_kv_heads * head_dim, hidden_size).await?,
                    v_proj: loader.linear(&path("self_attn.v_proj"), n_kv_heads * head_dim, hidden_size).await?,
                    o_proj: loader.linear(&path("self_attn.o_proj"), hidden_size, n_heads * head_dim).await?,
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
                    gate_proj: loader.linear(&path("mlp.gate_proj"), intermediate_size, hidden_size).await?,
                    up_proj: loader.linear(&path("mlp.up_proj"), intermediate_size, hidden_size).await?,
                    down_proj: loader.linear(&path("mlp.down_proj"), hidden_size, intermediate_size).await?,
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
            [&attn.q_proj, &attn.k_proj, &attn.v_proj, &attn.o_proj, &mlp.gate_proj, &mlp.up_proj, &mlp.down_proj]
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
        let mid = matrix(rec, "mid", Rows::TOKENS, x.width);
        rec.copy(x.slice, mid.slice);
        let (normed, input_layernorm) = self.input_layernorm.forward(rec, "input_layernorm", Rows::TOKENS, x);
        let self_attn =
            rec.scope("self_attn", |rec| self.self_attn.forward(rec, adapter, batch, rope, cache, normed, mid));
        let out = matrix(rec, "out", Rows::TOKENS, x.width);
        rec.copy(mid.slice, out.slice);
        let (normed, post_attention_layernorm) =
            self.post_attention_layernorm.forward(rec, "post_attention_layernorm", Rows::TOKENS, mid);
        let mlp = rec.scope("mlp", |rec| self.mlp.forward(rec, adapter, normed, out));
        (out, LayerSaved { input_layernorm, self_attn, post_attention_layernorm, mlp })
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
        let d_normed = rec.scope("mlp", |rec| self.mlp.backward(rec, adapter, &saved.mlp, d, needs_mid));
        let Some(d_normed) = d_normed else { return };
        let norm = &self.post_attention_layernorm;
        norm.backward(
            rec,
            "post_attention_layernorm",
            Rows::TOKENS,
            &saved.post_attention_layernorm,
            d_normed,
            d,
            true,
        );
        let d_normed = rec.scope("self_attn", |rec| {
            self.self_attn.backward(rec, adapter, batch, rope, &saved.self_attn, d, needs_dx)
        });
        let Some(d_normed) = d_normed else { return };
        self.input_layernorm.backward(rec, "input_layernorm", Rows::TOKENS, &saved.input_layernorm, d_normed, d, true);
    }

    fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.self_attn.is_adapted(adapter) || self.mlp.is_adapted(adapter)
    }
}

impl Architecture for Llama {
    fn config(&self) -> &Config {
        &self.config
    }

    fn modules(&self) -> Vec<ModuleShape> {
        let shape = |linear: &Linear| ModuleShape {
            name: linear.name.clone(),
            in_features: linear.weight.cols(),
            out_features: linear.weight.rows(),
        };
        self.linears().map(shape).collect()
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

    fn train(&self, rec: &mut Recording, batch: &BatchView, adapter: &AdapterView, metrics: Slice) {
        let (hidden, saved) = self.forward(rec, batch, adapter, None);
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
