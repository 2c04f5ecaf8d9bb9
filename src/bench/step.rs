//! Training steps: how fast, and what they ask of host and memory.

use std::fmt;
use std::rc::Rc;

use serde::Serialize;
use web_time::{Duration, Instant};

use super::median;
use crate::Result;
use crate::gpu::Gpu;
use crate::io::{Checkpoint, LoraConfig};
use crate::lora::Adapter;
use crate::model::{self, Decoder};
use crate::train::{MemoryPlan, Pass, Recorded, TrainOptions, Trainer};

/// Steps before any is timed: the first finds out how much work a submit may hold.
const WARM_UP: usize = 2;
/// Steps timed at least.
const TIMED: usize = 3;
/// On a fast GPU there are more of them, up to this time, ...
const TIMED_FOR: Duration = Duration::from_secs(1);
/// ... and this number of all.
const MOST: usize = 101;
/// Columns of [`StepRate`]'s line.
pub(super) const HEADING: &str = "training step                tokens       ms  tokens/s  GFLOP/s of best   CPU ms  in submits \
                                  dispatches  a layer  submits  MB planned  allocated";

/// A training step: rank 8 on every linear, one sequence with every token supervised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRate {
    /// The model's name.
    pub model: String,
    /// Numbers of all matrices that a token is multiplied by.
    pub matrix_parameters: usize,
    /// Tokens of the step.
    pub tokens: usize,
    /// Median, until the loss is back.
    pub ms: f64,
    /// From that.
    pub tokens_per_second: f64,
    /// From the operations that a step needs, whatever it computes besides: see [`crate::bench`].
    pub gflops: f64,
    /// That over the best product's rate of the same run.
    pub efficiency: f64,
    /// Median of the time until all is encoded, for the host to do anything else.
    pub cpu_ms: f64,
    /// Median of the time in the driver's submits besides. Mesa's software Vulkan does the work in them.
    pub submit_ms: f64,
    /// Kernels of a step.
    pub dispatches: usize,
    /// Those of the second layer. (The first has nothing below it to pass gradients to.)
    pub dispatches_per_layer: usize,
    /// Submits of the last step.
    pub submits: u64,
    /// Bytes of GPU memory that were foreseen.
    pub planned_bytes: u64,
    /// Bytes of all buffers, at their peak.
    pub allocated_bytes: u64,
}

/// A model with a fresh adapter.
pub(super) struct Tuned {
    pub(super) model: Decoder,
    pub(super) adapter: Adapter,
    weight_bytes: u64,
}

impl Tuned {
    pub(super) async fn load(gpu: &Gpu, checkpoint: &Checkpoint, n_positions: usize) -> Result<Self> {
        let before = gpu.allocated_bytes();
        let model = model::load(gpu, checkpoint, n_positions, &mut |_, _| true).await?;
        let weight_bytes = gpu.allocated_bytes() - before;
        let groups = model.modules();
        let kinds = groups.iter().flat_map(|group| &group.modules).map(|module| module.kind().to_owned());
        let adapter = Adapter::new(gpu, LoraConfig::new(8, 16.0, kinds.collect()), &groups, 0)?;
        Ok(Self { model, adapter, weight_bytes })
    }

    async fn trainer(&self, gpu: &Rc<Gpu>, n_tokens: usize) -> Result<Trainer> {
        Trainer::new(gpu.clone(), &self.model, &self.adapter, n_tokens, 0, Recorded::default(), &mut |_, _| ()).await
    }

    /// Numbers of the linears, all of which are adapted, and of the head.
    fn matrix_parameters(&self) -> usize {
        let config = self.model.config();
        self.adapter.n_base_parameters() + config.vocab_size * config.hidden_size
    }

    /// Operations of a step over one sequence: two for each number of the matrices and token forward, as many for the
    /// gradients of its inputs; and for each pair of a query and a key that it sees, four for each column of every head
    /// forward and eight backward.
    fn needed_flops(&self, n_tokens: usize) -> f64 {
        let config = self.model.config();
        let pairs = (n_tokens * (n_tokens + 1) / 2) as f64;
        let columns = config.num_attention_heads * config.head_dim * config.num_hidden_layers;
        4.0 * n_tokens as f64 * self.matrix_parameters() as f64 + 12.0 * pairs * columns as f64
    }
}

