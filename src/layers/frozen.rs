//! Frozen weights: streamed from files to the GPU a few rows at a time, cut into parts that fit a binding.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Linear, Norm, QkNorm, Vector};
use crate::gpu::{Buffer, Gpu, Recording};
use crate::io::{Checkpoint, DType, Tensor, dequantize, first_not_finite};
use crate::kernels::column_sum::Run;
use crate::kernels::segments::Layout;
use crate::kernels::stride;
use crate::kernels::weight::{Weight, WeightFormat, repack};
use crate::lora::{ModuleShape, VectorGroup, VectorPart};
use crate::{Error, Result};

/// File bytes held in memory at a time while loading.
const CHUNK_BYTES: usize = 4 << 20;

/// A weight matrix `[rows, cols]` on the GPU, in the format of its file.
pub struct Frozen {
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
}

/// Some of a weight's rows, within the size one binding may have.
struct Part {
    format: WeightFormat,
    first_row: usize,
    rows: usize,
    values: Buffer,
    scales: Option<Buffer>,
}

impl Part {
    /// Writes repacked rows from its row `at` on, which is a multiple of eight.
    fn write(&self, gpu: &Gpu, cols: usize, at: usize, values: &[u8], scales: &[u8]) {
        let (value_bytes, scale_bytes) = self.format.row_bytes(cols);
        self.values.write(gpu, at as u64 * value_bytes, values);
        if let Some(buffer) = &self.scales {
            buffer.write(gpu, at as u64 * scale_bytes, scales);
        }
    }
}

impl Frozen {
    /// Outputs of the linears it belongs to, pads included, or entries of the table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Its parts as a recording sees them, in the order of their rows.
    pub fn weights(&self, rec: &mut Recording) -> Vec<Weight> {
        self.parts
            .iter()
            .map(|part| Weight {
                format: part.format,
                rows: part.rows,
                cols: self.cols,
                first_row: part.first_row,
                values: rec.external(&part.values),
                scales: part.scales.as_ref().map(|scales| rec.external(scales)),
            })
            .collect()
    }
}

/// Kinds of norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm.
    Rms,
    /// RMS norm by one more than the weight in the file.
    RmsPlusOne,
    /// Layer norm, with a bias.
    Layer,
}

impl NormKind {
    /// What its weight is more than that of the file.
    fn offset(self) -> f32 {
        if self == Self::RmsPlusOne { 1.0 } else { 0.0 }
    }
}

/// Streams a checkpoint's weights to the GPU and keeps count.
pub struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    /// Told (bytes loaded, bytes in all); false stops.
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
    loaded_bytes: u64,
    total_bytes: u64,
    used: BTreeSet<String>,
}

impl<'a> Loader<'a> {
    /// A loader of all that `checkpoint` has.
    pub fn new(gpu: &'a Gpu, checkpoint: &'a Checkpoint, progress: &'a mut dyn FnMut(u64, u64) -> bool) -> Self {
        let total_bytes = checkpoint.tensors().map(Tensor::size_bytes).sum();
        Self { gpu, checkpoint, progress, loaded_bytes: 0, total_bytes, used: BTreeSet::new() }
    }

