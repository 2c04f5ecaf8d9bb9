//! Each option of a new adapter against peft: the loss at every one of twenty optimiser steps and what was learned after
//! them, as `tests/fixtures/adapter_options/make_adapter_options.py` has them. With `ADAPTER_OUT`, each trained adapter and
//! its logits are written to a folder there, which the same script loads with peft (`--check`).
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use crate::golden::logits::logits;
use crate::tiny::engine;
use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::Error;
use web_lora::engine::LoraOptions;
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::init;
use web_lora::io::{
    AdapterFile, ByteSource, Checkpoint, FileSource, InitLoraWeights, LoraConfig, Matrix as HostMatrix,
};
use web_lora::lora::{Adapter, merged};
use web_lora::model::{self, Decoder};
use web_lora::train::{Pass, TrainOptions, Trainer};

/// Largest difference of a loss, which is about 8 and an f32, over steps that add up what they differ in; peft has the
/// weights without their first factors in f32.
const LOSS_TOLERANCE: f64 = 2e-5;
/// Largest relative difference of the norm of what a module has learned.
const NORM_TOLERANCE: f64 = 2e-5;

const MAGNITUDE: &str = "lora_magnitude_vector";

/// A model and examples of the golden case.
struct Golden {
    gpu: Rc<Gpu>,
    model: Decoder,
    pass: Pass,
    targets: Vec<String>,
    /// The factors that runs without an initialisation begin with.
    init: BTreeMap<String, HostMatrix>,
    runs: serde_json::Map<String, Value>,
}

impl Golden {
    async fn open() -> Self {
        let fixtures = Path::new("tests/fixtures");
        let json = std::fs::read(fixtures.join("adapter_options/adapter_options.json")).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let folder = fixtures.join("golden").join(json["case"].as_str().unwrap());
        let gpu = Rc::new(Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap());
        let model = load(&gpu, &folder).await;
        let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let targets = golden["lora"]["target_modules"].as_array().unwrap();
        let targets = targets.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| tensors.tensor(name).unwrap().data().as_chunks::<8>().0.to_vec();
        let mut init = BTreeMap::new();
        for name in tensors.names() {
            let Some(short) = name.strip_prefix("init.") else { continue };
            let [rows, cols] = [0, 1].map(|axis| tensors.tensor(name).unwrap().shape()[axis]);
            let data = words(name).into_iter().map(|bytes| f64::from_le_bytes(bytes) as f32).collect();
            init.insert(short.to_owned(), HostMatrix { rows, cols, data });
        }
        let seq = *tensors.tensor("input_ids").unwrap().shape().last().unwrap();
        let integers = |name: &str| words(name).into_iter().map(i64::from_le_bytes).collect::<Vec<i64>>();
        let [ids, labels, mask] = ["input_ids", "labels", "attention_mask"].map(integers);
        let mut pass = Pass::default();
        for first in (0..ids.len()).step_by(seq) {
            let real = first..first + mask[first..first + seq].iter().filter(|&&m| m == 1).count();
            let supervised: Vec<bool> = labels[real.clone()].iter().map(|&label| label != -100).collect();
            pass.push(&ids[real].iter().map(|&id| id as u32).collect::<Vec<_>>(), &supervised);
        }
        Self { gpu, model, pass, targets, init, runs: json["runs"].as_object().unwrap().clone() }
    }

    fn config(&self, run: &str) -> LoraConfig {
        let options = &self.runs[run]["adapter"];
        let pairs = |name: &str| options[name].as_object().cloned().unwrap_or_default().into_iter();
        let number = |value: &Value| value.as_f64().unwrap();
        let init = options["initLoraWeights"].as_str().unwrap_or("default");
        LoraConfig {
            use_rslora: options["useRslora"].as_bool().unwrap_or(false),
            use_dora: options["useDora"].as_bool().unwrap_or(false),
            init_lora_weights: InitLoraWeights::named(init).unwrap(),
            lora_dropout: options["loraDropout"].as_f64().unwrap_or(0.0),
            rank_pattern: pairs("rankPattern").map(|(name, r)| (name, number(&r) as usize)).collect(),
            alpha_pattern: pairs("alphaPattern").map(|(name, alpha)| (name, number(&alpha) as f32)).collect(),
            ..LoraConfig::new(
                number(&options["r"]) as usize,
                number(&options["loraAlpha"]) as f32,
                self.targets.clone(),
            )
        }
    }

