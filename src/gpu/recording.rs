//! A step as plain data: a flat list of dispatches, clears and copies over virtual buffers.
//!
//! A recording can be printed, counted and checked without a GPU. [`super::Plan`] gives it memory and replays it.

use std::fmt;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{Buffer, Shader, Variant};

/// What changes from step to step; `struct Step` of `shaders/shared/step.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub struct Step {
    /// Rows of the token batch in use, at most the capacity recorded for.
    pub n_tokens: u32,
    /// Rows that have a target.
    pub n_targets: u32,
    /// Multiplies every adapter's scaling, and with DoRA moves the magnitudes as far: 0 is the base model, 1 the adapter as
    /// trained.
    pub strength: f32,
    /// 1 / supervised tokens of the whole optimiser step.
    pub loss_scale: f32,
    /// Learning rate of this optimiser step.
    pub learning_rate: f32,
    /// 1 - beta1^t.
    pub bias_correction1: f32,
    /// 1 - beta2^t.
    pub bias_correction2: f32,
    /// AdamW's first decay rate.
    pub beta1: f32,
    /// AdamW's second decay rate.
    pub beta2: f32,
    /// AdamW's epsilon.
    pub eps: f32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this global norm.
    pub max_grad_norm: f32,
    /// Mean number of keys that a row sees. No kernel reads it: it is for counting what attention costs.
    pub keys_per_row: f32,
    /// Learning rate of every B, where it is one of its own (LoRA+).
    pub learning_rate_b: f32,
    /// Share of the target's probability that is spread over the vocabulary.
    pub label_smoothing: f32,
    /// Size of the noise on the embeddings; 0 for none.
    pub neftune_noise_alpha: f32,
    /// Of the random numbers of this optimiser step.
    pub random_key: [u32; 2],
    /// Rows of this optimiser step that earlier passes had.
    pub first_row: u32,
    /// 1 where LoRA's dropout is at work, where it is recorded.
    pub dropout: u32,
}

/// Which rows a kernel works on; `struct Rows` of `shaders/shared/step.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Rows {
    of_targets: u32,
    start: u32,
    capacity: u32,
    _pad: u32,
}

impl Rows {
    /// Every token of the batch.
    pub const TOKENS: Self = Self { of_targets: 0, start: 0, capacity: 0, _pad: 0 };

    /// Rows `start .. start + capacity` of those that have a target.
    pub const fn targets(start: u32, capacity: u32) -> Self {
        Self { of_targets: 1, start, capacity, _pad: 0 }
    }

    /// How many there are in a step.
    pub fn count(self, step: &Step) -> u32 {
        if self.of_targets == 0 { step.n_tokens } else { step.n_targets.saturating_sub(self.start).min(self.capacity) }
    }
}

/// What a dispatch computes: rows, and floating-point operations for each.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Rows it works on.
    pub rows: Rows,
    /// For a row, whatever it is.
    pub flops: u64,
    /// For each key that a row sees.
    pub flops_per_key: u64,
}

impl Work {
    /// Floating-point operations in a step.
    pub fn flops(self, step: &Step) -> u64 {
        let per_row = self.flops as f64 + self.flops_per_key as f64 * f64::from(step.keys_per_row);
        (f64::from(self.rows.count(step)) * per_row) as u64
    }
}

impl From<(Rows, u64)> for Work {
    fn from((rows, flops): (Rows, u64)) -> Self {
        Self { rows, flops, flops_per_key: 0 }
    }
}

/// Workgroups along one axis.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    /// Always as many.
    Fixed(u32),
    /// One for every `per` rows of the step.
    Rows {
        /// Which rows.
        rows: Rows,
        /// Rows a workgroup covers.
        per: u32,
    },
}

impl Extent {
    /// Enough workgroups of `per` for `n`.
    pub fn cover(n: u32, per: u32) -> Self {
        Self::Fixed(n.div_ceil(per))
    }

