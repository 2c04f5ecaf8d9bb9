//! Frozen weights: streamed from files to the GPU a few rows at a time, cut into parts that fit a binding.

use std::collections::BTreeSet;

use super::{Linear, RmsNorm};
use crate::gpu::{Buffer, Gpu, Recording};
use crate::io::{Checkpoint, Tensor};
use crate::kernels::stride;
use crate::kernels::weight::{Weight, WeightFormat, repack};
use crate::{Error, Result};

/// File bytes held in memory at a time while loading.
const CHUNK_BYTES: usize = 4 << 20;

/// A weight matrix `[rows, cols]` on the GPU, in the format of its file.
pub struct Frozen {
    rows: usize,
    cols: usize,
    format: WeightFormat,
    parts: Vec<Part>,
}

/// Some of a weight's rows, within the size one binding may have.
struct Part {
    first_row: usize,
    rows: usize,
    values: Buffer,
    scales: Option<Buffer>,
}

impl Frozen {
    /// Outputs of the linear it belongs to, or entries of the table.
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
                format: self.format,
                rows: part.rows,
                cols: self.cols,
                first_row: part.first_row,
                values: rec.external(&part.values),
                scales: part.scales.as_ref().map(|scales| rec.external(scales)),
            })
            .collect()
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
        let (value_bytes, scale_bytes) = format.row_bytes(cols);
        // Whole heads where llama.cpp reordered rows, whole words of scales, whole blocks of output columns.
        let unit = 8 * self.checkpoint.row_group(&tensor);
        let limit = self.gpu.info().max_storage_buffer_binding_size.min(self.gpu.info().max_buffer_size);
        let part_rows = (limit / value_bytes.max(1)) as usize / unit * unit;
        if part_rows == 0 {
            return Err(Error::OutOfMemory {
                needed_bytes: value_bytes * unit as u64,
                message: format!("a few rows of {name} are larger than the {limit} bytes this GPU can bind"),
            });
        }
        let mut parts = vec![];
        for first_row in (0..rows).step_by(part_rows) {
            let rows = part_rows.min(rows - first_row);
            let values = Buffer::storage(self.gpu, name, rows as u64 * value_bytes)?;
            let scales = match scale_bytes {
                0 => None,
                bytes => Some(Buffer::storage(self.gpu, name, rows as u64 * bytes)?),
            };
            let part = Part { first_row, rows, values, scales };
            if !self.gpu.is_paper() {
                self.fill(&part, &tensor, (CHUNK_BYTES / tensor.row_bytes().max(1) / unit).max(1) * unit).await?;
            }
            parts.push(part);
        }
        Ok(Frozen { rows, cols, format, parts })
    }

    /// Reads a part of `tensor`, `chunk_rows` rows at a time.
    async fn fill(&mut self, part: &Part, tensor: &Tensor, chunk_rows: usize) -> Result<()> {
        let (value_bytes, scale_bytes) = WeightFormat::of(tensor.dtype).row_bytes(tensor.cols());
        for start in (0..part.rows).step_by(chunk_rows) {
            let end = part.rows.min(start + chunk_rows);
            let blocks = self.checkpoint.read_rows(tensor, part.first_row + start..part.first_row + end).await?;
            let (value, scale) = repack(tensor.dtype, &blocks, tensor.cols());
            part.values.write(self.gpu, start as u64 * value_bytes, &value);
            if let Some(scales) = &part.scales {
                scales.write(self.gpu, start as u64 * scale_bytes, &scale);
            }
            self.count(blocks.len() as u64)?;
        }
        Ok(())
    }

    /// The linear `module`, whose weight must be `[out_features, in_features]`.
    pub async fn linear(&mut self, module: &str, out_features: usize, in_features: usize) -> Result<Linear> {
        let weight = self.frozen(&format!("{module}.weight"), out_features, in_features).await?;
        Ok(Linear { name: module.to_owned(), weight })
    }

    /// The RMS norm `module` over `width` columns.
    pub async fn rms_norm(&mut self, module: &str, width: usize, eps: f32) -> Result<RmsNorm> {
        let name = format!("{module}.weight");
        let tensor = self.expect(&name, &[width])?;
        let weight = Buffer::storage(self.gpu, &name, stride(width) as u64 * 4)?;
        if !self.gpu.is_paper() {
            let mut values = self.checkpoint.read_f32(&name).await?;
            values.resize(stride(width), 0.0);
            weight.write(self.gpu, 0, bytemuck::cast_slice(&values));
            self.count(tensor.size_bytes())?;
        }
        Ok(RmsNorm { weight, width, eps })
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
