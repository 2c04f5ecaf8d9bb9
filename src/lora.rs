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

mod vectors;

pub use vectors::{VectorGroup, VectorPart, VectorView};

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::rc::Rc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu::{Buffer, Gpu, Recording, Slice};
use crate::io::{AdapterFile, InitLoraWeights, LoraConfig, Matrix as HostMatrix, ModuleNames, is_end};
use crate::kernels::adamw::Rate;
use crate::kernels::dora_gain::gains_bytes;
use crate::kernels::dropout::Dropout;
use crate::kernels::segments::{Layout, Segments};
use crate::kernels::stride;
use crate::{Error, Result};
use vectors::{Blend, Vectors};

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

/// Linears that read the same matrix and are run as one, in the order of their columns.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleGroup {
    /// Its linears, of one width of input.
    pub modules: Vec<ModuleShape>,
    /// How their outputs lie.
    pub layout: Layout,
}

/// All of a model that can be trained: [`ModuleGroup`]s of linears, which is what it derefs to, and vectors.
#[derive(Debug)]
pub struct Modules {
    /// Linears, in the order of the model.
    pub groups: Vec<ModuleGroup>,
    /// Biases and norms, likewise.
    pub vectors: Vec<Rc<VectorGroup>>,
}

impl Deref for Modules {
    type Target = [ModuleGroup];

    fn deref(&self) -> &[ModuleGroup] {
        &self.groups
    }
}

impl Modules {
    /// Paths of the norms, which can be trained in full.
    fn norms(&self) -> impl Iterator<Item = &str> {
        self.vectors.iter().filter(|group| group.of_norms).flat_map(|group| &group.parts).map(VectorPart::module)
    }

    /// What `modules_to_save` may name: the last parts of these paths, in the order of the model.
    pub fn norm_kinds(&self) -> Vec<&str> {
        let mut kinds = vec![];
        for kind in self.norms().filter_map(|path| path.rsplit('.').next()) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}

/// A group of which some modules are adapted, and where its factors lie in the arena: A of the adapted ones, one below
/// the other with [`stride`]`(r)` rows each, then B of all columns of the output, and with DoRA their magnitudes. What
/// belongs to no factor is zero and stays so.
#[derive(Debug, Clone)]
struct Group {
    modules: Vec<ModuleShape>,
    layout: Layout,
    /// Of each module, where it is adapted: which of the stacked As is its own, and its rank.
    slots: Vec<Option<(usize, usize)>>,
    /// Of the first adapted module; `segments` has what the others' are to it.
    scaling: f32,
    start: u64,
    b_start: u64,
    /// Where B ends and magnitudes may follow.
    b_end: u64,
    end: u64,
    segments: Segments,
}

impl Group {
    /// Floats of the arena that are the rows of a module's factors, as (first float, length), in the order of the rows:
    /// A `[r, in]`, or B `[out, r]`, in the `places` from `first` on; or the magnitudes `[out, 1]`.
    fn rows(&self, index: usize, factor: Factor, first: usize, places: usize) -> Vec<(usize, usize)> {
        let widths: Vec<usize> = self.modules.iter().map(|module| module.out_features).collect();
        let ModuleShape { in_features, out_features, .. } = self.modules[index];
        let (slot, r) = self.slots[index].expect("only adapted modules have factors");
        match factor {
            Factor::A => {
                let row = |row: usize| ((slot * stride(places) + first + row) * stride(in_features), in_features);
                (0..r).map(|at| (self.start as usize / 4 + row(at).0, row(at).1)).collect()
            }
            Factor::B => {
                let start = (self.start + self.b_start) as usize / 4;
                let row = |row: usize| (start + self.layout.column(&widths, index, row) * stride(places) + first, r);
                (0..out_features).map(row).collect()
            }
            Factor::Magnitude => {
                let start = (self.start + self.magnitude_start()) as usize / 4;
                (0..out_features).map(|row| (start + self.layout.column(&widths, index, row), 1)).collect()
            }
        }
    }

