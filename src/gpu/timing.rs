//! What each entry of a plan takes, timed by itself.

use web_time::Instant;

use super::buffer::{Buffer, Staging};
use super::plan::{Entry, Plan};
use super::{Gpu, Step};
use crate::Result;

/// Entries timed at once: a query set has at most 4096 queries, and each takes two.
const ENTRIES_AT_ONCE: usize = 2048;

/// One entry of a plan and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryTime {
    /// Path as in the model, `layers.3.mlp.down_proj`.
    pub label: String,
    /// As named by [`super::Recording::phase`].
    pub phase: &'static str,
    /// The shader's name, or `clear` or `copy`.
    pub kernel: &'static str,
    /// From its start to its end.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of everything bound to it, of matrices only the rows in use.
    pub bytes: u64,
}

impl Plan {
    /// Replays the plan an entry at a time. Times are by the GPU's clock where [`super::DeviceInfo::timestamps`] says that
    /// there is one, else by waiting for each entry. Entries without work in this step are left out.
    pub async fn profile(&self, gpu: &Gpu, step: &Step) -> Result<Vec<EntryTime>> {
        self.write(gpu, step);
        let entries: Vec<&Entry> = self.entries().iter().filter(|entry| entry.has_work(step)).collect();
        let mut seconds = vec![];
        for entries in entries.chunks(ENTRIES_AT_ONCE) {
            seconds.extend(match gpu.info().timestamps {
                true => by_timestamps(gpu, step, entries).await?,
                false => by_waiting(gpu, step, entries).await,
            });
        }
        let time = |(entry, seconds): (&Entry, f64)| EntryTime {
            label: entry.label.clone(),
            phase: entry.phase,
            kernel: entry.kernel,
            seconds,
            flops: entry.flops(step),
            bytes: entry.bytes(step),
        };
        Ok(entries.into_iter().zip(seconds).map(time).collect())
    }
}

/// A submit for each entry keeps clear of watchdogs and costs the GPU's clock nothing.
async fn by_timestamps(gpu: &Gpu, step: &Step, entries: &[&Entry]) -> Result<Vec<f64>> {
    let ticks = Ticks::new(gpu, 2 * entries.len() as u32);
    for (query, entry) in (0..).step_by(2).zip(entries) {
        let mut encoder = gpu.device().encoder();
        if entry.is_dispatch() {
            entry.dispatch(&mut ticks.pass(&mut encoder, Some(query), Some(query + 1)), step);
        } else {
            // Only passes can tell the time.
            drop(ticks.pass(&mut encoder, None, Some(query)));
            entry.transfer(&mut encoder);
            drop(ticks.pass(&mut encoder, Some(query + 1), None));
        }
        gpu.device().submit(encoder);
    }
    ticks.seconds(gpu).await
}

async fn by_waiting(gpu: &Gpu, step: &Step, entries: &[&Entry]) -> Vec<f64> {
    let mut seconds = vec![];
    gpu.idle().await;
    for entry in entries {
        let started = Instant::now();
        let mut encoder = gpu.device().encoder();
        if entry.is_dispatch() {
            entry.dispatch(&mut encoder.begin_compute_pass(&Default::default()), step);
        } else {
            entry.transfer(&mut encoder);
        }
        gpu.device().submit(encoder);
        gpu.idle().await;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds
}

/// Points in time that passes leave on the GPU, two for each entry.
struct Ticks {
    queries: wgpu::QuerySet,
    n: u32,
    resolved: Buffer,
}

impl Ticks {
    fn new(gpu: &Gpu, n: u32) -> Self {
        Self { queries: gpu.device().create_timestamps(n), n, resolved: Buffer::timestamps(gpu, n) }
    }

    /// A compute pass that notes when it begins and when it ends.
    fn pass<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        begin: Option<u32>,
        end: Option<u32>,
    ) -> wgpu::ComputePass<'a> {
        let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: begin,
            end_of_pass_write_index: end,
        });
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes })
    }

    /// Between the two points of each entry. Clocks that step back are taken as standing still.
    async fn seconds(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        let staging = Staging::new(gpu, self.resolved.size_bytes());
        let mut encoder = gpu.device().encoder();
        encoder.resolve_query_set(&self.queries, 0..self.n, self.resolved.inner.wgpu(), 0);
        staging.copy_from(&mut encoder, &self.resolved, 0);
        gpu.device().submit(encoder);
        staging.map(gpu);
        let bytes = staging.take(gpu).await?;
        let ticks: &[[u64; 2]] = bytemuck::cast_slice(&bytes);
        let tick = gpu.device().timestamp_seconds();
        Ok(ticks.iter().map(|[begin, end]| end.saturating_sub(*begin) as f64 * tick).collect())
    }
}
