//! Generation: the prompt in passes of many tokens, then a token at a time against a cache of keys and values.
//!
//! Tokens are chosen on the GPU and the next pass takes them from there: the host reads four bytes a token, while the
//! GPU is at work on the token after. Nothing is made for a token but the commands that replay its recording.

mod logprobs;

use std::cell::OnceCell;
use std::rc::Rc;

use crate::gpu::{Buffer, Gpu, Plan, Readback, Recording, Step};
use crate::kernels::sample::{Sampling, sample};
use crate::kernels::{Matrix, Token};
use crate::layers::{Batch, KvCache};
use crate::lora::{Adapter, AdapterView};
use crate::model::Decoder;
use crate::{Error, Result};

pub use logprobs::{Logprobs, MAX_TOP_LOGPROBS};

/// Most prompt tokens of a pass: one pass for a short prompt, few for a long one.
const PREFILL_TOKENS: [usize; 2] = [64, 512];

/// How tokens are chosen and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token; 1 samples from the model's distribution.
    pub temperature: f32,
    /// Samples from the likeliest tokens whose probabilities reach this sum.
    pub top_p: f32,
    /// Of the random numbers.
    pub seed: u64,
    /// Of the adapter: 0 is the base model, 1 the adapter as trained, 2 twice what it learned; from -4 to 4.
    pub strength: f32,
    /// Tokens whose probabilities are told beside each chosen one, up to [`MAX_TOP_LOGPROBS`]; None tells none, not the
    /// chosen one's either. Costs a row of logits read back for each token.
    pub top_logprobs: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 0.0, top_p: 1.0, seed: 0, strength: 1.0, top_logprobs: None }
    }
}

impl GenerateOptions {
    /// Refuses what makes no sense, by the name the caller used.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f32, range: std::ops::RangeInclusive<f32>| {
            if range.contains(&value) {
                return Ok(());
            }
            let allowed = format!("{} to {}", range.start(), range.end());
            Err(Error::BadSetting { name: name.into(), value: value.to_string(), allowed })
        };
        check("temperature", self.temperature, 0.0..=10.0)?;
        check("topP", self.top_p, 0.001..=1.0)?;
        check("strength", self.strength, -4.0..=4.0)?;
        if let Some(n) = self.top_logprobs.filter(|n| *n > MAX_TOP_LOGPROBS) {
            let allowed = format!("0 to {MAX_TOP_LOGPROBS}");
            return Err(Error::BadSetting { name: "topLogprobs".into(), value: n.to_string(), allowed });
        }
        check("maxNewTokens", self.max_new_tokens as f32, 1.0..=1e6)
    }
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The model ended its turn.
    End,
    /// `max_new_tokens` or the context is used up.
    Length,
    /// The caller asked.
    Cancelled,
}

/// The recorded passes of a model with an adapter, or without.
pub struct Generator {
    gpu: Rc<Gpu>,
    /// In the order of their sizes.
    prefill: Vec<Recorded>,
    decode: Recorded,
    cache: KvCache,
    n_positions: usize,
    vocab_size: usize,
    outputs: Outputs,
}

/// What every pass ends in.
struct Outputs {
    logits: Buffer,
    /// A [`Sampling`].
    sampling: Buffer,
    /// The token chosen, u32.
    chosen: Buffer,
}

/// A pass, which gets memory when it is first needed.
struct Recorded {
    batch: Batch,
    recording: Recording,
    plan: OnceCell<Plan>,
}

