//! The optimiser's memory and its part of a step: the gradients, what AdamW remembers of them, the adapter's update.

use std::ops::Range;

use crate::Result;
use crate::gpu::{Buffer, Gpu, Recording, Slice};
use crate::kernels::adamw::{Rates, adamw, rate_bits, rate_codes};
use crate::kernels::adamw_8bit::{Moments8bit, adamw_8bit, moments_bytes};
use crate::kernels::grad_norm::grad_norm;
use crate::lora::Adapter;

use super::options::{Optim, Recorded};

/// Gradients and moments of an adapter's arena.
pub(super) struct Optimizer {
    optim: Optim,
    pub(super) grads: Buffer,
    /// By PyTorch's names; [`Optim::AdamW8bit`] has `absmax` besides, and f32 moments of vectors that are trained as they are,
    /// as bitsandbytes has of all small tensors.
    pub(super) moments: Vec<Buffer>,
    /// Which parameters have which learning rate, where it is not one for all.
    rates: Option<(Buffer, RatesOf)>,
}

/// Of vectors, where the factors' are in eight bits.
const VECTOR_MOMENTS: [&str; 2] = ["vectors.exp_avg", "vectors.exp_avg_sq"];

/// How rates in a buffer are to be read.
type RatesOf = fn(Slice) -> Rates;

impl Optimizer {
    pub(super) fn new(gpu: &Gpu, adapter: &Adapter, recorded: Recorded) -> Result<Self> {
        let arena_bytes = adapter.params().size_bytes();
        let grads = Buffer::storage(gpu, "grads", arena_bytes)?;
        let moment = |(name, size_bytes): (&str, u64)| Buffer::storage(gpu, name, size_bytes);
        let moments = match recorded.optim {
            Optim::AdamW => ["exp_avg", "exp_avg_sq"].map(|name| (name, arena_bytes)).to_vec(),
            Optim::AdamW8bit => {
                let vectors = adapter.vector_range();
                let bytes = moments_bytes((vectors.as_ref().map_or(arena_bytes, |range| range.start) / 4) as usize);
                let codes = ["exp_avg", "exp_avg_sq", "absmax"].into_iter().zip(bytes);
                let of_vectors = |range: Range<u64>| VECTOR_MOMENTS.map(|name| (name, range.end - range.start));
                codes.chain(vectors.map(of_vectors).into_iter().flatten()).collect()
            }
        };
        let moments = moments.into_iter().map(moment).collect::<Result<_>>()?;
        let rates: Option<(Vec<u32>, RatesOf)> = match (adapter.rates(recorded.loraplus), recorded.loraplus) {
            (Some(rates), _) => Some((rate_codes(&rates), Rates::Each)),
            (None, true) => Some((rate_bits(arena_bytes, adapter.b_ranges()), Rates::OfB)),
            (None, false) => None,
        };
        let rates = match rates {
            Some((words, kind)) => {
                let buffer = Buffer::storage(gpu, "rates", words.len() as u64 * 4)?;
                buffer.write(gpu, 0, bytemuck::cast_slice(&words));
                Some((buffer, kind))
            }
            None => None,
        };
        Ok(Self { optim: recorded.optim, grads, moments, rates })
    }

    /// Bytes of all of it.
    pub(super) fn size_bytes(&self) -> u64 {
        [&self.grads]
            .into_iter()
            .chain(&self.moments)
            .chain(self.rates.as_ref().map(|rates| &rates.0))
            .map(Buffer::size_bytes)
            .sum()
    }

    /// Appends the step over the gradients as they are, and what it leaves in `metrics`; clears the gradients.
    pub(super) fn record(&self, rec: &mut Recording, adapter: &Adapter, metrics: Slice) {
        let n = |slice: Slice| (slice.size_bytes() / 4) as usize;
        let [params, grads] = [adapter.params(), &self.grads].map(|buffer| rec.external(buffer));
        let moments: Vec<Slice> = self.moments.iter().map(|buffer| rec.external(buffer)).collect();
        let rates = self.rates.as_ref().map_or(Rates::One, |(buffer, kind)| kind(rec.external(buffer)));
        grad_norm(rec, "grad_norm", grads, n(grads), metrics);
        let vectors = adapter.vector_range();
        let factors = 0..vectors.as_ref().map_or(params.size_bytes(), |range| range.start);
        let [p, g] = [params, grads].map(|slice| slice.range(factors.clone()));
        match self.optim {
            Optim::AdamW => adamw(rec, "adamw", p, g, moments[0], moments[1], n(p), metrics, rates),
            Optim::AdamW8bit => {
                let moments = Moments8bit { exp_avg: moments[0], exp_avg_sq: moments[1], absmax: moments[2] };
                adamw_8bit(rec, "adamw", p, g, moments, n(p), metrics, rates);
            }
        }
        if let Some(range) = vectors {
            let [p, g] = [params, grads].map(|slice| slice.range(range.clone()));
            let [m, v] = match self.optim {
                Optim::AdamW => [moments[0], moments[1]].map(|slice| slice.range(range.clone())),
                Optim::AdamW8bit => [moments[3], moments[4]],
            };
            adamw(rec, "adamw.vectors", p, g, m, v, n(p), metrics, Rates::Undecayed);
        }
        rec.clear(grads);
    }
}
