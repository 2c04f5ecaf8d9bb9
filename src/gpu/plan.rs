//! A recording with memory, pipelines and bind groups: everything made once, then replayed.

use std::rc::Rc;

use super::buffer::Staging;
use super::recording::{Command, Place, Recording, Slice, Step};
use super::shader::Pipeline;
use super::slots::Slots;
use super::{Buffer, Gpu, Grid, Work};
use crate::Result;

/// Work submitted at once before the first replay has been timed: small, so that a slow GPU's watchdog stays quiet.
/// Less than this is never cut.
const FIRST_SLICE_FLOPS: u64 = 200_000_000;
/// Uniform offsets are multiples of this on every device.
const UNIFORM_ALIGN: usize = 256;

/// A recording ready to replay.
pub struct Plan {
    step: Buffer,
    entries: Vec<Entry>,
    n_dispatches: usize,
    /// All that bind groups refer to: a buffer's memory goes when its last handle does.
    _resources: Vec<Buffer>,
    kept_bytes: u64,
    /// Floating-point operations between two submits.
    slice_flops: std::cell::Cell<u64>,
}

/// A command with everything it needs.
pub(super) struct Entry {
    pub(super) label: String,
    pub(super) phase: &'static str,
    /// The shader's name, or `clear` or `copy`.
    pub(super) kernel: &'static str,
    /// Bytes bound: those that hold the rows of the recording's capacity, and the others.
    row_bytes: u64,
    other_bytes: u64,
    action: Action,
}

enum Action {
    Dispatch { pipeline: Rc<Pipeline>, bind_group: wgpu::BindGroup, grid: Grid, work: Work, capacity: usize },
    Clear { buffer: Buffer, offset_bytes: u64, size_bytes: u64 },
    Copy { from: (Buffer, u64), to: (Buffer, u64), size_bytes: u64 },
}

impl Entry {
    /// False for a dispatch without workgroups.
    pub(super) fn has_work(&self, step: &Step) -> bool {
        !matches!(&self.action, Action::Dispatch { grid, .. } if grid.iter().any(|extent| extent.count(step) == 0))
    }

    /// Floating-point operations in a step.
    pub(super) fn flops(&self, step: &Step) -> u64 {
        if let Action::Dispatch { work, .. } = &self.action { work.flops(step) } else { 0 }
    }

    /// Bytes that hold something in a step.
    pub(super) fn bytes(&self, step: &Step) -> u64 {
        let used = match &self.action {
            Action::Dispatch { work, capacity, .. } => f64::from(work.rows.count(step)) / (*capacity).max(1) as f64,
            _ => 1.0,
        };
        self.other_bytes + (self.row_bytes as f64 * used) as u64
    }

    pub(super) fn is_dispatch(&self) -> bool {
        matches!(self.action, Action::Dispatch { .. })
    }