impl Generator {
    /// Compiles generation over up to `n_positions` positions, prompt included.
    pub async fn new(gpu: Rc<Gpu>, model: &Decoder, adapter: Option<&Adapter>, n_positions: usize) -> Result<Self> {
        let config = model.config();
        let n_positions = n_positions.min(model.context_length());
        let width = config.num_key_value_heads * config.head_dim;
        let sizes = PREFILL_TOKENS.map(|tokens| tokens.min(n_positions));
        let cache = KvCache::new(&gpu, config.num_hidden_layers, width, n_positions, sizes[1])?;
        let vocab_size = config.vocab_size;
        let outputs = Outputs {
            logits: Buffer::storage(&gpu, "logits", Matrix::size_bytes(1, vocab_size))?,
            sampling: Buffer::storage(&gpu, "sampling", size_of::<Sampling>() as u64)?,
            chosen: Buffer::storage(&gpu, "chosen", 4)?,
        };
        let record = |max_tokens, follows| Recorded::new(&gpu, model, adapter, &cache, &outputs, max_tokens, follows);
        let prefill = sizes.into_iter().map(|max_tokens| record(max_tokens, false)).collect::<Result<_>>()?;
        let decode = record(1, true)?;
        decode.plan(&gpu).await?;
        Ok(Self { gpu, prefill, decode, cache, n_positions, vocab_size, outputs })
    }

    /// Runs the prompt and returns the logits `[vocab_size]` of its last token.
    pub async fn prompt(&self, prompt: &[u32], strength: f32) -> Result<Vec<f32>> {
        self.prefill(prompt, &GenerateOptions { strength, ..Default::default() }).await?;
        let bytes = self.outputs.logits.read_range(&self.gpu, 0, self.vocab_size as u64 * 4).await?;
        self.gpu.check()?;
        Ok(self.floats(&bytes))
    }

