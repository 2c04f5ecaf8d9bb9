//! Each training option against transformers, peft and bitsandbytes: the loss at every one of twenty optimiser steps and
//! the adapter's norms after them, alone and all together, as `tests/fixtures/train_options/make_train_options.py` has
//! them.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::data::Example;
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{AdapterFile, ByteSource, Checkpoint, FileSource, LoraConfig, Matrix as HostMatrix};
use web_lora::lora::Adapter;
use web_lora::model::{self, Decoder};
use web_lora::train::{Batches, Optim, Pass, TrainOptions, Trainer};

/// Largest difference of a loss: f32 has some 5e-7 for one of 8, and steps add up what they differ in. With moments in 8
/// bits, a value between two codes may become either, which is a relative difference of a hundredth in that number.
const LOSS_TOLERANCES: [(Optim, f64); 2] = [(Optim::AdamW, 2e-5), (Optim::AdamW8bit, 5e-4)];
/// Largest relative difference of a factor's norm, likewise.
const NORM_TOLERANCES: [(Optim, f64); 2] = [(Optim::AdamW, 2e-5), (Optim::AdamW8bit, 2e-3)];

fn fixtures() -> &'static Path {
    Path::new("tests/fixtures")
}

/// The golden case: a model, the adapter that training begins with, the examples.
struct Golden {
    gpu: Rc<Gpu>,
    model: Decoder,
    init: AdapterFile,
    examples: Vec<Example>,
    runs: serde_json::Map<String, Value>,
}

/// What a run came to.
struct Outcome {
    losses: Vec<f32>,
    adapter: AdapterFile,
    dispatches: usize,
    optimizer_bytes: u64,
}

impl Golden {
    async fn open() -> Self {
        let json: Value =
            serde_json::from_slice(&std::fs::read(fixtures().join("train_options/train_options.json")).unwrap())
                .unwrap();
        let folder = fixtures().join("golden").join(json["case"].as_str().unwrap());
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        let gpu = Rc::new(gpu);
        let files = ["config.json", "model.safetensors"]
            .map(|name| Rc::new(FileSource::open(folder.join(name)).unwrap()) as Rc<dyn ByteSource>);
        let checkpoint = Checkpoint::open(&files).await.unwrap();
        let model = model::load(&gpu, &checkpoint, 512, &mut |_, _| true).await.unwrap();

        let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let lora = &golden["lora"];
        let targets = lora["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let [r, alpha] = ["r", "alpha"].map(|name| lora[name].as_u64().unwrap());
        let config = LoraConfig::new(r as usize, alpha as f32, targets.collect());
        let mut factors = BTreeMap::new();
        for name in tensors.names() {
            let Some(short) = name.strip_prefix("init.") else { continue };
            let tensor = tensors.tensor(name).unwrap();
            let data =
                tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32).collect();
            let [rows, cols] = [0, 1].map(|axis| tensor.shape()[axis]);
            factors.insert(short.to_owned(), HostMatrix { rows, cols, data });
        }
        let integers = |name: &str| -> Vec<i64> {
            let data = tensors.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let seq = *tensors.tensor("input_ids").unwrap().shape().last().unwrap();
        let [ids, labels, mask] = ["input_ids", "labels", "attention_mask"].map(integers);
        let example = |at: usize| {
            let row = at * seq..(at + 1) * seq;
            let n = mask[row.clone()].iter().filter(|&&m| m == 1).count();
            let ids = ids[row.clone()][..n].iter().map(|&id| id as u32).collect();
            let supervised = labels[row][..n].iter().map(|&label| label != -100).collect();
            Example { ids, supervised, line: at + 1, truncated: false }
        };
        let examples = (0..ids.len() / seq).map(example).collect();
        let runs = json["runs"].as_object().unwrap().clone();
        let init = AdapterFile { config, tensors: factors };
        Self { gpu, model, init, examples, runs }
    }

    fn options(&self, run: &str) -> TrainOptions {
        serde_json::from_value(self.runs[run]["options"].clone()).unwrap()
    }

    fn numbers(&self, run: &str, name: &str) -> Vec<f64> {
        self.runs[run][name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    /// Trains; passes hold one step's examples, or `max_tokens` tokens.
    async fn train(&self, options: &TrainOptions, max_tokens: usize, recompute: usize) -> Outcome {
        options.validate().unwrap();
        let (gpu, model) = (self.gpu.clone(), &self.model);
        let adapter = Adapter::from_file(&gpu, &self.init, &model.modules()).unwrap();
        let recorded = options.recorded();
        let mut trainer =
            Trainer::new(gpu.clone(), model, &adapter, max_tokens, recompute, recorded, &mut |_, _| ()).await.unwrap();
        let total = options.total_steps(self.examples.len());
        let batches = Batches::new(self.examples.len(), options.examples_per_step(), options.seed);
        let mut losses = vec![];
        for step in 0..total {
            let passes = self.passes(&batches, step, options, max_tokens);
            trainer.step(&passes, options.optim_step(step, total));
            let metrics = trainer.metrics(step).await.unwrap();
            assert!(!metrics.skipped);
            losses.push(metrics.loss);
        }
        // Without an optimiser step's numbers there is neither noise nor smoothing.
        let (loss, _) = trainer.gradients(&batches.passes(0, &self.examples, max_tokens)).await.unwrap();
        losses.push(loss);
        let adapter = adapter.to_file(&gpu).await.unwrap();
        Outcome { losses, adapter, dispatches: trainer.n_dispatches(), optimizer_bytes: trainer.optimizer_bytes() }
    }

    /// The step's passes: where there is noise, the examples in the order of the file, as the generator has them (rows
    /// have noise of their own by where they are).
    fn passes(&self, batches: &Batches, step: usize, options: &TrainOptions, max_tokens: usize) -> Vec<Pass> {
        if options.neftune_noise_alpha == 0.0 {
            return batches.passes(step, &self.examples, max_tokens);
        }
        let micro_batches = self.examples.chunks(options.batch_size).map(|examples| {
            let mut pass = Pass::default();
            examples.iter().for_each(|example| pass.push(&example.ids, &example.supervised));
            pass
        });
        micro_batches.collect()
    }

    fn tokens(&self) -> usize {
        self.examples.iter().map(|example| example.ids.len()).sum()
    }
}

fn norm(matrix: &HostMatrix) -> f64 {
    matrix.data.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

#[test]
fn each_option_is_transformers_own() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let mut failed = vec![];
        let plain = golden.numbers("plain", "curve");
        for name in golden.runs.keys() {
            let options = golden.options(name);
            let ours = golden.train(&options, golden.tokens(), 0).await;
            let curve = golden.numbers(name, "curve");
            assert_eq!(ours.losses.len(), curve.len());
            let off = |theirs: &[f64]| {
                let each = ours.losses.iter().zip(theirs).map(|(&ours, theirs)| (f64::from(ours) - theirs).abs());
                each.fold(0.0, f64::max)
            };
            let norms = golden.runs[name]["norms"].as_object().unwrap();
            assert_eq!(norms.len(), ours.adapter.tensors.len());
            let norm_off = ours.adapter.tensors.iter().map(|(name, matrix)| {
                let theirs = norms[name].as_f64().unwrap();
                (norm(matrix) - theirs).abs() / theirs
            });
            let (loss_off, norm_off) = (off(&curve), norm_off.fold(0.0, f64::max));
            println!("{name}: loss {loss_off:.1e}, norms {norm_off:.1e}, from plain {:.1e}", off(&plain));
            let [loss_tolerance, norm_tolerance] = [LOSS_TOLERANCES, NORM_TOLERANCES]
                .map(|tolerances| tolerances.iter().find(|(optim, _)| *optim == options.optim).unwrap().1);
            if !(loss_off <= loss_tolerance && norm_off <= norm_tolerance) {
                failed.push(name.clone());
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
    });
}

/// Every setting of the fixtures does something, or else agreeing would say nothing: but accumulation, whose point is that
/// it does not.
#[test]
fn each_option_changes_the_curve() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let plain = golden.numbers("plain", "curve");
        for name in golden.runs.keys().filter(|name| !["plain", "accumulation"].contains(&name.as_str())) {
            let curve = golden.numbers(name, "curve");
            let off = plain.iter().zip(&curve).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off > 1e-3, "{name}: {off}");
        }
    });
}