    /// Workgroups in a step.
    pub fn count(self, step: &Step) -> u32 {
        match self {
            Self::Fixed(n) => n,
            Self::Rows { rows, per } => rows.count(step).div_ceil(per),
        }
    }
}

/// Workgroups along x, y and z. A dispatch with none of them is skipped.
pub type Grid = [Extent; 3];

/// A byte range of a virtual buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub(super) buffer: usize,
    pub(super) offset_bytes: u64,
    pub(super) size_bytes: u64,
}

impl Slice {
    /// Part of this range. Offsets of bindings must be multiples of 256.
    pub fn range(self, bytes: Range<u64>) -> Self {
        assert!(bytes.end <= self.size_bytes, "slice {bytes:?} of {} bytes", self.size_bytes);
        Self { buffer: self.buffer, offset_bytes: self.offset_bytes + bytes.start, size_bytes: bytes.end - bytes.start }
    }

    /// Where it starts in `whole`, a range of the same buffer that it lies in, in bytes.
    pub fn offset_in(self, whole: Self) -> u64 {
        assert!(self.buffer == whole.buffer && self.offset_bytes >= whole.offset_bytes, "a part of another buffer");
        self.offset_bytes - whole.offset_bytes
    }

    /// Bytes covered.
    pub fn size_bytes(self) -> u64 {
        self.size_bytes
    }
}

/// Where a virtual buffer lives.
#[derive(Debug)]
pub(super) enum Place {
    /// Memory that outlives the replay.
    External(Buffer),
    /// Memory needed only between its first and last use here.
    Transient { size_bytes: u64 },
}

#[derive(Debug)]
pub(super) struct Virtual {
    pub(super) label: String,
    pub(super) place: Place,
}

/// One entry of a recording.
#[derive(Debug)]
pub enum Command {
    /// Run a kernel.
    Dispatch {
        /// Path as in the model, `layers.3.self_attn.q_proj`.
        label: String,
        /// What runs.
        shader: Shader,
        /// Storage, in the order of the shader's binding numbers from 2 on.
        bindings: Vec<Slice>,
        /// The kernel's parameter struct.
        params: Vec<u8>,
        /// Workgroups.
        grid: Grid,
        /// What it computes, for slicing and profiles.
        work: Work,
    },
    /// Fill with zeros.
    Clear(Slice),
    /// Copy between buffers, equal sizes.
    Copy {
        /// Source.
        from: Slice,
        /// Destination.
        to: Slice,
    },
}

/// A flat list of commands over virtual buffers.
pub struct Recording {
    pub(super) step: Buffer,
    max_tokens: u32,
    variant: Variant,
    pub(super) buffers: Vec<Virtual>,
    pub(super) commands: Vec<Command>,
    scope: Vec<String>,
    /// Where each phase after `forward` begins.
    phases: Vec<(usize, &'static str)>,
}

impl Recording {
    /// An empty recording whose kernels read `step`, a uniform buffer holding a [`Step`] of up to `max_tokens` tokens.
    pub fn new(step: &Buffer, max_tokens: usize) -> Self {
        let (max_tokens, variant) = (max_tokens as u32, Variant::default());
        Self {
            step: step.clone(),
            max_tokens,
            variant,
            buffers: vec![],
            commands: vec![],
            scope: vec![],
            phases: vec![],
        }
    }

    /// The same, with products computed as `variant` says.
    pub fn with_variant(self, variant: Variant) -> Self {
        Self { variant, ..self }
    }

    /// How products are to be computed.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The list so far.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The most rows there can be in a step: what buffers must hold, and which kernel suits.
    pub fn capacity(&self, rows: Rows) -> usize {
        if rows.of_targets == 0 { self.max_tokens as usize } else { rows.capacity as usize }
    }

    /// Floating-point operations of the kernels that state them, for one step.
    pub fn flops(&self, step: &Step) -> u64 {
        let of = |command: &Command| match command {
            Command::Dispatch { work, .. } => work.flops(step),
            _ => 0,
        };
        self.commands.iter().map(of).sum()
    }

