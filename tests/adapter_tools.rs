//! What can be done with adapters that are trained: their singular values against numpy's, smaller ones against the best
//! there can be, sums against peft's. `tests/fixtures/low_rank` has the script that wrote what is compared with.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::io::{AdapterFile, LoraConfig, Matrix, ModuleNames};
use web_lora::low_rank::{CombineHow, CombineOptions, CompressOptions, Rebuilt, combine, compress, spectrum};

/// A matrix in f64, row-major.
type Dense = (usize, usize, Vec<f64>);

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/fixtures").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn matrix(file: &SafeTensors, name: &str) -> Dense {
    let view = file.tensor(name).unwrap();
    let &[rows, cols] = view.shape() else { panic!("{name} is no matrix") };
    (rows, cols, view.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
}

fn factor(file: &SafeTensors, name: &str) -> Matrix {
    let (rows, cols, data) = matrix(file, name);
    Matrix { rows, cols, data: data.into_iter().map(|value| value as f32).collect() }
}

/// A case of the singular values: an adapter that peft wrote, or what one was trained to.
fn adapter(case: &str) -> AdapterFile {
    let read = |name: &str| fixture(&format!("{case}/{name}"));
    if case.starts_with("adapters/") {
        return AdapterFile::parse(&read("adapter_config.json"), &read("adapter_model.safetensors")).unwrap();
    }
    let golden: Value = serde_json::from_slice(&read("golden.json")).unwrap();
    let lora = &golden["lora"];
    let pairs = |field: &str| lora[field].as_object().cloned().unwrap_or_default().into_iter();
    let names = lora["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    let config = LoraConfig {
        use_rslora: lora["use_rslora"].as_bool().unwrap(),
        rank_pattern: pairs("rank_pattern").map(|(name, r)| (name, r.as_u64().unwrap() as usize)).collect(),
        alpha_pattern: pairs("alpha_pattern").map(|(name, alpha)| (name, alpha.as_f64().unwrap() as f32)).collect(),
        ..LoraConfig::new(lora["r"].as_u64().unwrap() as usize, lora["alpha"].as_f64().unwrap() as f32, names.collect())
    };
    let bytes = read("golden.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let finals = file.names().into_iter().filter_map(|name| name.strip_prefix("final."));
    let tensors = finals.map(|name| (name.to_owned(), factor(&file, &format!("final.{name}")))).collect();
    AdapterFile { config, tensors }
}

/// All cases, with numpy's singular values by module.
fn cases() -> BTreeMap<String, BTreeMap<String, Vec<f64>>> {
    let cases: BTreeMap<_, BTreeMap<_, _>> = serde_json::from_slice(&fixture("low_rank/singular_values.json")).unwrap();
    assert!(cases.len() == 16 && cases.values().all(|modules| !modules.is_empty()));
    cases
}

/// Every ΔW = scaling · B A of a file, formed.
fn deltas(file: &AdapterFile) -> BTreeMap<String, Dense> {
    let modules = file.tensors.keys().filter_map(|key| key.strip_suffix(".lora_A"));
    let delta = |module: &str| {
        let (a, b) = (&file.tensors[&format!("{module}.lora_A")], &file.tensors[&format!("{module}.lora_B")]);
        let scaling = f64::from(file.config.of_module(module).unwrap().unwrap().1);
        let at = |matrix: &Matrix, row: usize, col: usize| f64::from(matrix.data[row * matrix.cols + col]);
        let value = |row: usize, col: usize| (0..a.rows).map(|r| at(b, row, r) * at(a, r, col)).sum::<f64>() * scaling;
        (b.rows, a.cols, (0..b.rows * a.cols).map(|i| value(i / a.cols, i % a.cols)).collect())
    };
    modules.map(|module| (module.to_owned(), delta(module))).collect()
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn distance(one: &Dense, other: &Dense) -> f64 {
    assert_eq!((one.0, one.1), (other.0, other.1));
    norm(one.2.iter().zip(&other.2).map(|(one, other)| one - other))
}

#[test]
fn singular_values_are_numpys() {
    let mut worst = 0f64;
    for (case, expected) in cases() {
        let file = adapter(&case);
        let ours = spectrum(&file).unwrap();
        assert_eq!(ours.modules.len(), expected.len(), "{case}");
        let deltas = deltas(&file);
        for module in &ours.modules {
            let numpys = &expected[&module.name];
            assert_eq!(module.singular_values.len(), numpys.len(), "{case}, {}", module.name);
            for (ours, numpys) in module.singular_values.iter().zip(numpys) {
                worst = worst.max((ours - numpys).abs() / numpys);
            }
            let whole = norm(deltas[&module.name].2.iter().copied());
            assert!((module.norm - whole).abs() < 1e-12 * whole, "{case}, {}: {}", module.name, module.norm);
            let squares: Vec<f64> = numpys.iter().map(|value| value * value).collect();
            for (k, kept) in module.kept.iter().enumerate() {
                let share = squares[..=k].iter().sum::<f64>() / squares.iter().sum::<f64>();
                assert!((kept - share).abs() < 1e-8, "{case}, {}: {kept} of the first {}", module.name, k + 1);
            }
            assert_eq!(module.kept.last(), Some(&1.0));
            let k = numpys.len() as f64 + 1e-9;
            assert!((1.0..=k).contains(&module.effective_rank) && (1.0..=k).contains(&module.stable_rank));
        }
        let norms = norm(ours.modules.iter().map(|module| module.norm));
        let numbers: usize = file.tensors.values().map(|matrix| matrix.data.len()).sum();
        assert_eq!((ours.norm, ours.parameters), (norms, numbers), "{case}");
    }
    println!("the worst singular value is off by {worst:.1e} of itself");
    // Both in f64, of the same numbers: what is left is the conditioning.
    assert!(worst < 1e-8, "{worst:e}");
}

/// What is rounded to f32 in the files: ΔW has some r terms of two factors each.
const ROUNDING: f64 = 3e-7;

/// The numbers of a file are those its report tells, and it is read back as it was written.
fn check(file: &AdapterFile, made: &Rebuilt) {
    let (config, weights) = made.file.write();
    let back = AdapterFile::parse(&config, &weights).unwrap();
    assert_eq!(back.tensors, made.file.tensors);
    let (before, after) = (deltas(file), deltas(&back));
    assert!(before.keys().eq(after.keys()));
    let mut squares = [0f64; 2];
    for module in &made.modules {
        let (before, after) = (&before[&module.name], &after[&module.name]);
        let (error, whole) = (distance(before, after), norm(before.2.iter().copied()));
        assert!((error - module.error).abs() <= ROUNDING * whole, "{}: {error} for {module:?}", module.name);
        assert!((module.relative_error - module.error / whole).abs() < 1e-9);
        squares[0] += module.error.powi(2);
        squares[1] += whole.powi(2);
        assert_eq!(back.config.of_module(&module.name).unwrap().unwrap().0, module.r);
    }
    assert!((made.error - squares[0].sqrt()).abs() < 1e-12 * squares[1].sqrt());
    assert!((made.relative_error - (squares[0] / squares[1]).sqrt()).abs() < 1e-9);
    assert_eq!(made.parameters, made.file.tensors.values().map(|matrix| matrix.data.len()).sum::<usize>());
}

#[test]
fn a_smaller_rank_is_off_by_what_numpy_leaves_out() {
    for (case, expected) in cases() {
        let file = adapter(&case);
        for r in [1, 2, 3, 100] {
            let made = compress(&file, CompressOptions { r: Some(r), keep: None }).unwrap();
            check(&file, &made);
            for module in &made.modules {
                let values = &expected[&module.name];
                assert_eq!(module.r, r.min(values.len()), "{case}, {}", module.name);
                // The smallest error that a matrix of this rank can have.
                let optimum = norm(values[module.r..].iter().copied());
                assert!((module.error - optimum).abs() <= 1e-9 * values[0], "{case}, {}: {module:?}", module.name);
                // As strong as before, and B and A alike in size.
                let scaling = |config: &LoraConfig| config.of_module(&module.name).unwrap().unwrap().1;
                let (before, after) = (scaling(&file.config), scaling(&made.file.config));
                assert!((before - after).abs() <= 1e-6 * before, "{case}, {}: {before} {after}", module.name);
                let [a, b] = ["A", "B"].map(|name| &made.file.tensors[&format!("{}.lora_{name}", module.name)].data);
                let [a, b] = [a, b].map(|values| norm(values.iter().map(|&value| f64::from(value))));
                assert!((a - b).abs() <= 1e-5 * a, "{case}, {}: {a} {b}", module.name);
            }
        }
    }
}

#[test]
fn a_share_is_kept_with_the_least_rank() {
    for (case, expected) in cases() {
        let file = adapter(&case);
        for keep in [0.3, 0.9, 0.99, 1.0] {
            let made = compress(&file, CompressOptions { r: None, keep: Some(keep) }).unwrap();
            check(&file, &made);
            for module in &made.modules {
                let squares: Vec<f64> = expected[&module.name].iter().map(|value| value * value).collect();
                let share = |r: usize| squares[..r].iter().sum::<f64>() / squares.iter().sum::<f64>();
                assert!(share(module.r) >= keep - 1e-9, "{case}, {}: {module:?}", module.name);
                assert!(module.r == 1 || share(module.r - 1) < keep + 1e-9, "{case}, {}: {module:?}", module.name);
            }
        }
    }
    // Ranks differ from module to module.
    let made = compress(&adapter("golden/llama-gqa-tied"), CompressOptions { r: None, keep: Some(0.9) }).unwrap();
    assert!(!made.file.config.rank_pattern.is_empty() && !made.file.config.alpha_pattern.is_empty());
}

#[test]
fn what_has_learned_nothing_stays_so() {
    let mut file = adapter("golden/llama-gqa-tied");
    let zero = "model.layers.1.mlp.up_proj";
    file.tensors.get_mut(&format!("{zero}.lora_B")).unwrap().data.fill(0.0);
    let report = spectrum(&file).unwrap();
    let module = report.modules.iter().find(|module| module.name == zero).unwrap();
    assert_eq!((module.norm, module.effective_rank, module.stable_rank), (0.0, 0.0, 0.0));
    assert!(module.kept.iter().all(|kept| *kept == 1.0) && module.singular_values.iter().all(|value| *value == 0.0));
    let made = compress(&file, CompressOptions { r: None, keep: Some(0.9) }).unwrap();
    let module = made.modules.iter().find(|module| module.name == zero).unwrap();
    assert_eq!((module.r, module.error, module.relative_error), (1, 0.0, 0.0));
    assert!(made.file.tensors[&format!("{zero}.lora_A")].data.iter().all(|value| *value == 0.0));
}

/// The adapters that were given to peft, and what it made of them.
struct Combined {
    json: Value,
    bytes: Vec<u8>,
}

impl Combined {
    fn open() -> Self {
        let json = serde_json::from_slice(&fixture("low_rank/combined.json")).unwrap();
        Self { json, bytes: fixture("low_rank/combined.safetensors") }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn adapter(&self, name: &str) -> AdapterFile {
        let settings = &self.json["adapters"][name];
        let names = settings["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let (r, alpha) = (settings["r"].as_u64().unwrap() as usize, settings["lora_alpha"].as_f64().unwrap() as f32);
        let use_rslora = settings["use_rslora"].as_bool().unwrap_or(false);
        let config = LoraConfig { use_rslora, ..LoraConfig::new(r, alpha, names.collect()) };
        AdapterFile { config, tensors: self.factors(name) }
    }

    fn factors(&self, name: &str) -> BTreeMap<String, Matrix> {
        let file = self.tensors();
        let prefix = format!("{name}.");
        let names = file.names().into_iter().filter_map(|key| key.strip_prefix(&prefix));
        let names = names.filter(|key| !key.ends_with(".delta"));
        names.map(|key| (key.to_owned(), factor(&file, &format!("{name}.{key}")))).collect()
    }
}

#[test]
fn sums_are_pefts() {
    let combined = Combined::open();
    let theirs = combined.tensors();
    for (case, settings) in combined.json["cases"].as_object().unwrap() {
        let names = settings["adapters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        let weights = settings["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap());
        let files: Vec<AdapterFile> = names.map(|name| combined.adapter(name)).collect();
        let parts: Vec<(&AdapterFile, f64)> = files.iter().zip(weights).collect();
        let how = match settings["combination_type"].as_str().unwrap() {
            "cat" => CombineHow::Cat,
            "svd" => CombineHow::Svd,
            _ => CombineHow::Linear,
        };
        let r = settings["svd_rank"].as_u64().map(|r| r as usize);
        let made = combine(&parts, CombineOptions { how, r }).unwrap();
        let (config, weights) = made.file.write();
        assert_eq!(AdapterFile::parse(&config, &weights).unwrap(), made.file, "{case}");

        let ours = deltas(&made.file);
        let mut errors = 0.0;
        for module in &made.modules {
            let (name, ours) = (&module.name, &ours[&module.name]);
            let delta = matrix(&theirs, &format!("{case}.{name}.delta"));
            let whole = norm(delta.2.iter().copied());
            assert!(distance(ours, &delta) <= ROUNDING * whole, "{case}, {name}: {}", distance(ours, &delta) / whole);
            // The sum as it should be.
            let mut sum = (delta.0, delta.1, vec![0.0; delta.2.len()]);
            for (file, weight) in &parts {
                for (total, value) in sum.2.iter_mut().zip(deltas(file).get(name).map_or(&vec![], |delta| &delta.2)) {
                    *total += weight * value;
                }
            }
            let whole = norm(sum.2.iter().copied());
            let error = distance(ours, &sum);
            assert!((error - module.error).abs() <= ROUNDING * whole, "{case}, {name}: {error} for {module:?}");
            assert!((module.relative_error - module.error / whole).abs() < 1e-9, "{case}, {name}");
            assert!(how != CombineHow::Cat || module.error == 0.0);
            errors += module.error.powi(2);
            if how != CombineHow::Svd {
                // Their rank may have room for what a module does not have: zeros after its own.
                let (theirs_a, ours_a) =
                    (&combined.factors(case)[&format!("{name}.lora_A")], &made.file.tensors[&format!("{name}.lora_A")]);
                let (own, rest) = theirs_a.data.split_at(ours_a.data.len());
                assert!(rest.iter().all(|value| *value == 0.0), "{case}, {name}");
                assert!(own.iter().zip(&ours_a.data).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()), "{case}, {name}");
            }
        }
        assert!((made.error - errors.sqrt()).abs() < 1e-12);
        let modules =
            theirs.names().iter().filter(|key| key.starts_with(&format!("{case}.")) && key.ends_with("delta")).count();
        assert_eq!(made.modules.len(), modules, "{case}");
    }
}

#[test]
fn modules_of_either_are_those_of_the_sum() {
    let one = adapter("golden/llama-gqa-tied");
    let mut other = one.clone();
    other.tensors.retain(|key, _| key.contains("layers.1.") && key.contains("q_proj"));
    other.config.target_modules = ModuleNames::Names(vec!["q_proj".to_owned()]);
    other.config.layers_to_transform = Some(vec![1]);
    let made = combine(&[(&other, 1.0), (&other, 2.0)], CombineOptions::default()).unwrap();
    assert_eq!(made.file.config.layers_to_transform, Some(vec![1]), "what all agree in is kept");
    assert_eq!((made.file.config.r, made.file.config.lora_alpha), (2 * one.config.r, 2.0 * one.config.r as f32));
    for parts in [[(&one, 1.0), (&other, 0.5)], [(&other, 0.5), (&one, 1.0)]] {
        let made = combine(&parts, CombineOptions::default()).unwrap();
        let (config, weights) = made.file.write();
        let back = AdapterFile::parse(&config, &weights).unwrap();
        let (before, after) = (deltas(&one), deltas(&back));
        assert!(before.keys().eq(after.keys()));
        for (name, before) in before {
            let times = if name == "model.layers.1.self_attn.q_proj" { 1.5 } else { 1.0 };
            let expected = (before.0, before.1, before.2.iter().map(|value| value * times).collect());
            assert!(distance(&after[&name], &expected) <= ROUNDING * norm(expected.2.iter().copied()), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let combined = Combined::open();
    let [one, two] = ["one", "two"].map(|name| combined.adapter(name));
    let named = |result: web_lora::Result<Rebuilt>| match result.unwrap_err() {
        web_lora::Error::BadSetting { name, .. } => name,
        error => error.code().to_owned(),
    };
    let compressed = |r, keep| named(compress(&one, CompressOptions { r, keep }));
    assert_eq!([compressed(Some(0), None), compressed(None, None), compressed(Some(1), Some(0.5))], ["r", "r", "keep"]);
    for keep in [0.0, -1.0, 1.1, f64::NAN] {
        assert_eq!(compressed(None, Some(keep)), "keep");
    }
    let sum = |parts: &[(&AdapterFile, f64)], how, r| named(combine(parts, CombineOptions { how, r }));
    assert_eq!(sum(&[], CombineHow::Cat, None), "adapters");
    assert_eq!(sum(&[(&one, f64::INFINITY)], CombineHow::Cat, None), "weight");
    assert_eq!(sum(&[(&one, 1.0)], CombineHow::Cat, Some(3)), "r");
    assert_eq!(sum(&[(&one, 1.0)], CombineHow::Svd, Some(0)), "r");
    assert_eq!(sum(&[(&one, 1.0), (&two, 1.0)], CombineHow::Linear, None), "how");
    let mut wide = two.clone();
    let a = wide.tensors.get_mut("self_attn.q_proj.lora_A").unwrap();
    (a.cols, a.data) = (13, vec![0.0; 26]);
    assert_eq!(sum(&[(&one, 1.0), (&wide, 1.0)], CombineHow::Cat, None), "adapter_mismatch");
    // Something that is not LoRA's.
    let mut dora = one.clone();
    dora.tensors
        .insert("self_attn.q_proj.lora_magnitude_vector".to_owned(), two.tensors["self_attn.q_proj.lora_A"].clone());
    assert_eq!(spectrum(&dora).unwrap_err().code(), "unsupported");
}