    /// The adapter that a run begins with.
    async fn adapter(&self, gpu: &Gpu, config: LoraConfig) -> Adapter {
        if config.init_lora_weights != InitLoraWeights::Default {
            return init::adapter(gpu, &self.model, config, 0).await.unwrap();
        }
        // The first of each module's ranks.
        let cut = |(name, matrix): (&String, &HostMatrix)| {
            let (module, factor) = name.rsplit_once('.').unwrap();
            let (r, _) = config.of_module(module).unwrap().unwrap();
            let (rows, cols) = if factor == "lora_A" { (r, matrix.cols) } else { (matrix.rows, r) };
            let rows_of = matrix.data.chunks(matrix.cols).take(rows);
            let data = rows_of.flat_map(|row| &row[..cols]).copied().collect();
            (name.clone(), HostMatrix { rows, cols, data })
        };
        let mut tensors: BTreeMap<String, HostMatrix> = self.init.iter().map(cut).collect();
        if config.use_dora {
            // Magnitudes are those that a fresh adapter begins with.
            let fresh = init::adapter(gpu, &self.model, config.clone(), 0).await.unwrap();
            let fresh = fresh.to_file(gpu).await.unwrap().tensors.into_iter();
            tensors.extend(fresh.filter(|(name, _)| name.ends_with(MAGNITUDE)));
        }
        Adapter::from_file(gpu, &AdapterFile { config: config.clone(), tensors }, &self.model.modules()).unwrap()
    }

    async fn trainer(&self, adapter: &Adapter, options: &TrainOptions, recompute: usize) -> Trainer {
        let (gpu, tokens) = (self.gpu.clone(), self.pass.tokens.len());
        let recorded = options.recorded();
        Trainer::new(gpu, &self.model, adapter, tokens, recompute, recorded, &mut |_, _| ()).await.unwrap()
    }

    fn train_options(&self, run: &str) -> TrainOptions {
        serde_json::from_value(self.runs[run]["train"].clone()).unwrap()
    }

    /// Losses before each of the first `steps`, then after the last without dropout.
    async fn train(&self, run: &str, adapter: &Adapter, steps: usize, recompute: usize) -> Vec<f32> {
        let options = self.train_options(run);
        let mut trainer = self.trainer(adapter, &options, recompute).await;
        let passes = std::slice::from_ref(&self.pass);
        let mut losses = vec![];
        for step in 0..steps {
            trainer.step(passes, options.optim_step(step, options.steps.unwrap()));
            losses.push(trainer.metrics(step).await.unwrap().loss);
        }
        losses.push(trainer.gradients(passes).await.unwrap().0);
        losses
    }
}

async fn load(gpu: &Gpu, folder: &Path) -> Decoder {
    let files = ["config.json", "model.safetensors"]
        .map(|name| Rc::new(FileSource::open(folder.join(name)).unwrap()) as Rc<dyn ByteSource>);
    model::load(gpu, &Checkpoint::open(&files).await.unwrap(), 512, &mut |_, _| true).await.unwrap()
}

