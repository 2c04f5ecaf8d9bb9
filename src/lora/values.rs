//! The adapter's numbers, in and out: PEFT's matrices by name.

use std::collections::BTreeMap;

use super::group::{Factor, Group};
use super::modules::ModuleShape;
use super::vectors::Vectors;
use super::{Adapter, InitialFactors};
use crate::gpu::Gpu;
use crate::io::{AdapterFile, LoraConfig, Matrix as HostMatrix};
use crate::{Error, Result};

impl Adapter {
    /// Begins with these factors, which the weights are taken to be without from here on.
    pub fn set_initial(&self, gpu: &Gpu, initial: &InitialFactors) {
        for group in &self.groups {
            self.write(gpu, group, |module, _, factor| {
                initial.get(&format!("{}.{}", module.name, factor.name())).map(|matrix| matrix.data.clone())
            });
        }
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
    pub(super) fn fill(&self, gpu: &Gpu, file: &AdapterFile) -> Result<()> {
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

    /// Writes a group's factors, row-major without pads, or zeros where there are none; and the same as its first ones,
    /// where it has these, with B negative.
    pub(super) fn write(
        &self,
        gpu: &Gpu,
        group: &Group,
        mut values: impl FnMut(&ModuleShape, usize, Factor) -> Option<Vec<f32>>,
    ) {
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
}
