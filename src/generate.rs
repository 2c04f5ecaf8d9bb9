//! Generation: the prompt in passes of many tokens, then a token at a time against a cache of keys and values.

use std::rc::Rc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu::{Buffer, Gpu, Plan, Readback, Step};
use crate::kernels::{Matrix, Token};
use crate::layers::{Batch, KvCache};
use crate::lora::{Adapter, AdapterView};
use crate::model::Architecture;
use crate::{Error, Result};

/// Prompt tokens of a pass.
const PREFILL_TOKENS: usize = 64;

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
    /// Of the adapter: 0 is the base model, 1 the adapter as trained.
    pub strength: f32,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 0.0, top_p: 1.0, seed: 0, strength: 1.0 }
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
    prefill: Recorded,
    decode: Recorded,
    cache: KvCache,
    n_positions: usize,
    vocab_size: usize,
    logits: Buffer,
    readback: Readback,
}

struct Recorded {
    batch: Batch,
    plan: Plan,
}

impl Generator {
    /// Compiles generation over up to `n_positions` positions, prompt included.
    pub async fn new(
        gpu: Rc<Gpu>,
        model: &dyn Architecture,
        adapter: Option<&Adapter>,
        n_positions: usize,
    ) -> Result<Self> {
        let config = model.config();
        let n_positions = n_positions.min(model.context_length());
        let width = config.num_key_value_heads * config.head_dim;
        let cache = KvCache::new(&gpu, config.num_hidden_layers, width, n_positions, PREFILL_TOKENS)?;
        let vocab_size = config.vocab_size;
        let logits = Buffer::storage(&gpu, "logits", Matrix::size_bytes(1, vocab_size))?;
        let prefill = Recorded::new(&gpu, model, adapter, &cache, &logits, PREFILL_TOKENS).await?;
        let decode = Recorded::new(&gpu, model, adapter, &cache, &logits, 1).await?;
        let readback = Readback::new(&gpu, &logits);
        Ok(Self { gpu, prefill, decode, cache, n_positions, vocab_size, logits, readback })
    }

    /// Runs the prompt and returns the logits `[vocab_size]` of its last token.
    pub async fn prompt(&self, prompt: &[u32], strength: f32) -> Result<Vec<f32>> {
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
        let mut start = 0;
        let mut logits = vec![];
        for ids in prompt.chunks(PREFILL_TOKENS) {
            let last = start + ids.len() == prompt.len();
            self.pass(&self.prefill, ids, start, strength, last);
            // Waiting each pass keeps a slow GPU's queue short.
            if last {
                logits = self.take_logits().await?;
            }
            start += ids.len();
        }
        Ok(logits)
    }

    /// Adds tokens to `prompt` until one of `end_ids`, which is not told. `on_token` is told each; false stops.
    pub async fn generate(
        &self,
        prompt: &[u32],
        options: GenerateOptions,
        end_ids: &[u32],
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<(Vec<u32>, Stopped)> {
        options.validate()?;
        let mut logits = self.prompt(prompt, options.strength).await?;
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let mut generated = vec![];
        loop {
            let id = choose(&logits, &options, &mut rng);
            if end_ids.contains(&id) {
                return Ok((generated, Stopped::End));
            }
            generated.push(id);
            if !on_token(id) {
                return Ok((generated, Stopped::Cancelled));
            }
            let position = prompt.len() + generated.len() - 1;
            if generated.len() >= options.max_new_tokens || position >= self.n_positions {
                return Ok((generated, Stopped::Length));
            }
            self.pass(&self.decode, &[id], position, options.strength, true);
            logits = self.take_logits().await?;
        }
    }

    fn pass(&self, recorded: &Recorded, ids: &[u32], start: usize, strength: f32, wants_logits: bool) {
        let (start, n) = (start as u32, ids.len() as u32);
        let token = |(position, &id): (u32, &u32)| Token { id, position, start: 0, end: start + n };
        let tokens: Vec<Token> = (start..).zip(ids).map(token).collect();
        // The target's id plays no part in inference: its row is the one whose logits are wanted.
        recorded.batch.write(&self.gpu, &tokens, &[(n - 1, 0)]);
        self.cache.set_rows(&self.gpu, start, n);
        let n_targets = u32::from(wants_logits);
        let keys_per_row = Token::keys_per_row(&tokens);
        let step = Step { n_tokens: n, n_targets, strength, keys_per_row, ..Default::default() };
        recorded.plan.replay(&self.gpu, &step);
    }

    async fn take_logits(&self) -> Result<Vec<f32>> {
        self.readback.request(&self.gpu, &self.logits);
        let bytes = self.readback.take(&self.gpu).await?;
        self.gpu.check()?;
        let logits = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(logits.take(self.vocab_size).collect())
    }
}

impl Recorded {
    async fn new(
        gpu: &Gpu,
        model: &dyn Architecture,
        adapter: Option<&Adapter>,
        cache: &KvCache,
        logits: &Buffer,
        max_tokens: usize,
    ) -> Result<Self> {
        let batch = Batch::new(gpu, max_tokens, 1)?;
        let (mut rec, view) = batch.recording();
        let factors = adapter.map_or_else(AdapterView::default, |adapter| adapter.view(&mut rec, None));
        let logits = Matrix { slice: rec.external(logits), width: model.config().vocab_size };
        model.infer(&mut rec, &view, &factors, Some(cache), logits);
        let plan = Plan::new(gpu, &rec, |_, _| ()).await?;
        Ok(Self { batch, plan })
    }
}

/// The next token. Ties go to the lowest id.
fn choose(logits: &[f32], options: &GenerateOptions, rng: &mut ChaCha8Rng) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if options.temperature == 0.0 {
        return order.into_iter().min_by(by_logit).unwrap_or(0);
    }
    order.sort_by(by_logit);
    let max = f64::from(logits[order[0] as usize]);
    let weight = |id: &u32| ((f64::from(logits[*id as usize]) - max) / f64::from(options.temperature)).exp();
    let total: f64 = order.iter().map(weight).sum();
    let mut kept = 0.0;
    let n_kept = 1 + order
        .iter()
        .map(weight)
        .take_while(|w| {
            kept += w / total;
            kept < f64::from(options.top_p)
        })
        .count();
    let kept = &order[..n_kept.min(order.len())];
    let mut left = rng.random::<f64>() * kept.iter().map(weight).sum::<f64>();
    let chosen = kept.iter().find(|id| {
        left -= weight(id);
        left <= 0.0
    });
    *chosen.unwrap_or(&kept[kept.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_temperature_takes_the_first_largest() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert_eq!(choose(&[1.0, 3.0, 3.0, -1.0], &GenerateOptions::default(), &mut rng), 1);
    }

    #[test]
    fn samples_follow_the_distribution_and_top_p_cuts_its_tail() {
        let logits = [0.5f64, 0.3, 0.2].map(|p| p.ln() as f32);
        let count = |top_p: f32| {
            let options = GenerateOptions { temperature: 1.0, top_p, ..Default::default() };
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let mut counts = [0.0f64; 3];
            (0..20_000).for_each(|_| counts[choose(&logits, &options, &mut rng) as usize] += 1.0 / 20_000.0);
            counts
        };
        for (found, expected) in
            [(count(1.0), [0.5, 0.3, 0.2]), (count(0.7), [0.625, 0.375, 0.0]), (count(0.4), [1.0, 0.0, 0.0])]
        {
            // Three standard deviations of 20,000 draws are 0.011.
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.011), "{found:?} for {expected:?}");
        }
    }
}
