//! The decoder that all architectures are kinds of: layers of attention and feed-forward blocks on a residual stream, a
//! norm before each and in some architectures one after. An architecture is a [`Recipe`] for it.

use super::config::{Config, Rotary};
use crate::Result;
use crate::gpu::{Gpu, Recording, Rows, Slice};
use crate::kernels::Matrix;
use crate::kernels::attention::AttentionShape;
use crate::kernels::embedding::{add_positions, embedding};
use crate::kernels::matmul::{Activation, Store};
use crate::kernels::neftune::neftune;
use crate::kernels::rms_norm::After;
use crate::kernels::segments::Layout;
use crate::layers::{
    Attention, AttentionSaved, BatchView, Frozen, Head, KvCache, Linear, Loader, Mlp, MlpSaved, Norm, NormKind,
    NormSaved, Rope, Vector, matrix,
};
use crate::lora::{AdapterView, ModuleGroup, ModuleShape, Modules};

/// What one architecture differs in from another. Names are Hugging Face's, those of a layer's parts without its path.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) config: Config,
    pub(super) names: Names,
    pub(super) norm: NormKind,
    /// Added to the mean square or variance in all norms.
    pub(super) norm_eps: f32,
    /// Factor of the token embeddings.
    pub(super) embed_scale: f32,
    /// Rotary frequencies; layers name theirs by its place here. None where positions are learned.
    pub(super) rotary: Vec<Rotary>,
    /// Of each layer.
    pub(super) layers: Vec<LayerKind>,
    /// Factor of attention's scores.
    pub(super) score_scale: f32,
    pub(super) act: Activation,
    pub(super) bias: Biases,
}

impl Recipe {
    /// Tensors that files may carry and no one reads, by the end of their name.
    pub(super) fn unused_tensors(&self) -> Vec<&'static str> {
        let mut unused = self.names.ignored.to_vec();
        if self.config.tie_word_embeddings {
            // A tied checkpoint may still carry a copy of the table.
            unused.push(LM_HEAD);
        }
        unused
    }
}

/// What attention of a layer sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerKind {
    /// Keys a row sees at most, itself included.
    pub(super) sliding_window: Option<usize>,
    /// Which of the recipe's rotary frequencies.
    pub(super) rotary: usize,
}

/// Which linears have a bias.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) o: bool,
    pub(super) mlp: bool,
}

/// Module paths.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) embed_tokens: &'static str,
    /// Learned positions.
    pub(super) embed_positions: Option<&'static str>,
    /// Followed by a layer's number.
    pub(super) layers: &'static str,
    pub(super) input_norm: &'static str,
    /// Three linears, or one of all three.
    pub(super) qkv_proj: &'static [&'static str],
    pub(super) qk_norm: Option<[&'static str; 2]>,
    pub(super) o_proj: &'static str,
    /// Between attention and the residual stream.
    pub(super) attention_norm: Option<&'static str>,
    pub(super) mlp_norm: &'static str,
    pub(super) up: Up,
    pub(super) down_proj: &'static str,
    /// Between the feed-forward block and the residual stream.
    pub(super) output_norm: Option<&'static str>,
    pub(super) norm: &'static str,
    /// Tensors that some files carry and no one reads, by the end of their name: tables that the engine makes itself.
    pub(super) ignored: &'static [&'static str],
}