#[test]
fn each_option_is_pefts_own() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let mut failed = vec![];
        for (name, run) in &golden.runs {
            let adapter = golden.adapter(&golden.gpu, golden.config(name)).await;
            let before = adapter.to_file(&golden.gpu).await.unwrap();
            let ours = golden.train(name, &adapter, 20, 0).await;
            let curve: Vec<f64> = run["curve"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert_eq!(ours.len(), curve.len());
            let off = ours.iter().zip(&curve).map(|(&ours, theirs)| (f64::from(ours) - theirs).abs());
            let loss_off = off.fold(0.0, f64::max);

            let file = adapter.to_file(&golden.gpu).await.unwrap();
            let norms = run["norms"].as_object().unwrap();
            let per_module = if file.config.use_dora { 3 } else { 2 };
            assert_eq!(per_module * norms.len(), file.tensors.len());
            let norm_off = norms.iter().map(|(module, theirs)| {
                let [a, b] = ["lora_A", "lora_B"].map(|factor| &file.tensors[&format!("{module}.{factor}")]);
                let (_, scaling) = file.config.of_module(module).unwrap().unwrap();
                let delta = merged(&vec![0.0; b.rows * a.cols], a, b, None, scaling);
                let ours = delta.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
                (ours / theirs.as_f64().unwrap() - 1.0).abs()
            });
            let norm_off = norm_off.fold(0.0, f64::max);
            let magnitudes = file.tensors.iter().filter_map(|(name, after)| {
                let module = name.strip_suffix(MAGNITUDE)?.trim_end_matches('.');
                let moved = after.data.iter().zip(&before.tensors[name].data).map(|(a, b)| f64::from(a - b).powi(2));
                Some((moved.sum::<f64>().sqrt() / run["magnitudes"][module].as_f64().unwrap() - 1.0).abs())
            });
            let magnitude_off = magnitudes.fold(0.0, f64::max);
            println!("{name}: loss {loss_off:.1e}, norms {norm_off:.1e}, magnitudes {magnitude_off:.1e}");
            if !(loss_off <= LOSS_TOLERANCE && norm_off.max(magnitude_off) <= NORM_TOLERANCE) {
                failed.push(name.clone());
            }

            // What is handed out is a plain adapter that acts as the one that was trained.
            let (config, weights) = file.write();
            let back = AdapterFile::parse(&config, &weights).unwrap();
            let plain = Adapter::from_file(&golden.gpu, &back, &golden.model.modules()).unwrap();
            let [ours, again] = [
                logits(&golden.gpu, &golden.model, Some(&adapter), &golden.pass).await.unwrap(),
                logits(&golden.gpu, &golden.model, Some(&plain), &golden.pass).await.unwrap(),
            ];
            let worst = ours.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}: logits of the exported adapter are off by {worst:.1e}");
            if let Some(out) = std::env::var_os("ADAPTER_OUT") {
                let out = Path::new(&out).join(name);
                std::fs::create_dir_all(&out).unwrap();
                std::fs::write(out.join("adapter_config.json"), config).unwrap();
                std::fs::write(out.join("adapter_model.safetensors"), weights).unwrap();
                std::fs::write(out.join("logits.f32"), bytemuck::cast_slice(&ours)).unwrap();
            }
        }
        assert!(failed.is_empty(), "further off than allowed: {}", failed.join(", "));
    });
}

/// Passes that compute activations again drop the same, to the bit; and memory is what it is on paper.
#[test]
fn recomputing_changes_nothing_and_memory_is_planned() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        for run in ["dropout_together", "pissa_together", "dora_dropout"] {
            let n = golden.model.n_recomputable();
            let mut kept = vec![];
            for recompute in [0, n] {
                let adapter = golden.adapter(&golden.gpu, golden.config(run)).await;
                kept.push(golden.train(run, &adapter, 3, recompute).await);
            }
            assert_eq!(kept[0], kept[1], "{run}");
            let folder = Path::new("tests/fixtures/golden/llama-gqa-tied");
            let paper = Rc::new(Gpu::paper(golden.gpu.info().clone()));
            let model = load(&paper, folder).await;
            let planned = init::adapter(&paper, &model, golden.config(run), 0).await.unwrap();
            let recorded = golden.train_options(run).recorded();
            let tokens = golden.pass.tokens.len();
            let on_paper = Trainer::new(paper, &model, &planned, tokens, 0, recorded, &mut |_, _| ()).await.unwrap();
            let adapter = golden.adapter(&golden.gpu, golden.config(run)).await;
            let before = golden.gpu.allocated_bytes();
            let trainer = golden.trainer(&adapter, &golden.train_options(run), 0).await;
            assert_eq!(on_paper.size_bytes(), golden.gpu.allocated_bytes() - before, "{run}");
            assert_eq!(on_paper.n_dispatches(), trainer.n_dispatches());
            assert_eq!(planned.size_bytes(), adapter.size_bytes());
        }
    });
}

