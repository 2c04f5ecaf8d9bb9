//! Vectors of the base that are trained as they are: biases (PEFT's `bias`) and whole norms (its `modules_to_save`).
//!
//! They lie in the arena after all factors, so that they are cleared, clipped and stepped with these. The base's own stay
//! beside them, and a pass begins by working out what its kernels are to read: at strength λ `(1 - λ) original + λ trained`,
//! of which 0 is the base to the bit and 1 the vectors as trained.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::HostMatrix;
use crate::Result;
use crate::gpu::{Buffer, Gpu, Recording, Slice};
use crate::io::LoraConfig;
use crate::kernels::blend::blend;
use crate::kernels::column_sum::Run;

/// Each begins at a multiple of this many bytes: where bindings may, and where a block of 8-bit moments does.
const ALIGN_BYTES: u64 = 1024;

/// Vectors that kernels read as one: the biases of linears that are run as one, or the weights of query and key norms.
#[derive(Debug)]
pub struct VectorGroup {
    /// Each of them.
    pub parts: Vec<VectorPart>,
    /// They are norms', which can be trained in full.
    pub of_norms: bool,
    /// Numbers that kernels read, pads included.
    pub width: usize,
    /// These numbers less `offset`; none on paper.
    pub values: Vec<f32>,
    /// What kernels add to the numbers that files have.
    pub offset: f32,
}

/// One vector of a [`VectorGroup`].
#[derive(Debug, Clone, PartialEq)]
pub struct VectorPart {
    /// Hugging Face's name, `model.layers.0.self_attn.q_proj.bias`.
    pub name: String,
    /// Where it lies, in its order.
    pub runs: Vec<Run>,
}

impl VectorPart {
    /// Numbers in it.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// True of none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path of the module that has it.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(module, _)| module)
    }

    /// Where its numbers lie, in their order.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        self.runs.iter().flat_map(|run| (0..run.len).map(|at| run.place(at)))
    }
}

/// A group of which some are trained, and where it begins among all that are, in bytes.
struct Group {
    of: Rc<VectorGroup>,
    trained: Vec<VectorPart>,
    start: u64,
}

/// The trained vectors of an adapter.
pub(super) struct Vectors {
    /// Those of one offset follow each other.
    groups: Vec<Group>,
    /// Where they begin in the arena, in bytes.
    start: u64,
    /// The base's, laid out as they are there.
    original: Buffer,
    /// What kernels read, likewise; every pass works it out anew but those of single tokens.
    effective: Buffer,
}

/// A trained vector, or several that are read as one, in a recording.
#[derive(Debug, Clone)]
pub struct VectorView {
    /// What kernels are to read.
    pub effective: Slice,
    /// Its gradients, where the recording has them.
    pub grads: Option<Slice>,
    /// Where those of its numbers lie that are trained.
    pub trained: Vec<Run>,
}

/// What is to be worked out before a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blend {
    original: Slice,
    trained: Slice,
    effective: Slice,
    offset: f32,
}

impl Blend {
    pub(super) fn record(&self, rec: &mut Recording) {
        blend(rec, "trained_vectors", [self.original, self.trained], self.offset, self.effective);
    }
}

impl Vectors {
    /// Room for what `config` trains of `all`, at the end of an arena that has `arena_bytes` so far; none where that is nothing.
    pub(super) fn allocate(
        gpu: &Gpu,
        config: &LoraConfig,
        all: &[Rc<VectorGroup>],
        arena_bytes: u64,
    ) -> Result<Option<Self>> {
        let mut groups = vec![];
        for of in all {
            let mut trained = vec![];
            for part in &of.parts {
                if config.trains(&part.name)? {
                    trained.push(part.clone());
                }
            }
            if !trained.is_empty() {
                groups.push(Group { of: of.clone(), trained, start: 0 });
            }
        }
        if groups.is_empty() {
            return Ok(None);
        }
        groups.sort_by(|one, other| one.of.offset.total_cmp(&other.of.offset));
        let mut size_bytes = 0;
        for group in &mut groups {
            group.start = size_bytes;
            size_bytes += (group.of.width as u64 * 4).next_multiple_of(ALIGN_BYTES);
        }
        let original = Buffer::storage(gpu, "original_vectors", size_bytes)?;
        let effective = Buffer::storage(gpu, "vectors", size_bytes)?;
        let vectors = Self { groups, start: arena_bytes.next_multiple_of(ALIGN_BYTES), original, effective };
        if !gpu.is_paper() {
            for group in &vectors.groups {
                vectors.original.write(gpu, group.start, bytemuck::cast_slice(&group.of.values));
            }
        }
        Ok(Some(vectors))
    }

    /// Where they end in the arena, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.start + self.original.size_bytes()
    }

    /// Where they lie in the arena, in bytes.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        self.start..self.end()
    }

    /// Bytes beside the arena.
    pub(super) fn size_bytes(&self) -> u64 {
        self.original.size_bytes() + self.effective.size_bytes()
    }

    /// Those that are trained.
    pub(super) fn trained(&self) -> impl Iterator<Item = &VectorPart> {
        self.groups.iter().flat_map(|group| &group.trained)
    }

    /// Writes them to the arena: by name what `values` has, and else the base's.
    pub(super) fn write<'a>(&self, gpu: &Gpu, params: &Buffer, values: impl Fn(&str) -> Option<&'a [f32]>) {
        for group in &self.groups {
            let mut image = group.of.values.clone();
            for part in &group.trained {
                let Some(values) = values(&part.name) else { continue };
                part.places().zip(values).for_each(|(place, &value)| image[place] = value);
            }
            params.write(gpu, self.start + group.start, bytemuck::cast_slice(&image));
        }
    }

    /// Reads them off an arena, each as `[len, 1]`.
    pub(super) fn unpack(&self, arena: &[u8], tensors: &mut BTreeMap<String, HostMatrix>) {
        for group in &self.groups {
            let at = |place: usize| (self.start + group.start) as usize + 4 * place;
            let value = |place: usize| f32::from_le_bytes(std::array::from_fn(|byte| arena[at(place) + byte]));
            for part in &group.trained {
                let data: Vec<f32> = part.places().map(value).collect();
                tensors.insert(part.name.clone(), HostMatrix { rows: data.len(), cols: 1, data });
            }
        }
    }

    /// In a recording, by the name of the first of each group; and what is to be worked out before.
    pub(super) fn view(
        &self,
        rec: &mut Recording,
        params: Slice,
        grads: Option<Slice>,
    ) -> (HashMap<String, VectorView>, Vec<Blend>) {
        let [original, effective] = [&self.original, &self.effective].map(|buffer| rec.external(buffer));
        let in_arena = |arena: Slice| arena.range(self.range());
        let view = |group: &Group| {
            let range = group.start..group.start + 4 * group.of.width as u64;
            let view = VectorView {
                effective: effective.range(range.clone()),
                grads: grads.map(|grads| in_arena(grads).range(range)),
                trained: group.trained.iter().flat_map(|part| part.runs.iter().copied()).collect(),
            };
            (group.of.parts[0].name.clone(), view)
        };
        let blends = self.groups.chunk_by(|one, other| one.of.offset == other.of.offset).map(|alike| {
            let last = &alike[alike.len() - 1];
            let range = alike[0].start..last.start + 4 * last.of.width.next_multiple_of(4) as u64;
            Blend {
                original: original.range(range.clone()),
                trained: in_arena(params).range(range.clone()),
                effective: effective.range(range),
                offset: last.of.offset,
            }
        });
        (self.groups.iter().map(view).collect(), blends.collect())
    }
}
