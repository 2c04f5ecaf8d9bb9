//! Safetensors files whose bytes are worked out when they are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use serde_json::{Map, json};

use crate::io::{
    AdapterFile, ByteSource, Checkpoint, DType, LocalBoxFuture, Matrix, Tensor, dequantize, encode, factor_pairs,
    past_the_end,
};
use crate::lora::merged;
use crate::{Error, Result};

/// A base's weights with what is added to them.
pub(super) struct Weights {
    checkpoint: Checkpoint,
    /// By the name of the weight.
    deltas: BTreeMap<String, Delta>,
    /// Those that take the place of the base's.
    vectors: BTreeMap<String, Vec<f32>>,
    dtype: DType,
}

/// `scaling · B A`, and DoRA's magnitudes.
struct Delta {
    a: Matrix,
    b: Matrix,
    magnitude: Option<Matrix>,
    scaling: f32,
}

impl Weights {
    pub(super) fn new(checkpoint: Checkpoint, adapter: &AdapterFile, dtype: DType) -> Result<Self> {
        let mut deltas = BTreeMap::new();
        for pair in factor_pairs(adapter)? {
            let name = format!("{}.weight", pair.name);
            let shape = [pair.b.rows, pair.a.cols];
            if checkpoint.tensor(&name)?.shape != shape {
                let message = format!("it has {name} for a weight of shape {shape:?}");
                return Err(Error::AdapterMismatch { message });
            }
            let [a, b] = [pair.a, pair.b].map(Matrix::clone);
            deltas.insert(name, Delta { a, b, magnitude: pair.magnitude.cloned(), scaling: pair.scaling });
        }
        let mut vectors = BTreeMap::new();
        for (name, values) in adapter.vectors() {
            if checkpoint.tensor(name)?.shape != [values.len()] {
                let message = format!("it has {} numbers for {name}", values.len());
                return Err(Error::AdapterMismatch { message });
            }
            vectors.insert(name.to_owned(), values.to_vec());
        }
        Ok(Self { checkpoint, deltas, vectors, dtype })
    }

    /// How many of them are not as the base has them.
    pub(super) fn n_merged(&self) -> usize {
        self.deltas.len() + self.vectors.len()
    }

    /// Rows of a tensor with what is added to them. Both ends of `rows` are whole groups of the tensor's.
    async fn rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        if let Some(values) = self.vectors.get(&tensor.name) {
            // A vector is one row.
            return Ok(values[rows.start * tensor.cols()..rows.end * tensor.cols()].to_vec());
        }
        let blocks = self.checkpoint.read_rows(tensor, rows.clone()).await?;
        let mut values = dequantize(tensor.dtype, &blocks);
        if tensor.plus_one {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        let Some(Delta { a, b, magnitude, scaling }) = self.deltas.get(&tensor.name) else { return Ok(values) };
        let part = |of: &Matrix| {
            let data = of.data[rows.start * of.cols..rows.end * of.cols].to_vec();
            Matrix { rows: rows.len(), cols: of.cols, data }
        };
        Ok(merged(&values, a, &part(b), magnitude.as_ref().map(part).as_ref(), *scaling))
    }

    /// True of the weights that transformers keeps as `[in, out]`: those of GPT-2's `Conv1D`.
    fn is_turned(&self, tensor: &Tensor) -> bool {
        self.checkpoint.is_conv1d(&tensor.name)
    }

    /// The shape in transformers.
    fn shape(&self, tensor: &Tensor) -> Vec<usize> {
        let mut shape = tensor.shape.clone();
        if self.is_turned(tensor) {
            shape.reverse();
        }
        shape
    }

    fn size_bytes(&self, tensor: &Tensor) -> u64 {
        (tensor.rows() as u64 * tensor.cols() as u64) * self.dtype.block_bytes() as u64
    }

