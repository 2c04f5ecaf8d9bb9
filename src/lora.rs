//! The adapter: every A and B side by side in one arena, so that clearing, norms and AdamW are one dispatch for all.
//!
//! Names, shapes and initialisation are PEFT's: A `[r, in]` Kaiming-uniform, B `[out, r]` zero,
//! scaling `lora_alpha / r` (or `/ sqrt(r)` with rsLoRA, arXiv 2312.03732).

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu::{Buffer, Gpu, Recording, Slice};
use crate::io::{AdapterFile, LoraConfig, Matrix as HostMatrix, sort_target_modules};
use crate::kernels::stride;
use crate::{Error, Result};

/// Bindings start at multiples of this.
const ALIGN_BYTES: u64 = 256;
/// The largest rank accepted: beyond it full fine-tuning is smaller.
pub const MAX_RANK: usize = 1024;

/// A linear that can be adapted.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleShape {
    /// Hugging Face's path, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Columns of its weight.
    pub in_features: usize,
    /// Rows of its weight.
    pub out_features: usize,
}

impl ModuleShape {
    /// The last part of its path, what `target_modules` names.
    pub fn kind(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// One adapted linear and where its factors lie in the arena.
#[derive(Debug, Clone)]
struct Module {
    shape: ModuleShape,
    a_offset: u64,
    b_offset: u64,
}

impl Module {
    fn a_bytes(&self, r: usize) -> u64 {
        (r * stride(self.shape.in_features) * 4) as u64
    }

    fn b_bytes(&self, r: usize) -> u64 {
        (self.shape.out_features * stride(r) * 4) as u64
    }
}

/// LoRA factors on the GPU.
pub struct Adapter {
    /// What PEFT writes beside the factors.
    pub config: LoraConfig,
    modules: Vec<Module>,
    params: Buffer,
}

/// One linear's factors as a recording sees them.
#[derive(Debug, Clone, Copy)]
pub struct LoraFactors {
    /// `[r, stride(in_features)]`.
    pub a: Slice,
    /// `[out_features, stride(r)]`.
    pub b: Slice,
    /// Gradients of both, in a recording that has them.
    pub grads: Option<(Slice, Slice)>,
    /// Rank.
    pub r: usize,
    /// `lora_alpha / r` or its rsLoRA form.
    pub scaling: f32,
}

/// All factors as a recording sees them, by module path.
#[derive(Default)]
pub struct AdapterView {
    factors: HashMap<String, LoraFactors>,
}

impl AdapterView {
    /// The factors of a linear, if it is adapted.
    pub fn get(&self, module: &str) -> Option<LoraFactors> {
        self.factors.get(module).copied()
    }
}

impl Adapter {
    /// A fresh adapter on the modules that `config.target_modules` names: A uniform in ±1/√in (PEFT's
    /// `kaiming_uniform_(a=√5)`), B zero, the same for the same seed.
    pub fn new(gpu: &Gpu, config: LoraConfig, shapes: &[ModuleShape], seed: u64) -> Result<Self> {
        let adapter = Self::allocate(gpu, config, shapes)?;
        if gpu.is_paper() {
            return Ok(adapter);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for module in &adapter.modules {
            let bound = 1.0 / (module.shape.in_features as f32).sqrt();
            let n = adapter.config.r * module.shape.in_features;
            let values: Vec<f32> = (0..n).map(|_| rng.random_range(-bound..=bound)).collect();
            adapter.write(gpu, module.a_offset, &values, module.shape.in_features);
        }
        Ok(adapter)
    }

    /// An adapter made elsewhere, for a model with these modules.
    pub fn from_file(gpu: &Gpu, file: &AdapterFile, shapes: &[ModuleShape]) -> Result<Self> {
        let mismatch = |message: String| Error::AdapterMismatch { message };
        let adapter = Self::allocate(gpu, file.config.clone(), shapes)?;
        let r = adapter.config.r;
        let mut known = 0;
        for module in &adapter.modules {
            let ModuleShape { name, in_features, out_features } = &module.shape;
            for (factor, offset, rows, cols) in
                [("lora_A", module.a_offset, r, *in_features), ("lora_B", module.b_offset, *out_features, r)]
            {
                let key = format!("{name}.{factor}");
                let matrix = file.tensors.get(&key).ok_or_else(|| {
                    mismatch(format!(
                        "the model has {name}, the adapter names it as a target but holds no {factor} for it"
                    ))
                })?;
                if (matrix.rows, matrix.cols) != (rows, cols) {
                    let found = format!("{} x {}", matrix.rows, matrix.cols);
                    return Err(mismatch(format!("{key} is {found}, this model needs {rows} x {cols}")));
                }
                if let Some(at) = matrix.data.iter().position(|value| !value.is_finite()) {
                    return Err(mismatch(format!("{key} holds a number that is not finite, at {at}")));
                }
                adapter.write(gpu, offset, &matrix.data, cols);
                known += 1;
            }
        }
        if known < file.tensors.len() {
            let extra = file.tensors.keys().find(|key| {
                !adapter
                    .modules
                    .iter()
                    .any(|module| key.rsplit_once('.').is_some_and(|(name, _)| name == module.shape.name))
            });
            let extra = extra.map_or("a factor", String::as_str);
            return Err(mismatch(format!("the adapter holds {extra}, this model has no such target")));
        }
        Ok(adapter)
    }

    fn allocate(gpu: &Gpu, mut config: LoraConfig, shapes: &[ModuleShape]) -> Result<Self> {
        sort_target_modules(&mut config.target_modules);
        let setting =
            |name: &str, value: String, allowed: String| Error::BadSetting { name: name.into(), value, allowed };
        if config.r == 0 || config.r > MAX_RANK {
            return Err(setting("r", config.r.to_string(), format!("1 to {MAX_RANK}")));
        }
        if !config.lora_alpha.is_finite() || config.lora_alpha <= 0.0 {
            return Err(setting("lora_alpha", config.lora_alpha.to_string(), "a number above 0".into()));
        }
        let kinds: Vec<&str> = shapes.iter().map(ModuleShape::kind).collect();
        let unknown = config.target_modules.iter().find(|target| !kinds.contains(&target.as_str()));
        if config.target_modules.is_empty() || unknown.is_some() {
            let mut allowed = kinds;
            allowed.sort();
            allowed.dedup();
            let value = unknown.cloned().unwrap_or_else(|| "empty".into());
            return Err(setting("target_modules", value, format!("one or more of {}", allowed.join(", "))));
        }
        let mut end = 0u64;
        let mut take = |bytes: u64| {
            let offset = end;
            end = (end + bytes).next_multiple_of(ALIGN_BYTES);
            offset
        };
        let mut modules = vec![];
        for shape in shapes.iter().filter(|shape| config.target_modules.iter().any(|target| target == shape.kind())) {
            let mut module = Module { shape: shape.clone(), a_offset: 0, b_offset: 0 };
            module.a_offset = take(module.a_bytes(config.r));
            module.b_offset = take(module.b_bytes(config.r));
            modules.push(module);
        }
        let params = Buffer::storage(gpu, "adapter", end)?;
        Ok(Self { config, modules, params })
    }

    /// Writes a matrix of rows of `cols` values at its padded stride.
    fn write(&self, gpu: &Gpu, offset: u64, values: &[f32], cols: usize) {
        let mut padded = Vec::with_capacity(values.len() / cols * stride(cols));
        for row in values.chunks(cols) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(stride(cols)), 0.0);
        }
        self.params.write(gpu, offset, bytemuck::cast_slice(&padded));
    }

    /// The factors as they are now, under PEFT's names.
    pub async fn to_file(&self, gpu: &Gpu) -> Result<AdapterFile> {
        let tensors = self.unpack(&self.params.read(gpu).await?);
        Ok(AdapterFile { config: self.config.clone(), tensors })
    }

    /// Reads an arena (factors, gradients) as matrices by name, `model.layers.0.self_attn.q_proj.lora_A`.
    pub fn unpack(&self, arena: &[u8]) -> BTreeMap<String, HostMatrix> {
        let matrix = |offset: u64, rows: usize, cols: usize| {
            let mut data = Vec::with_capacity(rows * cols);
            for row in 0..rows {
                let at = offset as usize + row * stride(cols) * 4;
                let values = arena[at..at + cols * 4].chunks_exact(4);
                data.extend(values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            HostMatrix { rows, cols, data }
        };
        let r = self.config.r;
        let factors = |module: &Module| {
            let ModuleShape { name, in_features, out_features } = &module.shape;
            [
                (format!("{name}.lora_A"), matrix(module.a_offset, r, *in_features)),
                (format!("{name}.lora_B"), matrix(module.b_offset, *out_features, r)),
            ]
        };
        self.modules.iter().flat_map(factors).collect()
    }

    /// Trained numbers: `r (in + out)` for each module.
    pub fn n_parameters(&self) -> usize {
        self.modules.iter().map(|m| self.config.r * (m.shape.in_features + m.shape.out_features)).sum()
    }

    /// Numbers of the weights it adapts.
    pub fn n_base_parameters(&self) -> usize {
        self.modules.iter().map(|m| m.shape.in_features * m.shape.out_features).sum()
    }

    /// The factors' arena.
    pub fn params(&self) -> &Buffer {
        &self.params
    }

    /// The factors in a recording, with gradients in an arena of the same layout where there is one.
    pub fn view(&self, rec: &mut Recording, grads: Option<&Buffer>) -> AdapterView {
        let params = rec.external(&self.params);
        let grads = grads.map(|grads| rec.external(grads));
        let r = self.config.r;
        let factors = self.modules.iter().map(|module| {
            let a = module.a_offset..module.a_offset + module.a_bytes(r);
            let b = module.b_offset..module.b_offset + module.b_bytes(r);
            let grads = grads.map(|grads| (grads.range(a.clone()), grads.range(b.clone())));
            let factors =
                LoraFactors { a: params.range(a), b: params.range(b), grads, r, scaling: self.config.scaling() };
            (module.shape.name.clone(), factors)
        });
        AdapterView { factors: factors.collect() }
    }
}

/// `W + scaling · B A`, the weight that needs no adapter: W and the result `[out, in]`, sums in f64.
pub fn merged(weight: &[f32], a: &HostMatrix, b: &HostMatrix, scaling: f32) -> Vec<f32> {
    let delta = |row: usize, col: usize| -> f64 {
        (0..a.rows).map(|r| f64::from(b.data[row * b.cols + r]) * f64::from(a.data[r * a.cols + col])).sum()
    };
    let add = |(at, &w): (usize, &f32)| (f64::from(w) + f64::from(scaling) * delta(at / a.cols, at % a.cols)) as f32;
    weight.iter().enumerate().map(add).collect()
}