/// The linears that widen in a feed-forward block.
#[derive(Debug)]
pub(super) enum Up {
    /// Gate and up.
    Gated([&'static str; 2]),
    /// Gate and up as the halves of one.
    Fused(&'static str),
    /// No gate.
    Plain(&'static str),
}

const LM_HEAD: &str = "lm_head.weight";

/// A model, as loaded.
pub struct Decoder {
    config: Config,
    embed_scale: f32,
    ropes: Vec<Rope>,
    embed_tokens: Frozen,
    embed_positions: Option<Frozen>,
    layers: Vec<Layer>,
    norm: Norm,
    /// None when the head is the embedding table.
    lm_head: Option<Frozen>,
}

struct Layer {
    /// Which of the ropes turns its queries and keys.
    rope: usize,
    input_norm: Norm,
    self_attn: Attention,
    attention_norm: Option<Norm>,
    mlp_norm: Norm,
    mlp: Mlp,
    output_norm: Option<Norm>,
}

/// What a training pass can do besides, by numbers of the step's uniform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassExtras {
    /// Noise on the embeddings.
    pub neftune: bool,
    /// A loss that is smoothed over the vocabulary.
    pub label_smoothing: bool,
}

/// What the backward pass reads of a layer: what its halves read, and what they kept unless that is to be recomputed.
struct LayerSaved {
    x: Matrix,
    mid: Matrix,
    self_attn: Option<(NormSaved, AttentionSaved)>,
    attention_norm: Option<NormSaved>,
    mlp: Option<(NormSaved, MlpSaved)>,
    output_norm: Option<NormSaved>,
}

impl Decoder {
    /// Loads what `recipe` asks for, to be run at up to `context_length` positions.
    pub(super) async fn load(gpu: &Gpu, recipe: Recipe, context_length: usize, mut loader: Loader<'_>) -> Result<Self> {
        let Recipe { config, names, norm, norm_eps: eps, .. } = &recipe;
        let Config { hidden_size, vocab_size, head_dim, .. } = *config;
        let context_length = context_length.min(config.max_position_embeddings);
        let table = |path: &str| format!("{path}.weight");
        let embed_tokens = loader.frozen(&table(names.embed_tokens), vocab_size, hidden_size).await?;
        let embed_positions = match names.embed_positions {
            Some(path) => Some(loader.frozen(&table(path), config.max_position_embeddings, hidden_size).await?),
            None => None,
        };
        let mut layers = vec![];
        for layer in 0..config.num_hidden_layers {
            layers.push(Layer::load(&recipe, layer, &mut loader).await?);
        }
        let last_norm = loader.norm(names.norm, hidden_size, *eps, *norm).await?;
        let lm_head = if config.tie_word_embeddings {
            None
        } else {
            Some(loader.frozen(LM_HEAD, vocab_size, hidden_size).await?)
        };
        loader.finish(&recipe.unused_tensors()).await?;
        let mut frequencies: Vec<Vec<f32>> = recipe.rotary.iter().map(|rotary| rotary.inv_freq(head_dim)).collect();
        if frequencies.is_empty() {
            // Turned by nothing at all.
            frequencies.push(vec![0.0; head_dim / 2]);
        }
        let ropes =
            frequencies.iter().map(|inv_freq| Rope::new(gpu, inv_freq, context_length)).collect::<Result<_>>()?;
        let Recipe { config, embed_scale, .. } = recipe;
        Ok(Self { config, embed_scale, ropes, embed_tokens, embed_positions, layers, norm: last_norm, lm_head })
    }

    fn head<'a>(&'a self, adapter: &'a AdapterView) -> Head<'a> {
        Head { norm: &self.norm, weight: self.lm_head.as_ref().unwrap_or(&self.embed_tokens), adapter }
    }

    /// Hidden states after the last layer, and what the backward pass needs of each layer.
    fn forward(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        cache: Option<&KvCache>,
    ) -> (Matrix, Vec<LayerSaved>) {
        let hidden = self.embed(rec, batch);
        self.run_layers(rec, batch, adapter, cache, hidden)
    }

    /// The embeddings of the tokens.
    fn embed(&self, rec: &mut Recording, batch: &BatchView) -> Matrix {
        let hidden = matrix(rec, "embed_tokens", Rows::TOKENS, self.config.hidden_size);
        for weight in self.embed_tokens.weights(rec) {
            embedding(rec, "embed_tokens", batch.tokens, &weight, self.embed_scale, hidden);
        }
        for weight in self.embed_positions.as_ref().map_or(vec![], |table| table.weights(rec)) {
            add_positions(rec, "embed_positions", batch.tokens, &weight, hidden);
        }
        hidden
    }

    /// All layers on these embeddings, which stay.
    fn run_layers(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        cache: Option<&KvCache>,
        mut hidden: Matrix,
    ) -> (Matrix, Vec<LayerSaved>) {
        let mut saved = vec![];
        adapter.blend_vectors(rec);
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = cache.map(|cache| (cache, index));
            let rope = &self.ropes[layer.rope];
            let (next, layer_saved) = rec.scope(&format!("layers.{index}"), |rec| {
                layer.linears().into_iter().for_each(|linear| linear.gains(rec, adapter));
                layer.forward(rec, batch, adapter, rope, cache, hidden)
            });
            hidden = next;
            saved.push(layer_saved);
        }
        (hidden, saved)
    }

    /// Its linears, in the order in which they run; those that read one matrix are one.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linears)
    }
}

impl Layer {
    async fn load(recipe: &Recipe, layer: usize, loader: &mut Loader<'_>) -> Result<Self> {
        let Recipe { config, names, norm, norm_eps: eps, bias, .. } = recipe;
        let (norm, eps) = (*norm, *eps);
        let Config { hidden_size, intermediate_size, head_dim, .. } = *config;
        let LayerKind { sliding_window, rotary } = recipe.layers[layer];
        let path = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let module =
            |part: &str, out_features, in_features| ModuleShape { name: path(part), in_features, out_features };
        let shape = AttentionShape {
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            head_dim,
            scale: recipe.score_scale,
            sliding_window,
        };
        let (q_width, kv_width) = shape.widths();
        let qkv = match names.qkv_proj {
            [fused] => vec![module(fused, q_width + 2 * kv_width, hidden_size)],
            parts => {
                let widths = [q_width, kv_width, kv_width];
                parts.iter().zip(widths).map(|(part, width)| module(part, width, hidden_size)).collect()
            }
        };
        let (up, up_layout) = match names.up {
            Up::Gated(parts) => {
                (parts.map(|part| module(part, intermediate_size, hidden_size)).to_vec(), Layout::Interleaved)
            }
            Up::Fused(part) => (vec![module(part, 2 * intermediate_size, hidden_size)], Layout::Halves),
            Up::Plain(part) => (vec![module(part, intermediate_size, hidden_size)], Layout::SideBySide),
        };
        let o_proj = vec![module(names.o_proj, hidden_size, q_width)];
        let down_proj = vec![module(names.down_proj, hidden_size, intermediate_size)];
        let one = Layout::SideBySide;
        Ok(Self {
            rope: rotary,
            input_norm: loader.norm(&path(names.input_norm), hidden_size, eps, norm).await?,
            self_attn: Attention {
                qkv_proj: loader.linear(qkv, one, bias.qkv).await?,
                qk_norm: match names.qk_norm {
                    Some([q, k]) => Some(loader.qk_norm([&path(q), &path(k)], head_dim, eps, norm).await?),
                    None => None,
                },
                o_proj: loader.linear(o_proj, one, bias.o).await?,
                shape,
            },
            attention_norm: match names.attention_norm {
                Some(part) => Some(loader.norm(&path(part), hidden_size, eps, norm).await?),
                None => None,
            },
            mlp_norm: loader.norm(&path(names.mlp_norm), hidden_size, eps, norm).await?,
            mlp: Mlp {
                gate_up_proj: loader.linear(up, up_layout, bias.mlp).await?,
                act: recipe.act,
                down_proj: loader.linear(down_proj, one, bias.mlp).await?,
            },
            output_norm: match names.output_norm {
                Some(part) => Some(loader.norm(&path(part), hidden_size, eps, norm).await?),
                None => None,
            },
        })
    }

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
        let output = |rec: &mut _, store| self.self_attn.output(rec, adapter, &self_attn.1, store);
        let (mid, attention_norm) = add(rec, adapter, "self_attn", &self.attention_norm, x, output);
        let mlp = self.feed_forward(rec, adapter, mid);
        let output = |rec: &mut _, store| self.mlp.output(rec, adapter, &mlp.1, store);
        let (out, output_norm) = add(rec, adapter, "mlp", &self.output_norm, mid, output);
        let (self_attn, mlp) = (Some(self_attn), Some(mlp));
        (out, LayerSaved { x, mid, self_attn, attention_norm, mlp, output_norm })
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
        let (normed, norm) = self.input_norm.forward(rec, adapter, "input_norm", Rows::TOKENS, x, project);
        (norm, rec.scope("self_attn", |rec| attention.inner(rec, adapter, batch, rope, cache, normed, xa)))
    }