    /// Memory needed only inside this recording; contents are undefined until written.
    pub fn transient(&mut self, label: &str, size_bytes: u64) -> Slice {
        let size_bytes = size_bytes.max(16).next_multiple_of(16);
        self.push(self.path(label), Place::Transient { size_bytes }, size_bytes)
    }

    /// `n` f32 of transient memory.
    pub fn floats(&mut self, label: &str, n: u64) -> Slice {
        self.transient(label, n * 4)
    }

    /// Memory that outlives the recording.
    pub fn external(&mut self, buffer: &Buffer) -> Slice {
        let known = self
            .buffers
            .iter()
            .position(|v| matches!(&v.place, Place::External(b) if std::rc::Rc::ptr_eq(&b.inner, &buffer.inner)));
        match known {
            Some(index) => Slice { buffer: index, offset_bytes: 0, size_bytes: buffer.size_bytes() },
            None => self.push(buffer.label().to_owned(), Place::External(buffer.clone()), buffer.size_bytes()),
        }
    }

    fn push(&mut self, label: String, place: Place, size_bytes: u64) -> Slice {
        self.buffers.push(Virtual { label, place });
        Slice { buffer: self.buffers.len() - 1, offset_bytes: 0, size_bytes }
    }

    /// Runs `shader` on `bindings` (numbers 2, 3, …) with `params` (number 1).
    pub fn dispatch(
        &mut self,
        label: &str,
        shader: &Shader,
        bindings: &[Slice],
        params: &impl Pod,
        grid: Grid,
        work: impl Into<Work>,
    ) {
        self.commands.push(Command::Dispatch {
            label: self.path(label),
            shader: shader.clone(),
            bindings: bindings.to_vec(),
            params: bytemuck::bytes_of(params).to_vec(),
            grid,
            work: work.into(),
        });
    }

    /// Fills with zeros.
    pub fn clear(&mut self, slice: Slice) {
        self.commands.push(Command::Clear(slice));
    }

    /// Copies `from` to `to`, which have one size and are different buffers.
    pub fn copy(&mut self, from: Slice, to: Slice) {
        assert_eq!(from.size_bytes, to.size_bytes, "copy between sizes");
        self.commands.push(Command::Copy { from, to });
    }

    /// What is recorded from here on belongs to `phase`; what is recorded before any such call, to `forward`.
    pub fn phase(&mut self, phase: &'static str) {
        self.phases.push((self.commands.len(), phase));
    }

    /// The phase of command `at`.
    pub(super) fn phase_of(&self, at: usize) -> &'static str {
        self.phases.iter().rev().find(|(start, _)| *start <= at).map_or("forward", |(_, phase)| phase)
    }

    /// Where the first phase ends.
    pub(super) fn first_phase_end(&self) -> usize {
        self.phases.first().map_or(self.commands.len(), |(start, _)| *start)
    }

    /// Labels inside `record` start with `name`.
    pub fn scope<T>(&mut self, name: &str, record: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(name.to_owned());
        let result = record(self);
        self.scope.pop();
        result
    }

    fn path(&self, label: &str) -> String {
        self.scope.iter().map(String::as_str).chain([label]).collect::<Vec<_>>().join(".")
    }
}

/// One line an entry: what runs, on which buffers.
impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |slice: &Slice| {
            let (start, end) = (slice.offset_bytes, slice.offset_bytes + slice.size_bytes);
            format!("{}[{start}..{end}]", self.buffers[slice.buffer].label)
        };
        for command in &self.commands {
            match command {
                Command::Dispatch { label, shader, bindings, .. } => {
                    let bindings: Vec<String> = bindings.iter().map(name).collect();
                    writeln!(f, "{label}: {}({})", shader.name(), bindings.join(", "))?;
                }
                Command::Clear(slice) => writeln!(f, "clear {}", name(slice))?,
                Command::Copy { from, to } => writeln!(f, "copy {} to {}", name(from), name(to))?,
            }
        }
        Ok(())
    }
}
