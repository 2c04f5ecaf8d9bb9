//! The adapter: every A and B side by side in one arena, so that clearing, norms and AdamW are one dispatch for all.
//!
//! Names, shapes and initialisation are PEFT's: A `[r, in]` Kaiming-uniform, B `[out, r]` zero,
//! scaling `lora_alpha / r` (or `/ sqrt(r)` with rsLoRA, arXiv 2312.03732).
//!
//! Where the first factors come from the weight (PiSSA, OLoRA), PEFT takes `s B₀ A₀` out of it. Our weights are never
//! written: the adapter has twice the rank, `[B, -B₀] [A; A₀]`, of which the second half stays as it is.
//!
//! With DoRA (arXiv 2402.09353) a magnitude for each row of a weight lies after its B and is trained with it. Biases and
//! norms that are trained as they are lie after all of them ([`VectorGroup`]).

mod group;
mod modules;
mod values;
mod vectors;
mod view;

pub use modules::{ModuleGroup, ModuleShape, Modules};
pub use vectors::{VectorGroup, VectorPart, VectorView};
pub use view::{AdapterView, DoraFactors, LoraFactors};

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu::{Buffer, Gpu, Recording};
use crate::io::{AdapterFile, InitLoraWeights, LoraConfig, Matrix as HostMatrix, ModuleNames, is_end};
use crate::kernels::adamw::Rate;
use crate::kernels::dora_gain::gains_bytes;
use crate::kernels::dropout::Dropout;
use crate::kernels::segments::Segments;
use crate::kernels::stride;
use crate::{Error, Result};
use group::{Factor, Group};
use vectors::Vectors;

/// Bindings start at multiples of this.
const ALIGN_BYTES: u64 = 256;
/// The largest rank accepted: beyond it full fine-tuning is smaller.
pub const MAX_RANK: usize = 1024;

/// LoRA factors on the GPU.
pub struct Adapter {
    /// What PEFT writes beside the factors.
    pub config: LoraConfig,
    groups: Vec<Group>,
    /// The largest rank of all: there is room for as much in every module.
    max_rank: usize,
    /// Where there are first factors to be taken off again, the place in a module's rank at which these begin.
    initial_at: Option<usize>,
    params: Buffer,
    /// With DoRA, [`gains_bytes`] for each group, which every pass works out anew but those of single tokens.
    gains: Option<Buffer>,
    /// Biases and norms, where some are trained.
    vectors: Option<Vectors>,
}

/// First factors by name, as [`AdapterFile::tensors`] has them.
pub type InitialFactors = BTreeMap<String, HostMatrix>;