/// Other seeds drop other inputs, the same seed the same; and nothing is dropped where nothing is learned.
#[test]
fn dropout_is_of_seed_and_step() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let adapter = golden.adapter(&golden.gpu, golden.config("dropout")).await;
        let options = golden.train_options("dropout");
        let mut trainer = golden.trainer(&adapter, &options, 0).await;
        let passes = std::slice::from_ref(&golden.pass);
        let mut losses = vec![];
        for (seed, t) in [(0, 1), (0, 1), (1, 1), (0, 2)] {
            let optim = web_lora::train::OptimStep { seed, t, ..options.optim_step(0, 20) };
            losses.push(trainer.accumulate(passes, 1.0, optim).await.unwrap());
            trainer.update(web_lora::train::OptimStep { learning_rate: 0.0, ..optim }).await.unwrap();
        }
        assert_eq!(losses[0], losses[1]);
        assert!(losses[0] != losses[2] && losses[0] != losses[3] && losses[2] != losses[3], "{losses:?}");
        let still = trainer.gradients(passes).await.unwrap().0;
        let plain = LoraConfig { lora_dropout: 0.0, ..golden.config("dropout") };
        let plain = golden.adapter(&golden.gpu, plain).await;
        let without = golden.trainer(&plain, &options, 0).await;
        let difference = (without.gradients(passes).await.unwrap().0 - still).abs();
        assert!(difference < 2e-6 && losses[0] != still, "{difference:e}");
    });
}

#[test]
fn gaussian_is_normal_over_the_rank() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let config = LoraConfig { init_lora_weights: InitLoraWeights::Gaussian, ..golden.config("dropout") };
        let r = config.r as f64;
        let adapter = init::adapter(&golden.gpu, &golden.model, config, 3).await.unwrap();
        let file = adapter.to_file(&golden.gpu).await.unwrap();
        let of = |factor: &str| -> Vec<f64> {
            let matrices = file.tensors.iter().filter(|(name, _)| name.ends_with(factor));
            matrices.flat_map(|(_, matrix)| &matrix.data).map(|&v| r * f64::from(v)).collect()
        };
        assert!(of("lora_B").iter().all(|&v| v == 0.0));
        let a = of("lora_A");
        let n = a.len() as f64;
        let moment = |power: i32| a.iter().map(|v| v.powi(power)).sum::<f64>() / n;
        // Four standard deviations of each moment's mean.
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let (ours, allowed) = (moment(power), 4.0 * f64::sqrt(variance / n));
            assert!((ours - expected).abs() < allowed, "moment {power}: {ours} for {expected} ± {allowed}");
        }
    });
}

engine_test!(what_cannot_be_is_refused_by_name, async {
    let mut engine = engine().await;
    let options = |init: &str, r, lora_dropout| LoraOptions {
        init_lora_weights: init.into(),
        r,
        lora_dropout,
        ..Default::default()
    };
    for (name, options) in [
        ("initLoraWeights", options("eva", 4, 0.0)),
        ("initLoraWeights", options("pissa_niter_x", 4, 0.0)),
        ("r", options("pissa", 25, 0.0)),
        ("lora_dropout", options("default", 4, 1.0)),
        ("lora_dropout", options("default", 4, f64::NAN)),
        ("lora_dropout", options("olora", 4, 0.1)),
    ] {
        match engine.new_adapter(options).await {
            Err(Error::BadSetting { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    for init in ["default", "gaussian", "pissa", "pissa_niter_4", "olora"] {
        let info = engine.new_adapter(options(init, 4, 0.0)).await.unwrap();
        assert_eq!((info.r, info.parameters), (4, engine.adapter_info().unwrap().parameters));
        let (config, weights) = engine.save_adapter().await.unwrap();
        engine.load_adapter(&config, &weights).unwrap();
    }
});