    /// Encodes a dispatch that has work.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass, step: &Step) {
        if let Action::Dispatch { pipeline, bind_group, grid, .. } = &self.action {
            let [x, y, z] = grid.map(|extent| extent.count(step));
            pass.set_pipeline(&pipeline.wgpu);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Encodes a clear or a copy.
    pub(super) fn transfer(&self, encoder: &mut wgpu::CommandEncoder) {
        match &self.action {
            Action::Dispatch { .. } => {}
            Action::Clear { buffer, offset_bytes, size_bytes } => {
                encoder.clear_buffer(buffer.inner.wgpu(), *offset_bytes, Some(*size_bytes));
            }
            Action::Copy { from, to, size_bytes } => {
                let (source, target) = (from.0.inner.wgpu(), to.0.inner.wgpu());
                encoder.copy_buffer_to_buffer(source, from.1, target, to.1, *size_bytes);
            }
        }
    }
}

impl Plan {
    /// Allocates memory, compiles pipelines and makes bind groups; on paper, only counts the memory.
    /// `progress` is told (done, total) commands.
    ///
    /// Errors when the device lacks the memory or a shader does not compile there.
    pub async fn new(gpu: &Gpu, recording: &Recording, mut progress: impl FnMut(usize, usize)) -> Result<Self> {
        let assigned = Slots::assign(recording);
        let slots: Vec<Buffer> = assigned
            .sizes
            .iter()
            .enumerate()
            .map(|(slot, &size)| Buffer::storage(gpu, &format!("slot{slot}"), size))
            .collect::<Result<_>>()?;

        let mut params = vec![];
        let mut params_at = vec![];
        for command in &recording.commands {
            if let Command::Dispatch { params: bytes, .. } = command {
                params_at.push((params.len() as u64, bytes.len().next_multiple_of(16) as u64));
                params.extend_from_slice(bytes);
                params.resize(params.len().next_multiple_of(UNIFORM_ALIGN), 0);
            }
        }
        let params_buffer = Buffer::uniform(gpu, "params", params.len() as u64)?;
        if !params.is_empty() {
            params_buffer.write(gpu, 0, &params);
        }
        gpu.check()?;

        let place = |slice: &Slice| match (&recording.buffers[slice.buffer].place, assigned.of[slice.buffer]) {
            (Place::External(buffer), _) => buffer.clone(),
            (Place::Transient { .. }, Some(slot)) => slots[slot].clone(),
            (Place::Transient { .. }, None) => unreachable!("a used buffer has a slot"),
        };
        let is_transient = |slice: &&Slice| matches!(recording.buffers[slice.buffer].place, Place::Transient { .. });
        let mut params_of = params_at.iter().copied();
        let mut entries = vec![];
        let commands = if gpu.is_paper() { &[] } else { &recording.commands[..] };
        for (at, command) in commands.iter().enumerate() {
            let (label, kernel, slices, action) = match command {
                Command::Dispatch { label, shader, bindings, grid, work, .. } => {
                    let pipeline = gpu.pipeline(shader).await?;
                    let (offset, size) = params_of.next().expect("one per dispatch");
                    let step = (recording.step.clone(), 0, recording.step.size_bytes());
                    let resources = [step, (params_buffer.clone(), offset, size)]
                        .into_iter()
                        .chain(bindings.iter().map(|s| (place(s), s.offset_bytes, s.size_bytes)));
                    let resources: Vec<_> = resources.collect();
                    assert_eq!(resources.len(), pipeline.indices.len(), "bindings of {label} ({})", shader.name());
                    let groups: Vec<_> = resources
                        .iter()
                        .zip(&pipeline.indices)
                        .map(|((buffer, offset, size), &binding)| wgpu::BindGroupEntry {
                            binding,
                            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                                buffer: buffer.inner.wgpu(),
                                offset: *offset,
                                size: std::num::NonZeroU64::new(*size),
                            }),
                        })
                        .collect();
                    let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some(label),
                        layout: &pipeline.layout,
                        entries: &groups,
                    });
                    let capacity = recording.capacity(work.rows);
                    let action = Action::Dispatch { pipeline, bind_group, grid: *grid, work: *work, capacity };
                    (label, shader.name(), bindings.clone(), action)
                }
                Command::Clear(slice) => {
                    let Slice { offset_bytes, size_bytes, .. } = *slice;
                    let action = Action::Clear { buffer: place(slice), offset_bytes, size_bytes };
                    (&recording.buffers[slice.buffer].label, "clear", vec![*slice], action)
                }
                Command::Copy { from, to } => {
                    let size_bytes = from.size_bytes;
                    let [source, target] = [from, to].map(|slice| (place(slice), slice.offset_bytes));
                    let action = Action::Copy { from: source, to: target, size_bytes };
                    (&recording.buffers[to.buffer].label, "copy", vec![*from, *to], action)
                }
            };
            let all: u64 = slices.iter().map(|slice| slice.size_bytes).sum();
            let row_bytes: u64 = slices.iter().filter(is_transient).map(|slice| slice.size_bytes).sum();
            let (label, phase) = (label.clone(), recording.phase_of(at));
            entries.push(Entry { label, phase, kernel, row_bytes, other_bytes: all - row_bytes, action });
            progress(at + 1, commands.len());
        }
        gpu.settle().await?;
        let external = recording.buffers.iter().filter_map(|v| match &v.place {
            Place::External(buffer) => Some(buffer.clone()),
            Place::Transient { .. } => None,
        });
        let resources = external.chain(slots).chain([params_buffer]).collect();
        Ok(Self {
            step: recording.step.clone(),
            n_dispatches: params_at.len(),
            entries,
            kept_bytes: recording.kept_bytes(),
            _resources: resources,
            slice_flops: std::cell::Cell::new(FIRST_SLICE_FLOPS),
        })
    }

    /// Bytes of transient buffers that the recording's first phase leaves for the second.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Kernels in it.
    pub fn n_dispatches(&self) -> usize {
        self.n_dispatches
    }

    /// Those labelled as parts of `path`.
    pub fn dispatches_of(&self, path: &str) -> usize {
        let within =
            |label: &str| label.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.entries.iter().filter(|entry| entry.is_dispatch() && within(&entry.label)).count()
    }

    /// Floating-point operations of the kernels that state them, in one replay.
    pub fn flops(&self, step: &Step) -> u64 {
        self.entries.iter().map(|entry| entry.flops(step)).sum()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn write(&self, gpu: &Gpu, step: &Step) {
        self.step.write(gpu, 0, bytemuck::bytes_of(step));
    }

    /// Sets how much work one submit may hold, from a measured rate.
    pub fn set_slice_flops(&self, flops: u64) {
        self.slice_flops.set(flops.max(FIRST_SLICE_FLOPS));
    }

    /// Writes `step`, encodes and submits. Returns at once; the GPU works on.
    pub fn replay(&self, gpu: &Gpu, step: &Step) {
        Self::replay_all(gpu, &[self], step, None);
    }

    /// Replays `plans`, recorded over one step buffer, one after another in a single submit, or as few as their slices
    /// need. `report` is a buffer to copy out at the end, whose bytes are asked for.
    pub fn replay_all(gpu: &Gpu, plans: &[&Self], step: &Step, report: Option<(&Readback, &Buffer)>) {
        plans[0].write(gpu, step);
        let mut encoder = gpu.device().encoder();
        let mut flops = 0;
        for plan in plans {
            assert!(Rc::ptr_eq(&plan.step.inner, &plans[0].step.inner), "plans of one submit share a step");
            let mut at = 0;
            while at < plan.entries.len() {
                if flops >= plan.slice_flops.get() {
                    gpu.device().submit(std::mem::replace(&mut encoder, gpu.device().encoder()));
                    flops = 0;
                }
                (at, flops) = plan.encode_run(&mut encoder, step, at, flops);
            }
        }
        if let Some((readback, source)) = report {
            readback.staging.copy_from(&mut encoder, source, 0);
        }
        gpu.device().submit(encoder);
        if let Some((readback, _)) = report {
            readback.staging.map(gpu);
        }
    }

    /// Encodes one clear or copy, or dispatches up to the next of those or the end of the slice.
    fn encode_run(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        step: &Step,
        mut at: usize,
        mut flops: u64,
    ) -> (usize, u64) {
        if !self.entries[at].is_dispatch() {
            self.entries[at].transfer(encoder);
            return (at + 1, flops);
        }
        let mut pass = encoder.begin_compute_pass(&Default::default());
        while let Some(entry) = self.entries.get(at).filter(|entry| entry.is_dispatch()) {
            at += 1;
            if !entry.has_work(step) {
                continue;
            }
            entry.dispatch(&mut pass, step);
            flops += entry.flops(step);
            if flops >= self.slice_flops.get() {
                break;
            }
        }
        (at, flops)
    }
}

/// A small buffer copied out after each replay and read late.
pub struct Readback {
    staging: Staging,
}

impl Readback {
    /// Room for all of `source`'s bytes.
    pub fn new(gpu: &Gpu, source: &Buffer) -> Self {
        Self { staging: Staging::new(gpu, source.size_bytes()) }
    }

    /// Copies `source` as it is after the work submitted so far, and asks for the bytes.
    pub fn request(&self, gpu: &Gpu, source: &Buffer) {
        let mut encoder = gpu.device().encoder();
        self.staging.copy_from(&mut encoder, source, 0);
        gpu.device().submit(encoder);
        self.staging.map(gpu);
    }

    /// Waits for the bytes of the last request.
    pub async fn take(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        self.staging.take(gpu).await
    }
}