    /// A row of logits `[vocab_size]`, without its pads.
    fn floats(&self, bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks().0[..self.vocab_size].iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// Adds tokens to `prompt` until one of `end_ids`, which is not told. `on_token` is told each; false stops.
    pub async fn generate(
        &self,
        prompt: &[u32],
        options: GenerateOptions,
        end_ids: &[u32],
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<(Vec<u32>, Stopped)> {
        self.generate_with_logprobs(prompt, options, end_ids, |id, _| on_token(id)).await
    }

    /// [`Self::generate`], where `on_token` is told how likely each token was, if the options ask for that.
    pub async fn generate_with_logprobs(
        &self,
        prompt: &[u32],
        options: GenerateOptions,
        end_ids: &[u32],
        mut on_token: impl FnMut(u32, Option<Logprobs>) -> bool,
    ) -> Result<(Vec<u32>, Stopped)> {
        options.validate()?;
        self.prefill(prompt, &options).await?;
        let Outputs { logits, chosen, .. } = &self.outputs;
        let ring = [(); 2].map(|()| Readback::new(&self.gpu, chosen));
        // Taken before the next pass writes over them.
        let rows = options.top_logprobs.map(|n| (n, [(); 2].map(|()| Readback::new(&self.gpu, logits))));
        let request = |turn: usize| {
            ring[turn].request(&self.gpu, chosen);
            if let Some((_, rows)) = &rows {
                rows[turn].request(&self.gpu, logits);
            }
        };
        request(0);
        // The last token needs no pass of its own, so it may lie past the last position.
        let most = options.max_new_tokens.min(self.n_positions - prompt.len() + 1);
        let mut generated = vec![];
        while generated.len() < most {
            let n = generated.len();
            if n + 1 < most {
                // The GPU goes on to the next token while this one comes back.
                self.pass(&self.decode, &[0], prompt.len() + n, &options, true).await?;
                request((n + 1) % 2);
            }
            let bytes = ring[n % 2].take(&self.gpu).await?;
            self.gpu.check()?;
            let id = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let logprobs = match &rows {
                None => None,
                Some((top, rows)) => Some(Logprobs::new(&self.floats(&rows[n % 2].take(&self.gpu).await?), id, *top)),
            };
            if end_ids.contains(&id) {
                return Ok((generated, Stopped::End));
            }
            generated.push(id);
            if !on_token(id, logprobs) {
                return Ok((generated, Stopped::Cancelled));
            }
        }
        Ok((generated, Stopped::Length))
    }

    /// Runs the prompt and chooses the first token.
    async fn prefill(&self, prompt: &[u32], options: &GenerateOptions) -> Result<()> {
        if prompt.is_empty() || prompt.len() > self.n_positions {
            return Err(Error::BadSetting {
                name: "prompt".into(),
                value: format!("{} tokens", prompt.len()),
                allowed: format!("1 to {} tokens", self.n_positions),
            });
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= self.vocab_size) {
            let (value, allowed) = (format!("token {id}"), format!("tokens below {}", self.vocab_size));
            return Err(Error::BadSetting { name: "prompt".into(), value, allowed });
        }
        let fits = self.prefill.iter().find(|recorded| prompt.len() <= recorded.batch.max_tokens);
        let recorded = fits.unwrap_or(&self.prefill[self.prefill.len() - 1]);
        let mut start = 0;
        for ids in prompt.chunks(recorded.batch.max_tokens) {
            let last = start + ids.len() == prompt.len();
            self.pass(recorded, ids, start, options, last).await?;
            start += ids.len();
            if !last {
                // Waiting for each pass keeps a slow GPU's queue short.
                self.outputs.chosen.read(&self.gpu).await?;
                self.gpu.check()?;
            }
        }
        Ok(())
    }

    /// Runs tokens at positions `start ..`; after the last of a prompt and of those that follow, chooses the next one.
    async fn pass(
        &self,
        recorded: &Recorded,
        ids: &[u32],
        start: usize,
        options: &GenerateOptions,
        chooses: bool,
    ) -> Result<()> {
        let plan = recorded.plan(&self.gpu).await?;
        let (start, n) = (start as u32, ids.len() as u32);
        let token = |(position, &id): (u32, &u32)| Token { id, position, start: 0, end: start + n };
        let tokens: Vec<Token> = (start..).zip(ids).map(token).collect();
        // The target's id plays no part in inference: its row is the one whose logits are wanted.
        recorded.batch.write(&self.gpu, &tokens, &[(n - 1, 0)]);
        self.cache.set_rows(&self.gpu, start, n);
        let sampling = Sampling {
            seed: [options.seed as u32, (options.seed >> 32) as u32],
            position: start + n,
            temperature: options.temperature,
            top_p: options.top_p,
            ..Default::default()
        };
        self.outputs.sampling.write(&self.gpu, 0, bytemuck::bytes_of(&sampling));
        let n_targets = u32::from(chooses);
        let (strength, keys_per_row) = (options.strength, Token::keys_per_row(&tokens));
        plan.replay(&self.gpu, &Step { n_tokens: n, n_targets, strength, keys_per_row, ..Default::default() });
        Ok(())
    }
}

impl Recorded {
    /// One that `follows` another pass takes up the token that was chosen there.
    fn new(
        gpu: &Gpu,
        model: &Decoder,
        adapter: Option<&Adapter>,
        cache: &KvCache,
        outputs: &Outputs,
        max_tokens: usize,
        follows: bool,
    ) -> Result<Self> {
        let batch = Batch::new(gpu, max_tokens, 1)?;
        let (mut rec, view) = batch.recording();
        let chosen = rec.external(&outputs.chosen);
        if follows {
            // The host knows all of a token but its id, the first word.
            rec.copy(chosen.range(0..4), view.tokens.range(0..4));
        }
        let factors = adapter.map_or_else(AdapterView::default, |adapter| adapter.view(&mut rec, None));
        let factors = if follows { factors.with_known_gains() } else { factors };
        let logits = Matrix { slice: rec.external(&outputs.logits), width: model.config().vocab_size };
        model.infer(&mut rec, &view, &factors, Some(cache), logits);
        let sampling = rec.external(&outputs.sampling);
        sample(&mut rec, "sample", sampling, logits, chosen);
        Ok(Self { batch, recording: rec, plan: OnceCell::new() })
    }

    async fn plan(&self, gpu: &Gpu) -> Result<&Plan> {
        if let Some(plan) = self.plan.get() {
            return Ok(plan);
        }
        let plan = Plan::new(gpu, &self.recording, |_, _| ()).await?;
        Ok(self.plan.get_or_init(|| plan))
    }
}