impl Adapter {
    /// A fresh adapter on the modules that `config.target_modules` names, the same for the same seed: B zero, and A uniform
    /// in ±1/√in (PEFT's `kaiming_uniform_(a=√5)`) or normal. What begins from the weights only gets its memory here:
    /// factors that do have their numbers from [`Self::set_initial`], magnitudes from [`crate::init::adapter`].
    pub fn new(gpu: &Gpu, config: LoraConfig, modules: &Modules, seed: u64) -> Result<Self> {
        let adapter = Self::allocate(gpu, config, modules)?;
        let init = adapter.config.init_lora_weights;
        if gpu.is_paper() {
            return Ok(adapter);
        }
        if let Some(vectors) = &adapter.vectors {
            vectors.write(gpu, &adapter.params, |_| None);
        }
        if init.is_of_weight() {
            return Ok(adapter);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for group in &adapter.groups {
            let draw = |module: &ModuleShape, r: usize, factor: Factor| match factor {
                Factor::A if init == InitLoraWeights::Gaussian => {
                    let n = r * module.in_features;
                    Some((0..n).map(|_| (normal(&mut rng) / r as f64) as f32).collect())
                }
                Factor::A => {
                    let bound = 1.0 / (module.in_features as f32).sqrt();
                    let n = r * module.in_features;
                    Some((0..n).map(|_| rng.random_range(-bound..=bound)).collect())
                }
                Factor::B | Factor::Magnitude => None,
            };
            adapter.write(gpu, group, draw);
        }
        Ok(adapter)
    }

    /// An adapter made elsewhere, for a model with these modules.
    pub fn from_file(gpu: &Gpu, file: &AdapterFile, modules: &Modules) -> Result<Self> {
        let adapter = Self::allocate(gpu, file.config.clone(), modules)?;
        adapter.fill(gpu, file)?;
        Ok(adapter)
    }

    fn allocate(gpu: &Gpu, mut config: LoraConfig, modules: &Modules) -> Result<Self> {
        let groups = &modules.groups;
        config.sort_target_modules();
        let setting =
            |name: &str, value: String, allowed: String| Error::BadSetting { name: name.into(), value, allowed };
        if config.r == 0 || config.r > MAX_RANK {
            return Err(setting("r", config.r.to_string(), format!("1 to {MAX_RANK}")));
        }
        if !config.lora_alpha.is_finite() || config.lora_alpha <= 0.0 {
            return Err(setting("lora_alpha", config.lora_alpha.to_string(), "a number above 0".into()));
        }
        let paths = || groups.iter().flat_map(|group| &group.modules);
        if let ModuleNames::Names(names) = &config.target_modules {
            let unknown = names.iter().find(|name| !paths().any(|module| is_end(&module.name, name)));
            if names.is_empty() || unknown.is_some() {
                let mut allowed: Vec<&str> = paths().map(ModuleShape::kind).collect();
                allowed.sort();
                allowed.dedup();
                let value = unknown.cloned().unwrap_or_else(|| "empty".into());
                return Err(setting("target_modules", value, format!("one or more of {}", allowed.join(", "))));
            }
        }
        for name in &config.modules_to_save {
            let is_norm = modules.norms().any(|path| is_end(path, name));
            // peft goes by the end of a path, in whole parts or not.
            let is_other = paths().any(|module| module.name.ends_with(name.as_str()));
            if !is_norm || is_other {
                let norms = modules.norm_kinds().join(", ");
                let allowed = format!("norms, as nothing else is trained in full here: {norms}");
                return Err(setting("modules_to_save", name.clone(), allowed));
            }
        }
        // Of each group, rank and scaling of its modules.
        let mut ranks = vec![];
        for group in groups {
            ranks.push(group.modules.iter().map(|m| config.of_module(&m.name)).collect::<Result<Vec<_>>>()?);
        }
        let max_rank = ranks.iter().flatten().flatten().map(|&(r, _)| r).max();
        let Some(max_rank) = max_rank else {
            let value = config.target_modules.to_list().join(", ");
            return Err(setting("target_modules", value, "something that leaves a module to adapt".into()));
        };
        if max_rank > MAX_RANK {
            return Err(setting("rank_pattern", max_rank.to_string(), format!("1 to {MAX_RANK}")));
        }
        let init = config.init_lora_weights;
        if init.is_of_weight() {
            // What is handed out has twice the rank.
            let room = |module: &ModuleShape| module.in_features.min(module.out_features).min(MAX_RANK / 2);
            let mut adapted = groups.iter().zip(&ranks).flat_map(|(group, ranks)| group.modules.iter().zip(ranks));
            let too_high = adapted.find(|(module, rank)| rank.is_some_and(|(r, _)| r > room(module)));
            if let Some((module, _)) = too_high {
                let allowed = format!("at most {} for {} with {}", room(module), module.name, init.name());
                return Err(setting("r", max_rank.to_string(), allowed));
            }
        }
        // Under dropout, peft's weights without the first factors would still see all of the input.
        let allowed = match init.is_of_weight() {
            true if config.lora_dropout != 0.0 => Some(format!("0 with {}", init.name())),
            _ if !(0.0..1.0).contains(&config.lora_dropout) => Some("0 up to but not including 1".into()),
            _ => None,
        };
        if let Some(allowed) = allowed {
            return Err(setting("lora_dropout", config.lora_dropout.to_string(), allowed));
        }
        let initial_at = init.is_of_weight().then(|| stride(max_rank));
        let places = initial_at.unwrap_or(0) + max_rank;
        let (mut arena_bytes, mut all_gains) = (0u64, 0u64);
        let mut adapted_groups: Vec<Group> = vec![];
        for (ModuleGroup { modules, layout }, ranks) in groups.iter().zip(ranks) {
            let scalings: Vec<f32> = ranks.iter().flatten().map(|&(_, scaling)| scaling).collect();
            let Some(&scaling) = scalings.first() else { continue };
            let factors: Vec<f32> = scalings.iter().map(|other| other / scaling).collect();
            let adapted: Vec<bool> = ranks.iter().map(Option::is_some).collect();
            let mut n_slots = 0..;
            let slots = ranks.iter().map(|rank| rank.and_then(|(r, _)| Some((n_slots.next()?, r)))).collect();
            let widths: Vec<usize> = modules.iter().map(|module| module.out_features).collect();
            let segments = Segments::new(*layout, &widths, &adapted, places).with_factors(&factors);
            let a_bytes = (segments.rank() * stride(modules[0].in_features) * 4) as u64;
            let b_start = a_bytes.next_multiple_of(ALIGN_BYTES);
            let width = layout.width(&widths);
            let b_end = b_start + (width * stride(places) * 4) as u64;
            let (modules, layout, start) = (modules.clone(), *layout, arena_bytes);
            let mut group =
                Group { modules, layout, slots, scaling, start, b_start, b_end, end: start + b_end, segments };
            if config.use_dora {
                group.end = start + group.magnitude_start() + 4 * width as u64;
                all_gains += gains_bytes(width).next_multiple_of(ALIGN_BYTES);
            }
            arena_bytes = group.end.next_multiple_of(ALIGN_BYTES);
            adapted_groups.push(group);
        }
        let vectors = Vectors::allocate(gpu, &config, &modules.vectors, arena_bytes)?;
        let arena_bytes = vectors.as_ref().map_or(arena_bytes, Vectors::end);
        let params = Buffer::storage(gpu, "adapter", arena_bytes)?;
        let gains = if config.use_dora { Some(Buffer::storage(gpu, "gains", all_gains)?) } else { None };
        Ok(Self { config, groups: adapted_groups, max_rank, initial_at, params, gains, vectors })
    }

    /// What each of its modules has.
    fn factors(&self) -> &'static [Factor] {
        if self.gains.is_some() { &[Factor::A, Factor::B, Factor::Magnitude] } else { &[Factor::A, Factor::B] }
    }