/// Moments in 8 bits lead where moments in f32 do. A moment is off by at most half of what lies between two codes, a
/// hundredth of it in the middle of a decade, and as often above as below: over twenty steps some thousandths of what the
/// loss falls by.
#[test]
fn moments_in_8_bits_follow_moments_in_f32() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let run =
            async |optim| golden.train(&TrainOptions { optim, ..golden.options("plain") }, golden.tokens(), 0).await;
        let (f32s, bytes) = (run(Optim::AdamW).await, run(Optim::AdamW8bit).await);
        let fall = f32s.losses[0] - f32s.losses[20];
        for (a, b) in f32s.losses.iter().zip(&bytes.losses) {
            assert!((a - b).abs() < 2e-3 * fall, "{:?} for {:?}", bytes.losses, f32s.losses);
        }
        assert!(f32s.losses != bytes.losses && f32s.dispatches == bytes.dispatches);
        // Gradients of 4 bytes, and moments of 8, or of 2 with two scales for every 256.
        let n = f32s.optimizer_bytes as f64 / 12.0;
        assert!((bytes.optimizer_bytes as f64 / n - 6.0 - 8.0 / 256.0).abs() < 0.01, "{}", bytes.optimizer_bytes);
    });
}

/// A run that computes activations again has the same noise and ends in the same bits; another seed has other noise.
#[test]
fn recomputing_changes_no_bit_and_the_noise_is_the_seeds() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        for name in ["together", "together_8bit"] {
            let options = golden.options(name);
            let whole = golden.train(&options, golden.tokens(), 0).await;
            let recomputed = golden.train(&options, golden.tokens(), golden.model.n_recomputable()).await;
            assert_eq!((&whole.losses, &whole.adapter), (&recomputed.losses, &recomputed.adapter));
            let other =
                golden.train(&TrainOptions { seed: options.seed + 1, ..options.clone() }, golden.tokens(), 0).await;
            assert_ne!(whole.losses, other.losses);
        }
    });
}

/// What an option costs in dispatches: NEFTune's noise is one more, all others are in what there is.
#[test]
fn options_are_no_dispatches_of_their_own() {
    pollster::block_on(async {
        let golden = Golden::open().await;
        let adapter = Adapter::from_file(&golden.gpu, &golden.init, &golden.model.modules()).unwrap();
        let dispatches = async |run: &str| {
            let recorded = golden.options(run).recorded();
            let trainer =
                Trainer::new(golden.gpu.clone(), &golden.model, &adapter, 128, 0, recorded, &mut |_, _| ()).await;
            trainer.unwrap().n_dispatches()
        };
        let plain = dispatches("plain").await;
        for run in ["loraplus", "smoothing", "adamw_8bit", "restarts", "accumulation"] {
            assert_eq!(dispatches(run).await, plain, "{run}");
        }
        assert_eq!(dispatches("neftune").await, plain + 1);
        assert_eq!(dispatches("together_8bit").await, plain + 1);
    });
}