    /// Bytes `range` of a tensor as it is written.
    async fn bytes(&self, tensor: &Tensor, range: Range<u64>) -> Result<Vec<u8>> {
        let (n_rows, cols) = (tensor.rows(), tensor.cols());
        let row_bytes = (cols * self.dtype.block_bytes()) as u64;
        // Of a turned weight every row has a number in each of the file's.
        let rows = if self.is_turned(tensor) {
            0..n_rows
        } else {
            let group = self.checkpoint.row_group(tensor);
            let [first, last] = [range.start / row_bytes, range.end.div_ceil(row_bytes)].map(|row| row as usize);
            first / group * group..last.next_multiple_of(group).min(n_rows)
        };
        let mut values = self.rows(tensor, rows.clone()).await?;
        if self.is_turned(tensor) {
            values = (0..values.len()).map(|at| values[at % n_rows * cols + at / n_rows]).collect();
        }
        let start = rows.start as u64 * row_bytes;
        let [from, to] = [range.start - start, range.end - start].map(|at| at as usize);
        let bytes = self.encode(tensor, &values)?;
        Ok(bytes[from..to].to_vec())
    }

    fn encode(&self, tensor: &Tensor, values: &[f32]) -> Result<Vec<u8>> {
        let bytes = encode(self.dtype, values);
        if dequantize(self.dtype, &bytes).iter().all(|value| value.is_finite()) {
            return Ok(bytes);
        }
        let message = format!("it has numbers that {} cannot hold: choose another type", self.dtype);
        Err(Error::BadFile { file: tensor.name.clone(), message })
    }
}

/// A safetensors file.
pub(super) struct Shard {
    name: String,
    weights: Rc<Weights>,
    /// Its length as eight bytes, and the header.
    header: Vec<u8>,
    /// Each with the place of its first byte, in that order.
    tensors: Vec<(u64, Tensor)>,
    size_bytes: u64,
}

/// The weights in files of at most `max_bytes` where no tensor is larger, without those whose names end like one of
/// `unused`; and the index that names the file of each where these are several.
pub(super) fn shards(weights: Rc<Weights>, unused: &[&str], max_bytes: u64) -> (Vec<Shard>, Option<Vec<u8>>) {
    let is_used = |tensor: &&Tensor| !unused.iter().any(|end| tensor.name.ends_with(end));
    let mut parts: Vec<(u64, Vec<Tensor>)> = vec![];
    for tensor in weights.checkpoint.tensors().filter(is_used) {
        let size = weights.size_bytes(tensor);
        match parts.last_mut() {
            Some((bytes, tensors)) if *bytes + size <= max_bytes => {
                *bytes += size;
                tensors.push(tensor.clone());
            }
            _ => parts.push((size, vec![tensor.clone()])),
        }
    }
    let count = parts.len();
    let total_size: u64 = parts.iter().map(|(bytes, _)| bytes).sum();
    let mut weight_map = Map::new();
    let mut shards = vec![];
    for (at, (_, tensors)) in parts.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
        };
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.as_str().into())));
        shards.push(Shard::new(name, weights.clone(), tensors));
    }
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    (shards, (count > 1).then(|| format!("{index:#}\n").into_bytes()))
}

impl Shard {
    fn new(name: String, weights: Rc<Weights>, tensors: Vec<Tensor>) -> Self {
        let mut fields = Map::new();
        // What transformers asks of a file of torch's.
        fields.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut end = 0;
        let mut starts = vec![];
        for tensor in &tensors {
            let start = end;
            end += weights.size_bytes(tensor);
            let dtype = weights.dtype.to_string();
            let info = json!({ "dtype": dtype, "shape": weights.shape(tensor), "data_offsets": [start, end] });
            fields.insert(tensor.name.clone(), info);
            starts.push(start);
        }
        let mut text = serde_json::Value::from(fields).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        let data = header.len() as u64;
        let tensors = starts.into_iter().map(|start| data + start).zip(tensors).collect();
        Self { name, weights, header, tensors, size_bytes: data + end }
    }

    async fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let header = self.header.len() as u64;
        let [from, to] = [range.start, range.end].map(|at| at.min(header) as usize);
        let mut bytes = self.header[from..to].to_vec();
        for (start, tensor) in &self.tensors {
            let end = start + self.weights.size_bytes(tensor);
            let (from, to) = (range.start.max(*start), range.end.min(end));
            if from < to {
                bytes.extend(self.weights.bytes(tensor, from - start..to - start).await?);
            }
        }
        Ok(bytes)
    }
}

impl ByteSource for Shard {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            match offset.checked_add(size as u64) {
                Some(end) if end <= self.size_bytes => self.read_range(offset..end).await,
                _ => Err(past_the_end(&self.name, offset, size, self.size_bytes)),
            }
        })
    }
}