    /// Places in the rank of a module.
    fn places(&self) -> usize {
        self.initial_at.unwrap_or(0) + self.max_rank
    }

    /// The modules it adapts, in the order of the model, with their ranks.
    pub fn adapted(&self) -> impl Iterator<Item = (&ModuleShape, usize)> {
        self.groups.iter().flat_map(|group| group.adapted().map(|(_, module, r)| (module, r)))
    }

    /// Trained numbers: `r (in + out)` for each module, with DoRA `out` more; and those of vectors that are trained as they
    /// are.
    pub fn n_parameters(&self) -> usize {
        let magnitudes = |m: &ModuleShape| if self.gains.is_some() { m.out_features } else { 0 };
        let factors: usize = self.adapted().map(|(m, r)| r * (m.in_features + m.out_features) + magnitudes(m)).sum();
        factors + self.n_vector_parameters()
    }

    /// Numbers of the vectors that are trained as they are.
    pub fn n_vector_parameters(&self) -> usize {
        self.vectors.iter().flat_map(Vectors::trained).map(VectorPart::len).sum()
    }

    /// Numbers of the weights it adapts, and of the vectors it trains as they are.
    pub fn n_base_parameters(&self) -> usize {
        let weights: usize = self.adapted().map(|(m, _)| m.in_features * m.out_features).sum();
        weights + self.n_vector_parameters()
    }

    /// The factors' arena.
    pub fn params(&self) -> &Buffer {
        &self.params
    }

    /// Bytes of GPU memory that it takes.
    pub fn size_bytes(&self) -> u64 {
        let beside = self.gains.as_ref().map_or(0, Buffer::size_bytes);
        self.params.size_bytes() + beside + self.vectors.as_ref().map_or(0, Vectors::size_bytes)
    }

    /// Where the Bs lie in the arena, in bytes, with the magnitudes that PEFT's LoRA+ counts among them. Each begins at a
    /// multiple of 256, and so does what follows it.
    pub fn b_ranges(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        self.groups.iter().map(|group| group.start + group.b_start..group.end)
    }