    /// Columns of the output, pads included.
    fn width(&self) -> usize {
        let widths: Vec<usize> = self.modules.iter().map(|module| module.out_features).collect();
        self.layout.width(&widths)
    }

    /// Where its magnitudes begin, if it has any.
    fn magnitude_start(&self) -> u64 {
        self.b_end.next_multiple_of(ALIGN_BYTES)
    }

    /// Its adapted modules, with their numbers and ranks.
    fn adapted(&self) -> impl Iterator<Item = (usize, &ModuleShape, usize)> {
        let modules = self.modules.iter().enumerate().zip(&self.slots);
        modules.filter_map(|((index, module), slot)| slot.map(|(_, r)| (index, module, r)))
    }
}

/// Which of what a module has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Factor {
    A,
    B,
    /// DoRA's.
    Magnitude,
}

impl Factor {
    const ALL: [Self; 3] = [Self::A, Self::B, Self::Magnitude];

    fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::B => "lora_B",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }

    /// Of the first factors, where their product is to be subtracted.
    fn sign_taken_off(self) -> f32 {
        match self {
            Self::B => -1.0,
            Self::A | Self::Magnitude => 1.0,
        }
    }
}

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

/// The factors of a group of linears as a recording sees them.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `[segments.rank(), stride(in_features)]`.
    pub a: Slice,
    /// `[columns of the output, stride(r)]`.
    pub b: Slice,
    /// Which columns are whose.
    pub segments: Segments,
    /// Where both lie in the arena, in bytes.
    pub range: std::ops::Range<u64>,
    /// Where B starts in that range.
    pub b_start: u64,
    /// Columns of B that there is room for.
    pub r: usize,
    /// How many of these are trained.
    pub trained: usize,
    /// On the input, while training.
    pub dropout: Option<Dropout>,
    /// `lora_alpha / r` or its rsLoRA form, of the first adapted module.
    pub scaling: f32,
    /// What DoRA adds.
    pub dora: Option<DoraFactors>,
}

/// What DoRA has besides A and B of a group.
#[derive(Debug, Clone, Copy)]
pub struct DoraFactors {
    /// f32 `[columns of the output]`.
    pub magnitude: Slice,
    /// Where that starts in the group's range of the arena, in bytes.
    pub magnitude_start: u64,
    /// f32 `[3, columns of the output]`: what columns are multiplied with, their biases, and norms.
    pub gains: Slice,
}

/// All factors as a recording sees them, by the path of a group's first module.
#[derive(Default)]
pub struct AdapterView {
    factors: HashMap<String, LoraFactors>,
    vectors: HashMap<String, VectorView>,
    blends: Vec<Blend>,
    grads: Option<Slice>,
    /// DoRA's gains and trained vectors are those of the pass before.
    pub(crate) gains_are_known: bool,
}

impl AdapterView {
    /// The factors of a group, if any of it is adapted.
    pub fn get(&self, first_module: &str) -> Option<&LoraFactors> {
        self.factors.get(first_module)
    }

    /// The trained vectors of a group, by the name of its first.
    pub fn vector(&self, first: &str) -> Option<&VectorView> {
        self.vectors.get(first)
    }

    /// Works out the trained vectors for what the recording does next; nothing where there are none, or they are known.
    pub fn blend_vectors(&self, rec: &mut Recording) {
        if !self.gains_are_known {
            self.blends.iter().for_each(|blend| blend.record(rec));
        }
    }

    /// The same for passes that follow others without a change of the adapter or its strength: DoRA's gains and trained
    /// vectors are taken from there.
    pub fn with_known_gains(self) -> Self {
        Self { gains_are_known: true, ..self }
    }