    /// The second half of the layer, up to its last linear.
    fn feed_forward(&self, rec: &mut Recording, adapter: &AdapterView, mid: Matrix) -> (NormSaved, MlpSaved) {
        let xa = self.mlp.low_rank(rec, adapter, "mlp.xa");
        let project = self.mlp.projection(adapter, xa);
        let (normed, norm) = self.mlp_norm.forward(rec, adapter, "mlp_norm", Rows::TOKENS, mid, project);
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
        // What is trained reads a gradient that nothing below it may need.
        let is_trained = |norm: &Norm| norm.is_trained(adapter);
        let onto_d = |is_needed: bool| is_needed.then_some((d, true));
        let needs_mid = needs_dx || self.attends_adapted(adapter);
        let needs_normed = needs_mid || is_trained(&self.mlp_norm);
        let (norm, mlp) =
            saved.mlp.unwrap_or_else(|| rec.scope("recompute", |rec| self.feed_forward(rec, adapter, saved.mid)));
        let d_block = through(rec, adapter, "mlp", &self.output_norm, &saved.output_norm, d);
        let d_normed = rec.scope("mlp", |rec| self.mlp.backward(rec, adapter, &mlp, d_block, needs_normed));
        let Some(d_normed) = d_normed else { return };
        self.mlp_norm.backward(rec, adapter, "mlp_norm", Rows::TOKENS, &norm, d_normed, onto_d(needs_mid));
        if !needs_mid {
            return;
        }
        let (norm, self_attn) = saved
            .self_attn
            .unwrap_or_else(|| rec.scope("recompute", |rec| self.attend(rec, batch, adapter, rope, None, saved.x)));
        let d_block = through(rec, adapter, "self_attn", &self.attention_norm, &saved.attention_norm, d);
        let needs_normed = needs_dx || is_trained(&self.input_norm);
        let d_normed = rec.scope("self_attn", |rec| {
            self.self_attn.backward(rec, adapter, batch, rope, &self_attn, d_block, needs_normed)
        });
        let Some(d_normed) = d_normed else { return };
        self.input_norm.backward(rec, adapter, "input_norm", Rows::TOKENS, &norm, d_normed, onto_d(needs_dx));
    }

