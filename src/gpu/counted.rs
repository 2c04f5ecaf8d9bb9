//! The device and its queue, with a count of what is asked of them. The handles are private to this file: nothing in
//! the crate creates, maps or submits anything uncounted.

use std::cell::Cell;

use web_time::{Duration, Instant};

use super::patience::Watch;
use crate::Result;

/// How often each costly thing has been asked of a device. A training step that runs steadily adds to `maps` and
/// `submits` alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Buffers made.
    pub buffers: u64,
    /// Bind groups made.
    pub bind_groups: u64,
    /// Layouts of bind groups and pipelines made.
    pub layouts: u64,
    /// Shader modules made.
    pub shader_modules: u64,
    /// Pipelines made.
    pub pipelines: u64,
    /// Sets of timestamps made.
    pub query_sets: u64,
    /// Buffers mapped to be read.
    pub maps: u64,
    /// Submits to the queue.
    pub submits: u64,
}

pub(super) struct Counted {
    device: wgpu::Device,
    queue: wgpu::Queue,
    watch: Watch,
    counts: Cell<Counts>,
    written_bytes: Cell<u64>,
    submitting: Cell<Duration>,
}

impl Counted {
    pub(super) fn new(device: wgpu::Device, queue: wgpu::Queue, watch: Watch) -> Self {
        Self {
            device,
            queue,
            watch,
            counts: Cell::default(),
            written_bytes: Cell::default(),
            submitting: Cell::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.get()
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    pub(super) fn submitting(&self) -> Duration {
        self.submitting.get()
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }

    pub(super) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor) -> wgpu::Buffer {
        self.count(|counts| counts.buffers += 1);
        self.device.create_buffer(descriptor)
    }

    pub(super) fn create_bind_group(&self, descriptor: &wgpu::BindGroupDescriptor) -> wgpu::BindGroup {
        self.count(|counts| counts.bind_groups += 1);
        self.device.create_bind_group(descriptor)
    }

    pub(super) fn create_bind_group_layout(
        &self,
        descriptor: &wgpu::BindGroupLayoutDescriptor,
    ) -> wgpu::BindGroupLayout {
        self.count(|counts| counts.layouts += 1);
        self.device.create_bind_group_layout(descriptor)
    }

    pub(super) fn create_pipeline_layout(&self, descriptor: &wgpu::PipelineLayoutDescriptor) -> wgpu::PipelineLayout {
        self.count(|counts| counts.layouts += 1);
        self.device.create_pipeline_layout(descriptor)
    }

    pub(super) fn create_shader_module(&self, descriptor: wgpu::ShaderModuleDescriptor) -> wgpu::ShaderModule {
        self.count(|counts| counts.shader_modules += 1);
        self.device.create_shader_module(descriptor)
    }

    pub(super) fn create_compute_pipeline(
        &self,
        descriptor: &wgpu::ComputePipelineDescriptor,
    ) -> wgpu::ComputePipeline {
        self.count(|counts| counts.pipelines += 1);
        self.device.create_compute_pipeline(descriptor)
    }

    /// A set of `n` timestamps.
    pub(super) fn create_timestamps(&self, n: u32) -> wgpu::QuerySet {
        self.count(|counts| counts.query_sets += 1);
        self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: n,
        })
    }

    /// Seconds from one value of a timestamp to the next.
    pub(super) fn timestamp_seconds(&self) -> f64 {
        f64::from(self.queue.get_timestamp_period()) * 1e-9
    }

    /// Asks for a buffer's bytes; `done` is told when they are there.
    pub(super) fn map(
        &self,
        buffer: &wgpu::Buffer,
        done: impl FnOnce(Result<(), wgpu::BufferAsyncError>) + wgpu::WasmNotSend + 'static,
    ) {
        self.count(|counts| counts.maps += 1);
        buffer.map_async(wgpu::MapMode::Read, .., done);
    }

    pub(super) fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.count(|counts| counts.submits += 1);
        let commands = encoder.finish();
        let start = Instant::now();
        self.queue.submit([commands]);
        if let Some(pulse) = self.watch.pulse() {
            self.queue.on_submitted_work_done(pulse);
        }
        self.submitting.set(self.submitting.get() + start.elapsed());
    }

    /// Ordered before the next submit.
    pub(super) fn write_buffer(&self, buffer: &wgpu::Buffer, offset_bytes: u64, data: &[u8]) {
        self.written_bytes.set(self.written_bytes.get() + data.len() as u64);
        self.queue.write_buffer(buffer, offset_bytes, data);
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&Default::default())
    }

    /// Waits until the device has seen everything asked of it.
    pub(super) async fn settle(&self) -> Result<()> {
        self.answer(self.device.push_error_scope(wgpu::ErrorFilter::Internal).pop()).await.map(drop)
    }

    /// What the device is awaited for.
    ///
    /// Errors with `DeviceLost` where it is silent for too long.
    pub(super) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        self.watch.answer(answer).await
    }

    /// `done` is told when all submitted work is.
    pub(super) fn on_done(&self, done: impl FnOnce() + Send + 'static) {
        self.queue.on_submitted_work_done(done);
    }

    /// Waits for all submitted work.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn wait(&self) -> Result<(), wgpu::PollError> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).map(drop)
    }
}
