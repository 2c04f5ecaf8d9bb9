//! Biases and norms that are trained beside LoRA's factors, against peft: gradients, the loss at every one of twenty
//! optimiser steps and what was learned after them, as `tests/fixtures/trained_vectors/make_trained_vectors.py` has them.
//! With `VECTORS_OUT`, each trained adapter and its logits are written to a folder there, which the same script loads with
//! peft (`--check`).
#![cfg(not(target_arch = "wasm32"))]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use crate::golden::logits::{logits, logits_at};
use crate::tiny::{self, DATA, engine, options};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use web_lora::engine::{AdapterSource, Engine, LoraOptions, Prompt};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{AdapterFile, Bias, ByteSource, Checkpoint, FileSource, LoraConfig, Matrix as HostMatrix};
use web_lora::lora::Adapter;
use web_lora::low_rank::CompressOptions;
use web_lora::merge::{MergeDType, MergeOptions, merge};
use web_lora::model::{self, Decoder};
use web_lora::train::{Loss, Optim, Pass, TrainOptions, Trainer, read_state};
use web_lora::{Error, init};

/// Largest difference of a loss, which is about 8 and an f32, over steps that add up what they differ in.
const LOSS_TOLERANCE: f64 = 2e-5;
/// Largest relative difference of a gradient's norm.
const NORM_TOLERANCE: f64 = 2e-6;
/// Of the norm of what was learned. A bias of GPT-2's keys has no effect, so that its gradient is nothing but roundings, of
/// which AdamW makes steps.
const MOVED_TOLERANCE: f64 = 1e-3;
/// Of a loss with moments in 8 bits from one without, while it falls by about four.
const LOSS_TOLERANCE_8BIT: f64 = 2e-3;

/// A run of peft's: its model, examples and settings.
struct Run {
    gpu: Rc<Gpu>,
    model: Decoder,
    pass: Pass,
    init: BTreeMap<String, HostMatrix>,
    json: Value,
}

fn runs() -> serde_json::Map<String, Value> {
    let json = std::fs::read("tests/fixtures/trained_vectors/trained_vectors.json").unwrap();
    serde_json::from_slice(&json).unwrap()
}

async fn device() -> Rc<Gpu> {
    Rc::new(Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap())
}

fn files(case: &Value) -> Vec<Rc<dyn ByteSource>> {
    let folder = Path::new("tests/fixtures/golden").join(case.as_str().unwrap());
    let file = |name| Rc::new(FileSource::open(folder.join(name)).unwrap()) as Rc<dyn ByteSource>;
    ["config.json", "model.safetensors"].map(file).to_vec()
}

async fn load(gpu: &Gpu, case: &Value) -> Decoder {
    load_files(gpu, &files(case)).await
}

async fn load_files(gpu: &Gpu, files: &[Rc<dyn ByteSource>]) -> Decoder {
    model::load(gpu, &Checkpoint::open(files).await.unwrap(), 512, &mut |_, _| true).await.unwrap()
}