    fn linears(&self) -> [&Linear; 4] {
        let Self { self_attn, mlp, .. } = self;
        [&self_attn.qkv_proj, &self_attn.o_proj, &mlp.gate_up_proj, &mlp.down_proj]
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let Self { input_norm, attention_norm, mlp_norm, output_norm, .. } = self;
        [Some(input_norm), attention_norm.as_ref(), Some(mlp_norm), output_norm.as_ref()].into_iter().flatten()
    }

    /// Its biases and norms.
    fn vectors(&self) -> impl Iterator<Item = &Vector> {
        let qk_norm = self.self_attn.qk_norm.as_ref().map(|norm| &norm.weight);
        let biases = self.linears().into_iter().filter_map(|linear| linear.bias.as_ref());
        self.norms().flat_map(Norm::vectors).chain(qk_norm).chain(biases)
    }

    /// True when `adapter` changes any of it.
    fn is_adapted(&self, adapter: &AdapterView) -> bool {
        self.mlp.is_adapted(adapter)
            || self.attends_adapted(adapter)
            || self.norms().any(|norm| norm.is_trained(adapter))
    }

    /// True when `adapter` changes any of its first half.
    fn attends_adapted(&self, adapter: &AdapterView) -> bool {
        let mut norms = [&self.input_norm].into_iter().chain(&self.attention_norm);
        self.self_attn.is_adapted(adapter) || norms.any(|norm| norm.is_trained(adapter))
    }
}