pub(super) async fn step_rate(
    gpu: &Rc<Gpu>,
    checkpoint: &Checkpoint,
    tokens: usize,
    best_gflops: f64,
) -> Result<StepRate> {
    let paper = Rc::new(Gpu::paper(gpu.info().clone()));
    let planned = Tuned::load(&paper, checkpoint, tokens).await?;
    let Tuned { model, adapter, weight_bytes } = &planned;
    let recorded = Recorded::default();
    let planned = MemoryPlan::new(&paper, model, *weight_bytes, adapter, tokens, recorded, false, None).await?;

    let before = gpu.allocated_bytes();
    let tuned = Tuned::load(gpu, checkpoint, tokens).await?;
    let mut trainer = tuned.trainer(gpu, tokens).await?;
    let pass = supervised(tokens);
    let (mut seconds, mut cpu_seconds, mut submit_seconds) = (vec![], vec![], vec![]);
    let (mut submits, mut allocated_bytes) = (0, 0);
    let mut timed_from = Instant::now();
    for at in 0..MOST {
        if at == WARM_UP {
            timed_from = Instant::now();
        }
        let (submits_before, submitting_before) = (gpu.counts().submits, gpu.submitting());
        let start = Instant::now();
        trainer.step(std::slice::from_ref(&pass), TrainOptions::default().optim_step(at, MOST));
        let called = start.elapsed().as_secs_f64();
        let submitting = (gpu.submitting() - submitting_before).as_secs_f64();
        allocated_bytes = allocated_bytes.max(gpu.allocated_bytes() - before);
        trainer.metrics(at).await?;
        if at >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
            cpu_seconds.push(called - submitting);
            submit_seconds.push(submitting);
        }
        submits = gpu.counts().submits - submits_before;
        if seconds.len() >= TIMED && timed_from.elapsed() > TIMED_FOR {
            break;
        }
    }
    let seconds = median(seconds);
    let gflops = tuned.needed_flops(tokens) / seconds / 1e9;
    Ok(StepRate {
        model: checkpoint.name().to_owned(),
        matrix_parameters: tuned.matrix_parameters(),
        tokens,
        ms: seconds * 1e3,
        tokens_per_second: tokens as f64 / seconds,
        gflops,
        efficiency: gflops / best_gflops,
        cpu_ms: median(cpu_seconds) * 1e3,
        submit_ms: median(submit_seconds) * 1e3,
        dispatches: trainer.n_dispatches(),
        dispatches_per_layer: trainer.dispatches_of("layers.1"),
        submits,
        planned_bytes: planned.total,
        allocated_bytes,
    })
}

/// One sequence, every row with a target. Which tokens they are makes no difference to the time.
fn supervised(n_tokens: usize) -> Pass {
    let ids: Vec<u32> = (0..n_tokens as u32).map(|at| 100 + at * 37 % 1000).collect();
    let mut pass = Pass::default();
    pass.push(&ids, &vec![true; n_tokens]);
    pass.targets.push((n_tokens as u32 - 1, ids[0]));
    pass
}

/// A line of the table.
impl fmt::Display for StepRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, tokens, ms, tokens_per_second, gflops, cpu_ms, submit_ms, dispatches, submits, .. } = self;
        let (percent, a_layer) = (100.0 * self.efficiency, self.dispatches_per_layer);
        let [planned, allocated] = [self.planned_bytes, self.allocated_bytes].map(|bytes| bytes as f64 / 1e6);
        write!(f, "{model:<28} {tokens:>6} {ms:>8.1} {tokens_per_second:>9.1} {gflops:>8.1} {percent:>6.0}% ")?;
        write!(
            f,
            "{cpu_ms:>8.2} {submit_ms:>11.2} {dispatches:>10} {a_layer:>8} {submits:>8} {planned:>11.1} {allocated:>10.1}"
        )
    }
}