    /// The gradients of all factors, laid out as they are, in a recording that has them.
    pub fn grads(&self) -> Option<Slice> {
        self.grads
    }
}

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

    /// Begins with these factors, which the weights are taken to be without from here on.
    pub fn set_initial(&self, gpu: &Gpu, initial: &InitialFactors) {
        for group in &self.groups {
            self.write(gpu, group, |module, _, factor| {
                initial.get(&format!("{}.{}", module.name, factor.name())).map(|matrix| matrix.data.clone())
            });
        }
    }

    /// An adapter made elsewhere, for a model with these modules.
    pub fn from_file(gpu: &Gpu, file: &AdapterFile, modules: &Modules) -> Result<Self> {
        let adapter = Self::allocate(gpu, file.config.clone(), modules)?;
        adapter.fill(gpu, file)?;
        Ok(adapter)
    }

    /// Takes the factors of another adapter with the same settings, which all recordings of this one then hold for. False,
    /// and nothing done, where the settings differ.
    ///
    /// The file must be known to fit the model: where it does not, this errors half done.
    pub fn refill(&mut self, gpu: &Gpu, file: &AdapterFile) -> Result<bool> {
        let base = &self.config.base_model_name_or_path;
        let mut config = LoraConfig { base_model_name_or_path: base.clone(), ..file.config.clone() };
        config.sort_target_modules();
        if config != self.config {
            return Ok(false);
        }
        self.fill(gpu, file)?;
        self.config.base_model_name_or_path = file.config.base_model_name_or_path.clone();
        Ok(true)
    }

    /// Writes all factors and vectors of a file, which must have those of every module that is trained and no others.
    fn fill(&self, gpu: &Gpu, file: &AdapterFile) -> Result<()> {
        let mismatch = |message: String| Error::AdapterMismatch { message };
        let mut known = 0;
        let matrix_of = |key: &str, (rows, cols): (usize, usize), missing: String| -> Result<&HostMatrix> {
            let matrix = file.tensors.get(key).ok_or_else(|| mismatch(missing))?;
            if (matrix.rows, matrix.cols) != (rows, cols) {
                let found = format!("{} x {}", matrix.rows, matrix.cols);
                return Err(mismatch(format!("{key} is {found}, this model needs {rows} x {cols}")));
            }
            if let Some(at) = matrix.data.iter().position(|value| !value.is_finite()) {
                return Err(mismatch(format!("{key} holds a number that is not finite, at {at}")));
            }
            Ok(matrix)
        };
        for group in &self.groups {
            let factors = |(_, module, r)| self.factors().iter().map(move |&factor| (module, r, factor));
            for (ModuleShape { name, in_features, out_features }, r, factor) in group.adapted().flat_map(factors) {
                let (rows, cols) = match factor {
                    Factor::A => (r, *in_features),
                    Factor::B => (*out_features, r),
                    Factor::Magnitude => (*out_features, 1),
                };
                let key = format!("{name}.{}", factor.name());
                let missing = factor.name();
                let missing =
                    format!("the model has {name}, the adapter names it as a target but holds no {missing} for it");
                matrix_of(&key, (rows, cols), missing)?;
                known += 1;
            }
            self.write(gpu, group, |module, _, factor| {
                file.tensors.get(&format!("{}.{}", module.name, factor.name())).map(|matrix| matrix.data.clone())
            });
        }
        for part in self.vectors.iter().flat_map(Vectors::trained) {
            let missing = format!("the model has {}, which the adapter's settings train, but it holds none", part.name);
            matrix_of(&part.name, (part.len(), 1), missing)?;
            known += 1;
        }
        if let Some(vectors) = self.vectors.as_ref().filter(|_| !gpu.is_paper()) {
            vectors.write(gpu, &self.params, |name| file.tensors.get(name).map(|matrix| &matrix.data[..]));
        }
        if known < file.tensors.len() {
            let is_known = |key: &str| {
                let of = |name: &str| self.adapted().any(|(module, _)| module.name == name);
                let factor =
                    key.rsplit_once('.').filter(|(_, factor)| Factor::ALL.iter().any(|one| one.name() == *factor));
                factor.is_some_and(|(name, _)| of(name))
                    || self.vectors.iter().flat_map(Vectors::trained).any(|part| part.name == key)
            };
            let extra = file.tensors.keys().find(|key| !is_known(key));
            let extra = extra.map_or("a factor", String::as_str);
            return Err(mismatch(format!("the adapter holds {extra}, this model has no such target")));
        }
        Ok(())
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

    /// Writes a group's factors, row-major without pads, or zeros where there are none; and the same as its first ones,
    /// where it has these, with B negative.
    fn write(&self, gpu: &Gpu, group: &Group, mut values: impl FnMut(&ModuleShape, usize, Factor) -> Option<Vec<f32>>) {
        let first = group.start as usize / 4;
        let mut image = vec![0f32; (group.end - group.start) as usize / 4];
        for (index, module, r) in group.adapted() {
            for &factor in self.factors() {
                let Some(values) = values(module, r, factor) else { continue };
                let signs = [(0, 1.0)].into_iter().chain(self.initial_at.map(|at| (at, factor.sign_taken_off())));
                for (place, sign) in signs {
                    let mut values = values.iter();
                    for (at, length) in group.rows(index, factor, place, self.places()) {
                        let row = image[at - first..][..length].iter_mut();
                        row.zip(&mut values).for_each(|(to, value)| *to = sign * value);
                    }
                }
            }
        }
        self.params.write(gpu, group.start, bytemuck::cast_slice(&image));
    }

    /// The factors as they are now, under PEFT's names: a plain adapter, whose rank is twice that of one that began from the
    /// weights.
    pub async fn to_file(&self, gpu: &Gpu) -> Result<AdapterFile> {
        let arena = self.params.read(gpu).await?;
        let trained = self.unpack(&arena);
        let Some(initial_at) = self.initial_at else {
            return Ok(AdapterFile { config: self.config.clone(), tensors: trained });
        };
        let mut tensors = self.unpack_from(&arena, initial_at);
        // Magnitudes and vectors are the same in both.
        for (name, matrix) in &mut tensors {
            let trained = &trained[name];
            if name.ends_with(Factor::A.name()) {
                matrix.data.splice(0..0, trained.data.iter().copied());
                matrix.rows *= 2;
            } else if name.ends_with(Factor::B.name()) {
                let rows = trained.data.chunks(trained.cols).zip(matrix.data.chunks(matrix.cols));
                matrix.data = rows.flat_map(|(trained, initial)| [trained, initial].concat()).collect();
                matrix.cols *= 2;
            }
        }
        Ok(AdapterFile { config: self.config.doubled(), tensors })
    }

    /// Reads what is trained of an arena (factors, gradients) as matrices by name,
    /// `model.layers.0.self_attn.q_proj.lora_A`.
    pub fn unpack(&self, arena: &[u8]) -> BTreeMap<String, HostMatrix> {
        self.unpack_from(arena, 0)
    }

    /// Those whose rank begins at a place.
    fn unpack_from(&self, arena: &[u8], first: usize) -> BTreeMap<String, HostMatrix> {
        let mut tensors = BTreeMap::new();
        for group in &self.groups {
            for (index, module, _) in group.adapted() {
                for &factor in self.factors() {
                    let rows = group.rows(index, factor, first, self.places());
                    let (n, cols) = (rows.len(), rows.first().map_or(0, |row| row.1));
                    let row = |(at, length): (usize, usize)| arena[at * 4..(at + length) * 4].chunks_exact(4);
                    let data = rows.into_iter().flat_map(row);
                    let data = data.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                    tensors.insert(format!("{}.{}", module.name, factor.name()), HostMatrix { rows: n, cols, data });
                }
            }
        }
        if let Some(vectors) = &self.vectors {
            vectors.unpack(arena, &mut tensors);
        }
        tensors
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