/// The residual stream after a block, whose `output` goes there as its last linear stores it, or through a norm.
fn add(
    rec: &mut Recording,
    adapter: &AdapterView,
    block: &str,
    norm: &Option<Norm>,
    residual: Matrix,
    output: impl FnOnce(&mut Recording, Store) -> Matrix,
) -> (Matrix, Option<NormSaved>) {
    rec.scope(block, |rec| match norm {
        None => (output(rec, Store::Residual(residual)), None),
        Some(norm) => {
            let out = output(rec, Store::Replace);
            let (sum, saved) = norm.forward(rec, adapter, "output_norm", Rows::TOKENS, out, After::Add(residual));
            (sum, Some(saved))
        }
    })
}

/// The gradient on a block's output from `d`, that on the residual stream after it, which stays.
fn through(
    rec: &mut Recording,
    adapter: &AdapterView,
    block: &str,
    norm: &Option<Norm>,
    saved: &Option<NormSaved>,
    d: Matrix,
) -> Matrix {
    let (Some(norm), Some(saved)) = (norm, saved) else { return d };
    rec.scope(block, |rec| {
        let d_block = matrix(rec, "d_output", Rows::TOKENS, d.width);
        norm.backward(rec, adapter, "output_norm", Rows::TOKENS, saved, d, Some((d_block, false)));
        d_block
    })
}

/// What can be recorded of it.
impl Decoder {
    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every linear that can be adapted, in the order of the model, with those that are run as one together; and the biases
    /// and norms, which can be trained as they are.
    pub fn modules(&self) -> Modules {
        let group = |linear: &Linear| ModuleGroup { modules: linear.modules.clone(), layout: linear.layout };
        let vectors = self.layers.iter().flat_map(Layer::vectors).chain(self.norm.vectors());
        Modules { groups: self.linears().map(group).collect(), vectors: vectors.map(|v| v.group().clone()).collect() }
    }

    /// Positions it can run at, as loaded.
    pub fn context_length(&self) -> usize {
        self.ropes[0].n_positions()
    }

    /// The logits of the rows that have a target, into `logits` `[max_targets, vocab_size]`.
    pub fn infer(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        cache: Option<&KvCache>,
        logits: Matrix,
    ) {
        let (hidden, _) = self.forward(rec, batch, adapter, cache);
        rec.scope("head", |rec| self.head(adapter).logits(rec, batch, hidden, logits));
    }

    /// Of each target of the pass its cross-entropy into `losses` (f32 `[max_targets]`), and 1.0 into `hits` (as many)
    /// where no token is likelier.
    pub fn evaluate(&self, rec: &mut Recording, batch: &BatchView, adapter: &AdapterView, losses: Slice, hits: Slice) {
        let (hidden, _) = self.forward(rec, batch, adapter, None);
        rec.scope("head", |rec| self.head(adapter).scores(rec, batch, hidden, losses, hits));
    }

    /// Parts whose activations can be given up, in the order in which it costs least: the largest first, and of these
    /// the lowest layers', which the backward pass reaches when others' have gone.
    pub fn n_recomputable(&self) -> usize {
        2 * self.layers.len()
    }

    /// Adds the pass's loss to `metrics[0]` and its gradients to the adapter's. The first `recompute` of its
    /// [`Self::n_recomputable`] parts are computed again by the backward pass rather than kept for it.
    pub fn train(
        &self,
        rec: &mut Recording,
        batch: &BatchView,
        adapter: &AdapterView,
        recompute: usize,
        extras: PassExtras,
        metrics: Slice,
    ) {
        let embedded = self.embed(rec, batch);
        if extras.neftune {
            neftune(rec, "neftune", batch.tokens, embedded);
        }
        let (hidden, mut saved) = self.run_layers(rec, batch, adapter, None, embedded);
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
        rec.scope("head", |rec| self.head(adapter).loss(rec, batch, hidden, extras.label_smoothing, metrics, d));
        rec.phase("backward");
        // Nothing is computed below the lowest adapted layer.
        let lowest = self.layers.iter().position(|layer| layer.is_adapted(adapter)).unwrap_or(self.layers.len());
        for index in (lowest..self.layers.len()).rev() {
            let (layer, saved) = (&self.layers[index], &saved[index]);
            let rope = &self.ropes[layer.rope];
            rec.scope(&format!("layers.{index}.backward"), |rec| {
                layer.backward(rec, batch, adapter, rope, saved, d, index > lowest)
            });
        }
    }
}