    /// True when the files have a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.tensors().any(|tensor| tensor.name == name)
    }

    /// The matrix `name`, which must be `[rows, cols]`.
    pub async fn frozen(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen> {
        let tensor = self.expect(name, &[rows, cols])?;
        let format = WeightFormat::of(tensor.dtype);
        let mut parts = vec![];
        self.load_parts(&mut parts, &tensor, format, 0).await?;
        Ok(Frozen { rows, cols, parts })
    }

    /// The linears `modules`, which read the same matrix, as one: each weight must be `[out_features, in_features]`,
    /// and, with a `bias`, each bias `[out_features]`.
    pub async fn linear(&mut self, modules: Vec<ModuleShape>, layout: Layout, bias: bool) -> Result<Linear> {
        let cols = modules[0].in_features;
        let mut tensors = vec![];
        for module in &modules {
            tensors.push(self.expect(&format!("{}.weight", module.name), &[module.out_features, cols])?);
        }
        let widths: Vec<usize> = modules.iter().map(|module| module.out_features).collect();
        let rows = layout.width(&widths);
        let format = WeightFormat::of(tensors[0].dtype);
        let alike = tensors.iter().all(|tensor| WeightFormat::of(tensor.dtype) == format);
        let mut parts = vec![];
        match layout {
            Layout::SideBySide if alike && rows as u64 * format.row_bytes(cols).0 <= self.limit() => {
                let part = self.allocate(&modules[0].name, format, cols, 0, rows)?;
                for (index, tensor) in tensors.iter().enumerate() {
                    self.fill(&part, tensor, 0..widths[index], layout.column(&widths, index, 0)).await?;
                }
                parts.push(part);
            }
            Layout::SideBySide => {
                for (index, tensor) in tensors.iter().enumerate() {
                    let format = WeightFormat::of(tensor.dtype);
                    self.load_parts(&mut parts, tensor, format, layout.column(&widths, index, 0)).await?;
                }
            }
            // Rows of both lie in turn, so they must have one format: f32 holds every other exactly.
            Layout::Interleaved | Layout::Halves => {
                let format = if alike { format } else { WeightFormat::F32 };
                let part_rows = self.part_rows(&tensors[0], format, 2)?;
                let halves = match layout {
                    Layout::Halves => [(&tensors[0], 0), (&tensors[0], widths[0] / 2)],
                    _ => [(&tensors[0], 0), (&tensors[1], 0)],
                };
                for first in (0..rows).step_by(part_rows) {
                    let part = self.allocate(&modules[0].name, format, cols, first, part_rows.min(rows - first))?;
                    self.fill_in_turn(&part, halves).await?;
                    parts.push(part);
                }
            }
        }
        let bias = if bias { Some(self.biases(&modules, layout).await?) } else { None };
        Ok(Linear { modules, layout, weight: Frozen { rows, cols, parts }, bias })
    }

    /// The biases of `modules`, laid out as their outputs.
    async fn biases(&mut self, modules: &[ModuleShape], layout: Layout) -> Result<Vector> {
        let widths: Vec<usize> = modules.iter().map(|module| module.out_features).collect();
        let parts = modules.iter().enumerate().map(|(index, module)| VectorPart {
            name: format!("{}.bias", module.name),
            runs: layout.runs(&widths, index),
        });
        self.vectors(parts.collect(), layout.width(&widths), 0.0, false).await
    }

    /// The vectors `parts` as one that kernels read, `width` numbers of which those past the vectors are zero: numbers of the
    /// files and an offset.
    async fn vectors(&mut self, parts: Vec<VectorPart>, width: usize, offset: f32, of_norms: bool) -> Result<Vector> {
        let mut values = vec![-offset; width];
        for part in &parts {
            let vector = self.vector(&part.name, part.len()).await?;
            part.places().zip(vector).for_each(|(place, value)| values[place] = value);
        }
        let numbers: Vec<f32> = values.iter().map(|value| value + offset).collect();
        let base = self.upload(&parts[0].name, &numbers)?;
        let values = if self.gpu.is_paper() { vec![] } else { values };
        Ok(Vector::new(base, VectorGroup { parts, of_norms, width, values, offset }))
    }

    /// The vector `name`, which must be `[len]`; empty on paper.
    async fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.expect(name, &[len])?;
        if self.gpu.is_paper() {
            return Ok(vec![]);
        }
        let values = self.checkpoint.read_f32(name).await?;
        self.check_finite(name, first_not_finite(DType::F32, bytemuck::cast_slice(&values)))?;
        self.count(tensor.size_bytes())?;
        Ok(values)
    }

    fn upload(&self, name: &str, values: &[f32]) -> Result<Buffer> {
        let buffer = Buffer::storage(self.gpu, name, values.len() as u64 * 4)?;
        if !self.gpu.is_paper() {
            buffer.write(self.gpu, 0, bytemuck::cast_slice(values));
        }
        Ok(buffer)
    }

    /// Bytes that a binding may have.
    fn limit(&self) -> u64 {
        self.gpu.info().max_storage_buffer_binding_size.min(self.gpu.info().max_buffer_size)
    }

    /// Rows of a tensor that must be read together: whole heads where llama.cpp reordered rows, whole words of scales,
    /// whole blocks of output columns.
    fn unit(&self, tensor: &Tensor) -> usize {
        8 * self.checkpoint.row_group(tensor)
    }

    /// Rows of a part, of `n` tensors like this one together.
    fn part_rows(&self, tensor: &Tensor, format: WeightFormat, n: usize) -> Result<usize> {
        let (value_bytes, _) = format.row_bytes(tensor.cols());
        let (unit, limit) = (n * self.unit(tensor), self.limit());
        let rows = (limit / value_bytes.max(1)) as usize / unit * unit;
        if rows == 0 {
            return Err(Error::OutOfMemory {
                needed_bytes: value_bytes * unit as u64,
                message: format!("a few rows of {} are larger than the {limit} bytes this GPU can bind", tensor.name),
            });
        }
        Ok(rows)
    }

    /// Room for `rows` rows, whole eights of them, zero.
    fn allocate(&self, name: &str, format: WeightFormat, cols: usize, first_row: usize, rows: usize) -> Result<Part> {
        let (value_bytes, scale_bytes) = format.row_bytes(cols);
        let buffer = |bytes_per_row: u64| Buffer::storage(self.gpu, name, stride(rows) as u64 * bytes_per_row);
        let scales = if scale_bytes == 0 { None } else { Some(buffer(scale_bytes)?) };
        Ok(Part { format, first_row, rows, values: buffer(value_bytes)?, scales })
    }

    /// All of a tensor as parts of a taller matrix, in which it starts at row `first_row`.
    async fn load_parts(
        &mut self,
        parts: &mut Vec<Part>,
        tensor: &Tensor,
        format: WeightFormat,
        first_row: usize,
    ) -> Result<()> {
        let rows = tensor.rows();
        let part_rows = self.part_rows(tensor, format, 1)?;
        for start in (0..rows).step_by(part_rows) {
            let end = rows.min(start + part_rows);
            let part = self.allocate(&tensor.name, format, tensor.cols(), first_row + start, end - start)?;
            self.fill(&part, tensor, start..end, 0).await?;
            parts.push(part);
        }
        Ok(())
    }

    /// Writes rows of a tensor from row `at` of a part on.
    async fn fill(&mut self, part: &Part, tensor: &Tensor, rows: Range<usize>, at: usize) -> Result<()> {
        if self.gpu.is_paper() {
            return Ok(());
        }
        let chunk_rows = self.chunk_rows(tensor);
        for start in rows.clone().step_by(chunk_rows) {
            let chunk = start..rows.end.min(start + chunk_rows);
            let to = at + start - rows.start;
            let (values, scales) = self.read(part, tensor, chunk).await?;
            part.write(self.gpu, tensor.cols(), to, &values, &scales);
        }
        Ok(())
    }

    /// Writes four rows of one tensor and four of the other by turns, each from a row on; of each, those that belong in
    /// the part.
    async fn fill_in_turn(&mut self, part: &Part, halves: [(&Tensor, usize); 2]) -> Result<()> {
        if self.gpu.is_paper() {
            return Ok(());
        }
        let [(tensor, at), (other, other_at)] = halves;
        let cols = tensor.cols();
        let (value_bytes, scale_bytes) = part.format.row_bytes(cols);
        // Pads of the weight are no rows of the file.
        let last = if tensor.name == other.name { other_at } else { tensor.rows() };
        let rows = part.first_row / 2..last.min((part.first_row + part.rows) / 2);
        let chunk_rows = self.chunk_rows(tensor);
        for start in rows.clone().step_by(chunk_rows) {
            let chunk = start..rows.end.min(start + chunk_rows);
            let first = self.read(part, tensor, at + chunk.start..at + chunk.end).await?;
            let second = self.read(part, other, other_at + chunk.start..other_at + chunk.end).await?;
            let in_turn = |a: &[u8], b: &[u8], row_bytes: u64| -> Vec<u8> {
                // The last few rows may be fewer than four: their place is kept.
                let four = 4 * row_bytes as usize;
                let padded = |bytes: &[u8]| {
                    let mut bytes = bytes[..chunk.len() * row_bytes as usize].to_vec();
                    bytes.resize(chunk.len().next_multiple_of(4) * row_bytes as usize, 0);
                    bytes
                };
                let (a, b) = (padded(a), padded(b));
                a.chunks(four.max(1)).zip(b.chunks(four.max(1))).flat_map(|(a, b)| [a, b].concat()).collect()
            };
            let values = in_turn(&first.0, &second.0, value_bytes);
            let scales = in_turn(&first.1, &second.1, scale_bytes);
            part.write(self.gpu, cols, 2 * (start - rows.start), &values, &scales);
        }
        Ok(())
    }

    fn chunk_rows(&self, tensor: &Tensor) -> usize {
        if tensor.transposed {
            // Each read is of all of it.
            return tensor.rows();
        }
        let unit = self.unit(tensor);
        (CHUNK_BYTES / tensor.stored_row_bytes().max(1) / unit).max(1) * unit
    }

    /// Rows of a tensor in a part's format: (values, scales).
    async fn read(&mut self, part: &Part, tensor: &Tensor, rows: Range<usize>) -> Result<(Vec<u8>, Vec<u8>)> {
        let first_row = rows.start;
        let blocks = self.checkpoint.read_rows(tensor, rows).await?;
        let at = first_not_finite(tensor.dtype, &blocks).map(|at| first_row * tensor.cols() + at);
        self.check_finite(&tensor.name, at)?;
        self.count(blocks.len() as u64)?;
        if part.format == WeightFormat::of(tensor.dtype) {
            return Ok(repack(tensor.dtype, &blocks, tensor.cols()));
        }
        let values = dequantize(tensor.dtype, &blocks);
        Ok(repack(DType::F32, bytemuck::cast_slice(&values), tensor.cols()))
    }

    /// Refuses NaN and infinities, with which no loss is a number: what a shader makes of them is not even defined.
    fn check_finite(&self, tensor: &str, at: Option<usize>) -> Result<()> {
        let Some(at) = at else { return Ok(()) };
        let message = format!("{tensor} holds a number that is not finite, at {at}");
        Err(Error::BadFile { file: self.checkpoint.name().to_owned(), message })
    }

    /// The norm `module` over `width` columns: an RMS norm whose weight is that of the file and `offset`, or with a
    /// bias a layer norm.
    pub async fn norm(&mut self, module: &str, width: usize, eps: f32, kind: NormKind) -> Result<Norm> {
        let part = |kind: &str| vec![VectorPart { name: format!("{module}.{kind}"), runs: vec![Run::new(0, width)] }];
        let weight = self.vectors(part("weight"), stride(width), kind.offset(), true).await?;
        let bias = match kind {
            NormKind::Layer => Some(self.vectors(part("bias"), stride(width), 0.0, true).await?),
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Norm { weight, bias, width, eps })
    }

    /// The norms `modules` of query and key heads.
    pub async fn qk_norm(&mut self, modules: [&str; 2], head_dim: usize, eps: f32, kind: NormKind) -> Result<QkNorm> {
        let part = |(module, first): (&str, usize)| VectorPart {
            name: format!("{module}.weight"),
            runs: vec![Run::new(first, head_dim)],
        };
        let parts = modules.into_iter().zip([0, head_dim]).map(part).collect();
        Ok(QkNorm { weight: self.vectors(parts, 2 * head_dim, kind.offset(), true).await?, eps })
    }

    /// Refuses files that hold more than the architecture asked for: ignoring a tensor would change the model.
    pub async fn finish(self, ignored: &[&str]) -> Result<()> {
        let unused = self
            .checkpoint
            .tensors()
            .map(|tensor| &tensor.name)
            .find(|name| !self.used.contains(*name) && !ignored.iter().any(|suffix| name.ends_with(suffix)));
        match unused {
            Some(name) => Err(Error::Unsupported {
                file: self.checkpoint.name().to_owned(),
                field: name.clone(),
                message: "the model has this tensor, but its config names an architecture without it".into(),
            }),
            None => self.gpu.settle().await,
        }
    }

    fn expect(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor(name)?.clone();
        if tensor.shape != shape {
            return Err(Error::BadFile {
                file: self.checkpoint.name().to_owned(),
                message: format!("{name} has shape {:?}, the config says {shape:?}", tensor.shape),
            });
        }
        self.used.insert(name.to_owned());
        Ok(tensor)
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        self.loaded_bytes += bytes;
        self.gpu.check()?;
        if (self.progress)(self.loaded_bytes, self.total_bytes) { Ok(()) } else { Err(Error::Cancelled) }
    }
}