impl Run {
    async fn open(gpu: &Rc<Gpu>, name: &str) -> Self {
        let json = runs()[name].clone();
        let model = load(gpu, &json["case"]).await;
        let folder = Path::new("tests/fixtures/golden").join(json["case"].as_str().unwrap());
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| tensors.tensor(name).unwrap().data().as_chunks::<8>().0.to_vec();
        let mut init = BTreeMap::new();
        for name in tensors.names() {
            let Some(short) = name.strip_prefix("init.") else { continue };
            let &[rows, cols] = tensors.tensor(name).unwrap().shape() else { continue };
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
        Self { gpu: gpu.clone(), model, pass, init, json }
    }

    fn config(&self) -> LoraConfig {
        let options = &self.json["adapter"];
        let names = |name: &str| -> Vec<String> {
            let names = options[name].as_array().into_iter().flatten();
            names.map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let layers = options["layersToTransform"].as_array();
        LoraConfig {
            use_rslora: options["useRslora"].as_bool().unwrap(),
            use_dora: options["useDora"].as_bool().unwrap_or(false),
            bias: options.get("bias").map_or(Bias::None, |bias| serde_json::from_value(bias.clone()).unwrap()),
            modules_to_save: names("modulesToSave"),
            layers_to_transform: layers
                .map(|layers| layers.iter().map(|layer| layer.as_u64().unwrap() as usize).collect()),
            ..LoraConfig::new(
                options["r"].as_u64().unwrap() as usize,
                options["loraAlpha"].as_f64().unwrap() as f32,
                names("targetModules"),
            )
        }
    }

    /// The adapter that it begins with: the golden case's factors, and all else as a fresh one has it.
    async fn adapter(&self, config: LoraConfig) -> Adapter {
        let fresh = init::adapter(&self.gpu, &self.model, config, 0).await.unwrap();
        let mut file = fresh.to_file(&self.gpu).await.unwrap();
        for (name, matrix) in &mut file.tensors {
            if let Some(golden) = self.init.get(name) {
                *matrix = golden.clone();
            }
        }
        Adapter::from_file(&self.gpu, &file, &self.model.modules()).unwrap()
    }

    fn train_options(&self) -> TrainOptions {
        serde_json::from_value(self.json["train"].clone()).unwrap()
    }

    async fn trainer(&self, adapter: &Adapter, options: &TrainOptions, recompute: usize) -> Trainer {
        let (gpu, tokens) = (self.gpu.clone(), self.pass.tokens.len());
        let recorded = options.recorded();
        Trainer::new(gpu, &self.model, adapter, tokens, recompute, recorded, &mut |_, _| ()).await.unwrap()
    }

    /// Losses and gradient norms of so many steps, and the loss after the last.
    async fn train(&self, adapter: &Adapter, options: &TrainOptions, steps: usize, recompute: usize) -> [Vec<f32>; 2] {
        let mut trainer = self.trainer(adapter, options, recompute).await;
        let passes = std::slice::from_ref(&self.pass);
        let (mut losses, mut norms) = (vec![], vec![]);
        for step in 0..steps {
            trainer.step(passes, options.optim_step(step, options.steps.unwrap()));
            let metrics = trainer.metrics(step).await.unwrap();
            losses.push(metrics.loss);
            norms.push(metrics.grad_norm);
        }
        losses.push(trainer.gradients(passes).await.unwrap().0);
        [losses, norms]
    }

    fn curve(&self, name: &str) -> Vec<f64> {
        self.json[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn worst(ours: &[f32], theirs: &[f64], relative: bool) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let off =
        |(ours, theirs): (&f32, &f64)| (f64::from(*ours) - theirs).abs() / if relative { theirs.abs() } else { 1.0 };
    ours.iter().zip(theirs).map(off).fold(0.0, f64::max)
}

/// The vectors among tensors.
fn vectors(tensors: &BTreeMap<String, HostMatrix>) -> BTreeMap<&str, &HostMatrix> {
    let is_vector = |name: &str| name.ends_with(".weight") || name.ends_with(".bias");
    tensors.iter().filter(|(name, _)| is_vector(name)).map(|(name, matrix)| (name.as_str(), matrix)).collect()
}

#[test]
fn biases_and_norms_are_trained_as_peft_trains_them() {
    pollster::block_on(async {
        let gpu = device().await;
        let mut failed = vec![];
        for name in runs().keys() {
            let run = Run::open(&gpu, name).await;
            let adapter = run.adapter(run.config()).await;
            let before = adapter.to_file(&gpu).await.unwrap();

            let trainer = run.trainer(&adapter, &run.train_options(), 0).await;
            let (_, grads) = trainer.gradients(std::slice::from_ref(&run.pass)).await.unwrap();
            drop(trainer);
            let grads = adapter.unpack(&grads);
            let theirs = run.json["grads"].as_object().unwrap();
            let names: BTreeSet<&str> = theirs.keys().map(String::as_str).collect();
            assert!(vectors(&grads).keys().copied().eq(names), "{name}: {:?}", vectors(&grads).keys());
            let grad_off = vectors(&grads).into_iter().map(|(vector, ours)| {
                norm(ours.data.iter().map(|&v| f64::from(v))) / theirs[vector].as_f64().unwrap() - 1.0
            });
            let grad_off = grad_off.fold(0.0, |worst: f64, off| worst.max(off.abs()));

            let [losses, norms] = run.train(&adapter, &run.train_options(), 20, 0).await;
            let loss_off = worst(&losses, &run.curve("curve"), false);
            let norm_off = worst(&norms, &run.curve("grad_norm"), true);

            let file = adapter.to_file(&gpu).await.unwrap();
            let moved_off = vectors(&file.tensors).into_iter().map(|(vector, after)| {
                let moved =
                    after.data.iter().zip(&before.tensors[vector].data).map(|(a, b)| f64::from(*a) - f64::from(*b));
                norm(moved) / run.json["moved"][vector].as_f64().unwrap() - 1.0
            });
            let moved_off = moved_off.fold(0.0, |worst: f64, off| worst.max(off.abs()));
            println!(
                "{name}: gradients {grad_off:.1e}, loss {loss_off:.1e}, norms {norm_off:.1e}, moved {moved_off:.1e}"
            );
            if !(loss_off <= LOSS_TOLERANCE && grad_off.max(norm_off) <= NORM_TOLERANCE && moved_off <= MOVED_TOLERANCE)
            {
                failed.push(name.clone());
            }

            // Its files are read again for what they are.
            let (config, weights) = file.write();
            let back = AdapterFile::parse(&config, &weights).unwrap();
            assert!(back == file, "{name}");
            let again = Adapter::from_file(&gpu, &back, &run.model.modules()).unwrap();
            let ours = logits(&gpu, &run.model, Some(&adapter), &run.pass).await.unwrap();
            assert!(ours == logits(&gpu, &run.model, Some(&again), &run.pass).await.unwrap(), "{name}");
            if let Some(out) = std::env::var_os("VECTORS_OUT") {
                let out = Path::new(&out).join(name);
                std::fs::create_dir_all(&out).unwrap();
                std::fs::write(out.join("case"), run.json["case"].as_str().unwrap()).unwrap();
                std::fs::write(out.join("adapter_config.json"), config).unwrap();
                std::fs::write(out.join("adapter_model.safetensors"), weights).unwrap();
                std::fs::write(out.join("logits.f32"), bytemuck::cast_slice(&ours)).unwrap();
            }
        }
        assert!(failed.is_empty(), "further off than allowed: {}", failed.join(", "));
    });
}

#[test]
fn moments_in_eight_bits_do_as_well() {
    pollster::block_on(async {
        let gpu = device().await;
        for name in ["gpt2_all", "gemma3_norm"] {
            let run = Run::open(&gpu, name).await;
            let adapter = run.adapter(run.config()).await;
            let options = TrainOptions { optim: Optim::AdamW8bit, ..run.train_options() };
            let [losses, _] = run.train(&adapter, &options, 20, 0).await;
            let off = worst(&losses, &run.curve("curve"), false);
            println!("{name}: loss {off:.1e}");
            assert!(off > 0.0 && off <= LOSS_TOLERANCE_8BIT, "{name}: {off:.1e}");
        }
    });
}

/// Passes that compute activations again end in the same bits, and memory is what it is on paper.
#[test]
fn recomputing_changes_nothing_and_memory_is_planned() {
    pollster::block_on(async {
        let gpu = device().await;
        for name in ["gpt2_dora", "qwen3_q_norm", "gemma3_norm"] {
            let run = Run::open(&gpu, name).await;
            let (config, options) = (run.config(), run.train_options());
            let mut kept = vec![];
            for recompute in [0, run.model.n_recomputable()] {
                let adapter = run.adapter(config.clone()).await;
                let losses = run.train(&adapter, &options, 3, recompute).await;
                kept.push((losses, adapter.to_file(&gpu).await.unwrap()));
            }
            assert!(kept[0] == kept[1], "{name}");

            let paper = Rc::new(Gpu::paper(gpu.info().clone()));
            let model = load(&paper, &run.json["case"]).await;
            let planned = init::adapter(&paper, &model, config.clone(), 0).await.unwrap();
            let tokens = run.pass.tokens.len();
            let recorded = options.recorded();
            let on_paper = Trainer::new(paper, &model, &planned, tokens, 0, recorded, &mut |_, _| ()).await.unwrap();
            let before = gpu.allocated_bytes();
            let adapter = run.adapter(config.clone()).await;
            assert_eq!(planned.size_bytes(), gpu.allocated_bytes() - before, "{name}");
            assert_eq!((planned.size_bytes(), planned.n_parameters()), (adapter.size_bytes(), adapter.n_parameters()));
            let before = gpu.allocated_bytes();
            let trainer = run.trainer(&adapter, &options, 0).await;
            assert_eq!(on_paper.size_bytes(), gpu.allocated_bytes() - before, "{name}");
            assert_eq!(on_paper.n_dispatches(), trainer.n_dispatches());

            let plain = LoraConfig { bias: Bias::None, modules_to_save: vec![], ..config };
            let plain = run.adapter(plain).await;
            let trained: usize = vectors(&kept[0].1.tensors).values().map(|vector| vector.data.len()).sum();
            assert!(trained > 0 && plain.n_parameters() + trained == adapter.n_parameters(), "{name}");
            assert!(plain.size_bytes() < adapter.size_bytes());
            let n_dispatches = run.trainer(&plain, &options, 0).await.n_dispatches();
            assert!(n_dispatches < trainer.n_dispatches(), "{name}");
        }
    });
}

/// Vectors are as far on their way from the base's to the trained ones as the strength says: at 0 the base, to the bit.
#[test]
fn strength_is_the_way_from_the_base() {
    pollster::block_on(async {
        let gpu = device().await;
        for name in ["gpt2_together", "gemma3_norm"] {
            let run = Run::open(&gpu, name).await;
            let adapter = run.adapter(run.config()).await;
            let fresh = adapter.to_file(&gpu).await.unwrap();
            run.train(&adapter, &run.train_options(), 4, 0).await;
            let base = logits(&gpu, &run.model, None, &run.pass).await.unwrap();
            let at = async |strength| logits_at(&gpu, &run.model, Some(&adapter), &run.pass, strength).await.unwrap();
            assert!(at(0.0).await == base, "{name}");
            for strength in [0.3, 1.7] {
                // The same with all of it in the numbers.
                let mut file = adapter.to_file(&gpu).await.unwrap();
                for (name, matrix) in &mut file.tensors {
                    let original = &fresh.tensors[name];
                    if name.ends_with("lora_B") {
                        matrix.data.iter_mut().for_each(|v| *v *= strength);
                    } else if !name.ends_with("lora_A") {
                        matrix.data.iter_mut().zip(&original.data).for_each(|(v, o)| *v = *o + strength * (*v - o));
                    }
                }
                let other = Adapter::from_file(&gpu, &file, &run.model.modules()).unwrap();
                let expected = logits(&gpu, &run.model, Some(&other), &run.pass).await.unwrap();
                let off = |a: &[f32], b: &[f32]| norm(a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
                let ours = at(strength).await;
                let error = off(&ours, &expected) / norm(expected.iter().map(|&v| f64::from(v)));
                // Roundings of each logit's sums, as with the golden numbers.
                assert!(error < 1e-6 && off(&ours, &base) > 1.0, "{name} at {strength}: {error:.1e}");
            }
        }
    });
}

#[test]
fn what_is_no_norm_is_refused_by_name() {
    pollster::block_on(async {
        let gpu = Gpu::paper(device().await.info().clone());
        let model = load(&gpu, &json!("llama-gqa-tied")).await;
        let norms = "input_layernorm, post_attention_layernorm, norm";
        for name in ["embed_tokens", "lm_head", "model.embed_tokens", "q_proj", "mlp", "layernorm", "m", "", "q_norm"] {
            let config = LoraConfig {
                modules_to_save: vec!["norm".to_owned(), name.to_owned()],
                ..LoraConfig::new(4, 8.0, vec!["q_proj".to_owned()])
            };
            match Adapter::new(&gpu, config, &model.modules(), 0).err() {
                Some(Error::BadSetting { name: setting, value, allowed }) => {
                    assert_eq!((&setting[..], &value[..]), ("modules_to_save", name));
                    assert!(allowed.ends_with(norms), "{allowed}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        // Of a model without biases there are none to train, as in peft.
        let config = LoraConfig { bias: Bias::All, ..LoraConfig::new(4, 8.0, vec!["q_proj".to_owned()]) };
        let plain = LoraConfig { bias: Bias::None, ..config.clone() };
        let [all, none] = [config, plain].map(|config| Adapter::new(&gpu, config, &model.modules(), 0).unwrap());
        assert_eq!((all.n_parameters(), all.size_bytes()), (none.n_parameters(), none.size_bytes()));
    });
}

/// The merged model has them in place of the base's.
#[test]
fn merged_they_take_the_place_of_the_bases() {
    pollster::block_on(async {
        let gpu = device().await;
        for name in ["gpt2_all_and_norms", "qwen2_lora_only", "gemma3_norm"] {
            let run = Run::open(&gpu, name).await;
            let adapter = run.adapter(run.config()).await;
            run.train(&adapter, &run.train_options(), 3, 0).await;
            let file = adapter.to_file(&gpu).await.unwrap();
            let (base, options) =
                (files(&run.json["case"]), MergeOptions { dtype: Some(MergeDType::F32), ..Default::default() });
            let merged = merge(Checkpoint::open(&base).await.unwrap(), &base, &file, &options).unwrap();
            let n_vectors = vectors(&file.tensors).len();
            let n_factors = file.tensors.len() - n_vectors;
            assert_eq!(merged.report.merged, n_factors / 2 + n_vectors, "{name}");
            let sources: Vec<_> = merged.files.iter().map(|file| file.source.clone()).collect();
            let merged = load_files(&gpu, &sources).await;
            let ours = logits(&gpu, &merged, None, &run.pass).await.unwrap();
            let theirs = logits(&gpu, &run.model, Some(&adapter), &run.pass).await.unwrap();
            let off = norm(ours.iter().zip(&theirs).map(|(a, b)| f64::from(a - b)));
            let error = off / norm(theirs.iter().map(|&v| f64::from(v)));
            println!("{name}: merged {error:.1e}");
            assert!(error < 1e-5, "{name}: {error:.1e}");
        }
    });
}

/// With `bias: all`, peft has biases of norms that are trained in full three times; of others there is but one, under either
/// name.
#[test]
fn files_of_pefts_are_read_as_it_writes_them() {
    let factor = |rows, cols| HostMatrix { rows, cols, data: vec![0.5; rows * cols] };
    let names = ["attn.c_attn.bias", "ln_1.weight", "ln_1.bias", "ln_2.bias"];
    let vectors = names.map(|name| (format!("transformer.h.0.{name}"), factor(3, 1)));
    let factors = [("lora_A", factor(1, 2)), ("lora_B", factor(3, 1))]
        .map(|(name, factor)| (format!("transformer.h.0.attn.c_attn.{name}"), factor));
    let config = LoraConfig {
        bias: Bias::All,
        modules_to_save: vec!["ln_1".to_owned()],
        ..LoraConfig::new(1, 2.0, vec!["c_attn".to_owned()])
    };
    let file = AdapterFile { config: config.clone(), tensors: factors.into_iter().chain(vectors).collect() };
    let (json, weights) = file.write();
    let key = |name: &str| format!("base_model.model.transformer.h.0.{name}");
    let with = |more: &[&str], less: &str| {
        let written = SafeTensors::deserialize(&weights).unwrap();
        let bias = written.tensor(&key("ln_2.bias")).unwrap();
        let kept = written.tensors().into_iter().filter(|(name, _)| !name.ends_with(less));
        let all = kept.chain(more.iter().map(|name| (key(name), bias.clone())));
        safetensors::serialize(all.collect::<Vec<_>>(), None).unwrap()
    };
    let keys = SafeTensors::deserialize(&weights).unwrap();
    assert!(keys.tensor(&key("attn.c_attn.base_layer.bias")).is_ok() && keys.tensor(&key("ln_1.bias")).is_ok());
    let seconds = ["ln_1.original_module.bias", "ln_1.modules_to_save.bias"];
    assert!(AdapterFile::parse(&json, &with(&seconds, "\0")).unwrap() == file);
    assert!(AdapterFile::parse(&json, &with(&["attn.c_attn.bias"], "base_layer.bias")).unwrap() == file);

    let lora_only = AdapterFile { config: LoraConfig { bias: Bias::LoraOnly, ..config }, ..file.clone() };
    let (lora_only, _) = lora_only.write();
    for (config, weights, named) in [
        (&json, with(&["attn.c_attn.bias"], "\0"), "attn.c_attn.bias"),
        (&json, with(&["ln_2.original_module.weight"], "\0"), "ln_2.original_module.weight"),
        (&json, with(&["mlp.original_module.bias"], "\0"), "mlp.original_module.bias"),
        (&json, with(&["ln_2.weight"], "\0"), "ln_2.weight"),
        (&lora_only, weights.clone(), "ln_2.bias"),
    ] {
        let error = AdapterFile::parse(config, &weights).unwrap_err().to_string();
        assert!(error.contains(&key(named)), "{named}: {error}");
    }
}

fn norms_too() -> LoraOptions {
    LoraOptions { modules_to_save: vec!["norm".into()], target_modules: None, ..Default::default() }
}

async fn trained(lora: LoraOptions) -> Engine {
    let mut engine = engine().await;
    engine.load_dataset("d.jsonl", DATA.as_bytes(), None).unwrap();
    engine.new_adapter(lora).await.unwrap();
    tiny::train(&mut engine, options(3)).await;
    engine
}

/// What an engine does with adapters: files, several of them on one base, answers token by token.
#[test]
fn adapters_with_norms_are_adapters() {
    pollster::block_on(async {
        let prompt = Prompt::Text("one two".into());
        let mut engine = trained(norms_too()).await;
        let info = engine.adapter_info().unwrap();
        assert_eq!((info.bias, &info.modules_to_save[..]), (Bias::None, &["norm".to_owned()][..]));
        let ours = engine.logits(&prompt, 1.0).await.unwrap();
        let base = engine.logits(&prompt, 0.0).await.unwrap();
        let answer = async |engine: &mut Engine| {
            let options = web_lora::generate::GenerateOptions { max_new_tokens: 12, ..Default::default() };
            engine.generate(&prompt, options, |_| true).await.unwrap().text
        };
        let text = answer(&mut engine).await;
        let (config, weights) = engine.save_adapter().await.unwrap();

        engine.add_adapter("norms", &AdapterSource::InUse).await.unwrap();
        engine.new_adapter(LoraOptions::default()).await.unwrap();
        assert!(engine.logits(&prompt, 1.0).await.unwrap() == base);
        assert_eq!(engine.use_adapter(Some("norms")).await.unwrap().unwrap().parameters, info.parameters);
        assert!(engine.logits(&prompt, 1.0).await.unwrap() == ours && answer(&mut engine).await == text);
        // Another with the same settings takes its place in memory.
        let source = AdapterSource::Files { config: config.clone(), weights: weights.clone() };
        engine.add_adapter("again", &source).await.unwrap();
        engine.use_adapter(Some("again")).await.unwrap();
        assert!(
            engine.logits(&prompt, 1.0).await.unwrap() == ours && engine.logits(&prompt, 0.0).await.unwrap() == base
        );
        assert!(engine.save_adapter().await.unwrap() == (config, weights));

        let refused = [
            engine.save_adapter_gguf().await.err(),
            engine.save_adapter_mlx().await.err(),
            engine.inspect_adapter(&AdapterSource::InUse).await.err(),
            engine.compress_adapter(&AdapterSource::InUse, CompressOptions { r: Some(2), keep: None }).await.err(),
            engine.combine_adapters(&[(AdapterSource::InUse, 1.0)], Default::default()).await.err(),
        ];
        for error in refused {
            let Some(Error::Unsupported { field, message, .. }) = error else { panic!("{error:?}") };
            assert!(field == "modules_to_save" && message.contains("merge the adapter into the model"), "{message}");
        }
    });
}

/// The reference of DPO is the base without all that the adapter has changed: the same as that of an adapter that has
/// changed nothing.
#[test]
fn the_reference_is_the_base() {
    pollster::block_on(async {
        let pairs = r#"{"prompt": "one two", "chosen": " three", "rejected": " four"}"#;
        let mut references = vec![];
        for is_trained in [true, false] {
            let mut engine = if is_trained { trained(norms_too()).await } else { engine().await };
            if !is_trained {
                engine.new_adapter(norms_too()).await.unwrap();
            }
            engine.load_dataset("pairs.jsonl", pairs.as_bytes(), None).unwrap();
            engine.start_training(TrainOptions { loss: Loss::Dpo, ..options(1) }, &mut |_| ()).await.unwrap();
            // A report may come a step late.
            let reports = [engine.train_step().await.unwrap(), engine.train_step().await.unwrap()];
            let report = reports.into_iter().find_map(|progress| progress.report).unwrap();
            // An adapter that has changed nothing is the base but for roundings.
            let margin = report.rewards.unwrap().margin;
            assert_eq!(margin.abs() > 1e-3, is_trained, "{margin}");
            let state = engine.save_state().await.unwrap();
            let (_, parts) = read_state::<Value>(&state).unwrap();
            references.push(parts["references"].to_vec());
        }
        assert!(references[0] == references[1] && references[0].iter().any(|&byte| byte != 0));
    });
}
