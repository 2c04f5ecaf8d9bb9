//! A recording with memory, pipelines and bind groups: everything made once, then replayed.

use std::rc::Rc;

use super::buffer::Staging;
use super::recording::{Command, Place, Recording, Slice, Step};
use super::shader::Pipeline;
use super::{Buffer, Extent, Gpu, Grid, Rows};
use crate::Result;

/// Work submitted at once before the first replay has been timed: small, so that a slow GPU's watchdog stays quiet.
const FIRST_SLICE_FLOPS: u64 = 200_000_000;
/// Uniform offsets are multiples of this on every device.
const UNIFORM_ALIGN: usize = 256;

/// A recording ready to replay.
pub struct Plan {
    step: Buffer,
    entries: Vec<Entry>,
    /// All that bind groups refer to: a buffer's memory goes when its last handle does.
    _resources: Vec<Buffer>,
    transient_bytes: u64,
    /// Floating-point operations between two submits.
    slice_flops: std::cell::Cell<u64>,
}

enum Entry {
    Dispatch { pipeline: Rc<Pipeline>, bind_group: wgpu::BindGroup, grid: Grid, work: (Rows, u64) },
    Clear { buffer: Buffer, offset_bytes: u64, size_bytes: u64 },
    Copy { from: (Buffer, u64), to: (Buffer, u64), size_bytes: u64 },
}

/// Gives each transient buffer a slot, reusing those whose last use has passed. Returns slot of each virtual
/// buffer and the slots' sizes.
fn assign_slots(recording: &Recording) -> (Vec<Option<usize>>, Vec<u64>) {
    let n = recording.buffers.len();
    let mut uses: Vec<Option<(usize, usize)>> = vec![None; n];
    for (at, command) in recording.commands.iter().enumerate() {
        let mut touch = |slice: &Slice| {
            let (_, last) = uses[slice.buffer].get_or_insert((at, at));
            *last = at;
        };
        match command {
            Command::Dispatch { bindings, .. } => bindings.iter().for_each(&mut touch),
            Command::Clear(slice) => touch(slice),
            Command::Copy { from, to } => [from, to].into_iter().for_each(&mut touch),
        }
    }
    let mut order: Vec<(usize, usize, usize, u64)> = (0..n)
        .filter_map(|index| match (&recording.buffers[index].place, uses[index]) {
            (Place::Transient { size_bytes }, Some((first, last))) => Some((first, last, index, *size_bytes)),
            _ => None,
        })
        .collect();
    order.sort();
    let mut slot_of = vec![None; n];
    let mut sizes: Vec<u64> = vec![];
    let mut busy_until: Vec<usize> = vec![];
    for (first, last, index, size) in order {
        let free = (0..sizes.len()).filter(|&s| busy_until[s] < first);
        // The smallest that fits; else the largest, which then grows; else a new one.
        let fits = free.clone().filter(|&s| sizes[s] >= size).min_by_key(|&s| sizes[s]);
        let slot = fits.or_else(|| free.max_by_key(|&s| sizes[s])).unwrap_or(sizes.len());
        if slot == sizes.len() {
            sizes.push(size);
            busy_until.push(last);
        } else {
            sizes[slot] = sizes[slot].max(size);
            busy_until[slot] = last;
        }
        slot_of[index] = Some(slot);
    }
    (slot_of, sizes)
}

impl Recording {
    /// Bytes of transient memory that a plan of this recording will allocate.
    pub fn transient_bytes(&self) -> u64 {
        assign_slots(self).1.iter().sum()
    }
}