    /// Where vectors that are trained as they are lie in the arena, in bytes, after all factors. They have Bs' learning rate and
    /// do not decay, as PEFT's LoRA+ and transformers' `Trainer` have it for biases and norms.
    pub fn vector_range(&self) -> Option<std::ops::Range<u64>> {
        self.vectors.as_ref().map(Vectors::range)
    }

    /// Which learning rate every vec4 of the arena has, where some of them are not to change: those of Bs one of their own
    /// with `loraplus`.
    pub(crate) fn rates(&self, loraplus: bool) -> Option<Vec<Rate>> {
        let initial_at = self.initial_at?;
        let mut rates = vec![Rate::One; (self.params.size_bytes() / 16) as usize];
        if loraplus {
            self.b_ranges().for_each(|range| rates[range.start as usize / 16..range.end as usize / 16].fill(Rate::OfB));
        }
        for group in &self.groups {
            for (index, _, _) in group.adapted() {
                for factor in [Factor::A, Factor::B] {
                    for (at, length) in group.rows(index, factor, initial_at, self.places()) {
                        rates[at / 4..(at + length).div_ceil(4)].fill(Rate::None);
                    }
                }
            }
        }
        Some(rates)
    }

    /// The factors in a recording, with gradients in an arena of the same layout where there is one.
    pub fn view(&self, rec: &mut Recording, grads: Option<&Buffer>) -> AdapterView {
        let params = rec.external(&self.params);
        // Dropout is for training.
        let p = Some(self.config.lora_dropout).filter(|&p| p > 0.0 && grads.is_some());
        let gains = self.gains.as_ref().map(|gains| rec.external(gains));
        let mut gains_at = 0;
        let factors = self.groups.iter().zip(0..).map(|(group, stream)| {
            let whole = params.range(group.start..group.end);
            let dora = gains.map(|gains| {
                let (magnitude_start, start) = (group.magnitude_start(), gains_at);
                let end = start + gains_bytes(group.width());
                gains_at = end.next_multiple_of(ALIGN_BYTES);
                let magnitude = whole.range(magnitude_start..whole.size_bytes());
                DoraFactors { magnitude, magnitude_start, gains: gains.range(start..end) }
            });
            let a_bytes = (group.segments.rank() * stride(group.modules[0].in_features) * 4) as u64;
            let factors = LoraFactors {
                a: whole.range(0..a_bytes),
                b: whole.range(group.b_start..group.b_end),
                segments: group.segments,
                range: group.start..group.end,
                b_start: group.b_start,
                r: self.places(),
                trained: self.max_rank,
                dropout: p.map(|p| Dropout { p, stream }),
                scaling: group.scaling,
                dora,
            };
            (group.modules[0].name.clone(), factors)
        });
        let factors = factors.collect();
        let grads = grads.map(|grads| rec.external(grads));
        let (vectors, blends) =
            self.vectors.as_ref().map_or_else(Default::default, |vectors| vectors.view(rec, params, grads));
        AdapterView { factors, vectors, blends, grads, gains_are_known: false }
    }
}

/// A number of mean 0 and standard deviation 1 (Box and Muller, 1958).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// `V = W + scaling · B A`, or with DoRA's `magnitude` m `[out, 1]` `m ⊙ V / ‖V‖`, the weight that needs no adapter: W and
/// the result `[out, in]`, sums in f64.
pub fn merged(
    weight: &[f32],
    a: &HostMatrix,
    b: &HostMatrix,
    magnitude: Option<&HostMatrix>,
    scaling: f32,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(weight.len());
    let mut sum = vec![0.0; a.cols];
    for (row, (weight, b)) in weight.chunks_exact(a.cols).zip(b.data.chunks_exact(b.cols)).enumerate() {
        sum.fill(0.0);
        for (&b, a) in b.iter().zip(a.data.chunks_exact(a.cols)) {
            sum.iter_mut().zip(a).for_each(|(sum, &a)| *sum += f64::from(b) * f64::from(a));
        }
        sum.iter_mut().zip(weight).for_each(|(sum, &w)| *sum = f64::from(w) + f64::from(scaling) * *sum);
        let gain = magnitude
            .map_or(1.0, |magnitude| f64::from(magnitude.data[row]) / sum.iter().map(|v| v * v).sum::<f64>().sqrt());
        out.extend(sum.iter().map(|v| (gain * v) as f32));
    }
    out
}