impl Plan {
    /// Allocates memory, compiles pipelines and makes bind groups. `progress` is told (done, total) commands.
    ///
    /// Errors when the device lacks the memory or a shader does not compile there.
    pub async fn new(gpu: &Gpu, recording: &Recording, mut progress: impl FnMut(usize, usize)) -> Result<Self> {
        let (slot_of, sizes) = assign_slots(recording);
        let slots: Vec<Buffer> = sizes
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

        let place = |slice: &Slice| match (&recording.buffers[slice.buffer].place, slot_of[slice.buffer]) {
            (Place::External(buffer), _) => buffer.clone(),
            (Place::Transient { .. }, Some(slot)) => slots[slot].clone(),
            (Place::Transient { .. }, None) => unreachable!("a used buffer has a slot"),
        };
        let mut params_at = params_at.into_iter();
        let mut entries = vec![];
        for (at, command) in recording.commands.iter().enumerate() {
            entries.push(match command {
                Command::Dispatch { label, shader, bindings, grid, work, .. } => {
                    let pipeline = gpu.pipeline(shader);
                    let (offset, size) = params_at.next().expect("one per dispatch");
                    let step = (recording.step.clone(), 0, size_of::<Step>() as u64);
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
                                buffer: &buffer.inner.wgpu,
                                offset: *offset,
                                size: std::num::NonZeroU64::new(*size),
                            }),
                        })
                        .collect();
                    let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some(label),
                        layout: &pipeline.layout,
                        entries: &groups,
                    });
                    Entry::Dispatch { pipeline, bind_group, grid: *grid, work: *work }
                }
                Command::Clear(slice) => Entry::Clear {
                    buffer: place(slice),
                    offset_bytes: slice.offset_bytes,
                    size_bytes: slice.size_bytes,
                },
                Command::Copy { from, to } => Entry::Copy {
                    from: (place(from), from.offset_bytes),
                    to: (place(to), to.offset_bytes),
                    size_bytes: from.size_bytes,
                },
            });
            progress(at + 1, recording.commands.len());
        }
        gpu.settle().await?;
        let external = recording.buffers.iter().filter_map(|v| match &v.place {
            Place::External(buffer) => Some(buffer.clone()),
            Place::Transient { .. } => None,
        });
        let resources = external.chain(slots).chain([params_buffer]).collect();
        Ok(Self {
            step: recording.step.clone(),
            entries,
            transient_bytes: sizes.iter().sum(),
            _resources: resources,
            slice_flops: std::cell::Cell::new(FIRST_SLICE_FLOPS),
        })
    }

    /// Bytes allocated for transient buffers.
    pub fn transient_bytes(&self) -> u64 {
        self.transient_bytes
    }

    /// Kernels in it.
    pub fn n_dispatches(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Dispatch { .. })).count()
    }

    /// Sets how much work one submit may hold, from a measured rate.
    pub fn set_slice_flops(&self, flops: u64) {
        self.slice_flops.set(flops.max(FIRST_SLICE_FLOPS / 10));
    }

    /// Writes `step`, encodes and submits. Returns at once; the GPU works on.
    pub fn replay(&self, gpu: &Gpu, step: &Step) {
        self.step.write(gpu, 0, bytemuck::bytes_of(step));
        let mut at = 0;
        while at < self.entries.len() {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let mut flops = 0;
            while at < self.entries.len() && flops < self.slice_flops.get() {
                (at, flops) = self.encode_run(&mut encoder, step, at, flops);
            }
            gpu.queue.submit([encoder.finish()]);
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
        match &self.entries[at] {
            Entry::Clear { buffer, offset_bytes, size_bytes } => {
                encoder.clear_buffer(&buffer.inner.wgpu, *offset_bytes, Some(*size_bytes));
                return (at + 1, flops);
            }
            Entry::Copy { from, to, size_bytes } => {
                encoder.copy_buffer_to_buffer(&from.0.inner.wgpu, from.1, &to.0.inner.wgpu, to.1, *size_bytes);
                return (at + 1, flops);
            }
            Entry::Dispatch { .. } => {}
        }
        let mut pass = encoder.begin_compute_pass(&Default::default());
        while let Some(Entry::Dispatch { pipeline, bind_group, grid, work }) = self.entries.get(at) {
            let [x, y, z] = grid.map(|extent: Extent| extent.count(step));
            at += 1;
            if x * y * z == 0 {
                continue;
            }
            pass.set_pipeline(&pipeline.wgpu);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(x, y, z);
            flops += u64::from(work.0.count(step)) * work.1;
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
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        self.staging.copy_from(&mut encoder, source, 0);
        gpu.queue.submit([encoder.finish()]);
        self.staging.map(gpu);
    }

    /// Waits for the bytes of the last request.
    pub async fn take(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        self.staging.take(gpu).await
    }
}
