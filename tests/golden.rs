//! Small models of odd sizes against transformers and peft in float64: logits, gradients, twenty optimiser steps, the
//! trained adapter, the merged weight, greedy tokens.
//!
//! `GOLDEN_DIR` is a folder of cases as `tests/fixtures/make_golden.py` writes them (default: the two under
//! `tests/fixtures/golden`), `GOLDEN_CASES` names some of them, separated by commas (default: all). With `GOLDEN_OUT`,
//! each case's trained adapter and its logits are written to a folder there, which `tests/fixtures/check_peft.py`
//! loads with peft.
#![cfg(not(target_arch = "wasm32"))]

pub(crate) mod logits;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use self::logits::logits;
use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::generate::{GenerateOptions, Generator};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{AdapterFile, ByteSource, Checkpoint, FileSource, LoraConfig, Matrix as HostMatrix};
use web_lora::lora::{Adapter, merged};
use web_lora::model;
use web_lora::train::{Pass, Recorded, Schedule, TrainOptions, Trainer};

/// Largest `‖ours - reference‖ / ‖reference‖` of any tensor, by what is compared. PyTorch in float32 is within 1e-6,
/// 2.5e-6, 5e-7, 2.5e-6 and 8e-6 of the first five: room for another order of summation, none for a wrong formula.
const TOLERANCES: [(&str, f64); 6] =
    [("logits", 1e-5), ("grads", 3e-5), ("loss", 5e-6), ("grad_norm", 3e-5), ("final", 1e-4), ("merged", 1e-6)];

#[test]
fn golden() {
    let dir =
        std::env::var_os("GOLDEN_DIR").map_or_else(|| Path::new("tests/fixtures/golden").to_owned(), PathBuf::from);
    let mut cases: Vec<String> = match std::env::var("GOLDEN_CASES") {
        Ok(names) => names.split(',').map(str::to_owned).collect(),
        Err(_) => std::fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("GOLDEN_DIR {}: {error}", dir.display()))
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect(),
    };
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", dir.display());
    let mut failed = vec![];
    for name in &cases {
        let mut worst = Worst::default();
        let outcome = [false, true].into_iter().try_for_each(|default_limits| {
            pollster::block_on(run(&dir.join(name), default_limits, &mut worst)).map_err(|error| error.to_string())
        });
        let outcome = outcome.and_then(|()| worst.verdict());
        println!(
            "{name}: {} {}",
            worst.line(),
            outcome.as_ref().map_or_else(|why| format!("FAILED: {why}"), |()| "ok".into())
        );
        if outcome.is_err() {
            failed.push(name.as_str());
        }
    }
    assert!(failed.is_empty(), "{} of {} cases failed: {}", failed.len(), cases.len(), failed.join(", "));
}

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// The worst error of each kind.
#[derive(Default)]
struct Worst(BTreeMap<&'static str, f64>);

impl Worst {
    fn add(&mut self, kind: &'static str, ours: &[f32], reference: &[f64]) {
        assert_eq!(ours.len(), reference.len(), "{kind}");
        let difference: f64 = ours.iter().zip(reference).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
        let norm: f64 = reference.iter().map(|b| b * b).sum();
        let error = (difference / norm).sqrt();
        let entry = self.0.entry(kind).or_insert(0.0);
        *entry = entry.max(if error.is_nan() { f64::INFINITY } else { error });
    }

    fn line(&self) -> String {
        self.0.iter().map(|(kind, error)| format!("{kind} {error:.1e}")).collect::<Vec<_>>().join(", ")
    }

    fn verdict(&self) -> Result<(), String> {
        for (kind, tolerance) in TOLERANCES {
            match self.0.get(kind) {
                None => return Err(format!("{kind} was not compared")),
                Some(error) if *error > tolerance => {
                    return Err(format!("{kind} is off by {error:.2e}, allowed is {tolerance:.0e}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// One case's reference.
struct Golden {
    json: Value,
    file: Vec<u8>,
}

impl Golden {
    fn open(dir: &Path) -> Anyhow<Self> {
        let json = serde_json::from_slice(&std::fs::read(dir.join("golden.json"))?)?;
        Ok(Self { json, file: std::fs::read(dir.join("golden.safetensors"))? })
    }

    fn f64s(&self, name: &str) -> Anyhow<Vec<f64>> {
        let tensors = SafeTensors::deserialize(&self.file)?;
        Ok(tensors.tensor(name)?.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect())
    }

    fn i64s(&self, name: &str) -> Anyhow<Vec<i64>> {
        let tensors = SafeTensors::deserialize(&self.file)?;
        Ok(tensors.tensor(name)?.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect())
    }

    fn shape(&self, name: &str) -> Anyhow<Vec<usize>> {
        Ok(SafeTensors::deserialize(&self.file)?.tensor(name)?.shape().to_vec())
    }

    /// Names under `prefix`, without it.
    fn names(&self, prefix: &str) -> Anyhow<Vec<String>> {
        let tensors = SafeTensors::deserialize(&self.file)?;
        Ok(tensors.names().into_iter().filter_map(|name| Some(name.strip_prefix(prefix)?.to_owned())).collect())
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.json[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.json[name].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    fn lora_config(&self) -> LoraConfig {
        let lora = &self.json["lora"];
        let targets = lora["target_modules"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned());
        let r = lora["r"].as_u64().unwrap() as usize;
        let pairs = |name: &str| lora[name].as_object().into_iter().flatten();
        let number = |value: &Value| value.as_f64().unwrap();
        LoraConfig {
            use_rslora: lora["use_rslora"].as_bool().unwrap(),
            use_dora: lora["use_dora"].as_bool().unwrap_or(false),
            rank_pattern: pairs("rank_pattern").map(|(name, r)| (name.clone(), number(r) as usize)).collect(),
            alpha_pattern: pairs("alpha_pattern").map(|(name, alpha)| (name.clone(), number(alpha) as f32)).collect(),
            layers_to_transform: lora["layers_to_transform"]
                .as_array()
                .map(|layers| layers.iter().map(|layer| number(layer) as usize).collect()),
            ..LoraConfig::new(r, number(&lora["alpha"]) as f32, targets.collect())
        }
    }

    /// The adapter before training.
    fn init(&self) -> Anyhow<AdapterFile> {
        let mut tensors = BTreeMap::new();
        for name in self.names("init.")? {
            let key = format!("init.{name}");
            let shape = self.shape(&key)?;
            let data = self.f64s(&key)?.into_iter().map(|v| v as f32).collect();
            // Magnitudes are a vector.
            let cols = shape.get(1).copied().unwrap_or(1);
            tensors.insert(name, HostMatrix { rows: shape[0], cols, data });
        }
        Ok(AdapterFile { config: self.lora_config(), tensors })
    }

    /// Micro-batch `g` as one pass: its rows end to end, padding left out.
    fn pass(&self, g: usize) -> Anyhow<Pass> {
        let shape = self.shape("input_ids")?;
        let (batch, seq) = (shape[1], shape[2]);
        let (ids, labels, mask) = (self.i64s("input_ids")?, self.i64s("labels")?, self.i64s("attention_mask")?);
        let mut pass = Pass::default();
        for b in 0..batch {
            let row = (g * batch + b) * seq..(g * batch + b + 1) * seq;
            let n = mask[row.clone()].iter().filter(|&&m| m == 1).count();
            let ids: Vec<u32> = ids[row.clone()][..n].iter().map(|&id| id as u32).collect();
            let supervised: Vec<bool> = labels[row][..n].iter().map(|&label| label != -100).collect();
            pass.push(&ids, &supervised);
        }
        Ok(pass)
    }
}

async fn run(dir: &Path, default_limits: bool, worst: &mut Worst) -> Anyhow<()> {
    let golden = Golden::open(dir)?;
    let gpu = Rc::new(Gpu::request(DeviceOptions { default_limits, ..Default::default() }).await?);
    let files = ["config.json", "model.safetensors"]
        .map(|name| Ok(Rc::new(FileSource::open(dir.join(name))?) as Rc<dyn ByteSource>))
        .into_iter()
        .collect::<Anyhow<Vec<_>>>()?;
    let checkpoint = Checkpoint::open(&files).await?;
    let model = model::load(&gpu, &checkpoint, 512, &mut |_, _| true).await?;
    let adapter = Adapter::from_file(&gpu, &golden.init()?, &model.modules())?;

    let n_micro = golden.shape("input_ids")?[0];
    let passes: Vec<Pass> = (0..n_micro).map(|g| golden.pass(g)).collect::<Anyhow<_>>()?;
    worst.add("logits", &logits(&gpu, &model, Some(&adapter), &passes[0]).await?, &expected_logits(&golden)?);

    let max_tokens = passes.iter().map(|pass| pass.tokens.len()).max().unwrap();
    let before = gpu.allocated_bytes();
    let mut trainer =
        Trainer::new(gpu.clone(), &model, &adapter, max_tokens, 0, Recorded::default(), &mut |_, _| ()).await?;
    let (loss, grads) = trainer.gradients(&passes[..1]).await?;
    worst.add("loss", &[loss], &[golden.json["loss"].as_f64().unwrap()]);
    for (name, grad) in adapter.unpack(&grads) {
        worst.add("grads", &grad.data, &golden.f64s(&format!("grad.{name}"))?);
    }

    {
        // Computing activations again instead of keeping them changes no bit.
        let (n, mut quiet) = (model.n_recomputable(), |_, _| ());
        let again = Trainer::new(gpu.clone(), &model, &adapter, max_tokens, n, Recorded::default(), &mut quiet).await?;
        if again.activation_bytes() >= trainer.activation_bytes() {
            return Err("recomputing keeps no less".into());
        }
        if again.gradients(&passes[..1]).await? != (loss, grads) {
            return Err("gradients differ where activations are recomputed".into());
        }
    }

    let (options, total) = train_options(&golden);
    for (step, (loss, grad_norm)) in golden.numbers("curve").into_iter().zip(golden.numbers("grad_norm")).enumerate() {
        trainer.step(&passes, options.optim_step(step, total));
        let metrics = trainer.metrics(step).await?;
        worst.add("loss", &[metrics.loss], &[loss]);
        worst.add("grad_norm", &[metrics.grad_norm], &[grad_norm]);
    }
    let (loss, _) = trainer.gradients(&passes).await?;
    worst.add("loss", &[loss], &golden.numbers("curve")[total..]);

    drop(trainer);
    if gpu.allocated_bytes() != before {
        return Err(format!("training kept {} bytes of GPU memory", gpu.allocated_bytes() - before).into());
    }

    let trained = adapter.to_file(&gpu).await?;
    for (name, factor) in &trained.tensors {
        worst.add("final", &factor.data, &golden.f64s(&format!("final.{name}"))?);
    }
    for module in golden.names("merged.")? {
        let weight = checkpoint.read_f32(&format!("{module}.weight")).await?;
        let [a, b] = ["lora_A", "lora_B"].map(|factor| &trained.tensors[&format!("{module}.{factor}")]);
        let magnitude = trained.tensors.get(&format!("{module}.lora_magnitude_vector"));
        let (_, scaling) = trained.config.of_module(&module)?.ok_or("a module that is not adapted")?;
        let mut ours = merged(&weight, a, b, magnitude, scaling);
        let name = format!("merged.{module}");
        if model.config().model_type == "gpt2" {
            // transformers' Conv1D keeps [in, out].
            let (rows, cols) = (b.rows, a.cols);
            ours = (0..rows * cols).map(|at| ours[at % rows * cols + at / rows]).collect();
        }
        worst.add("merged", &ours, &golden.f64s(&name)?);
    }

    let prompt = golden.ids("prompt");
    for (name, adapter, strength) in
        [("greedy", Some(&adapter), 1.0), ("greedy_base", Some(&adapter), 0.0), ("greedy_base", None, 1.0)]
    {
        let generator = Generator::new(gpu.clone(), &model, adapter, 256).await?;
        let expected = golden.ids(name);
        let options = GenerateOptions { max_new_tokens: expected.len(), strength, ..Default::default() };
        let (ours, _) = generator.generate(&prompt, options, &[], |_| true).await?;
        if ours != expected {
            return Err(format!("{name} (strength {strength}): {ours:?} for {expected:?}").into());
        }
    }

    let (config, weights) = trained.write();
    if let Some(out) = std::env::var_os("GOLDEN_OUT") {
        let out = Path::new(&out).join(dir.file_name().unwrap_or_default());
        std::fs::create_dir_all(&out)?;
        let logits = logits(&gpu, &model, Some(&adapter), &passes[0]).await?;
        std::fs::write(out.join("adapter_config.json"), &config)?;
        std::fs::write(out.join("adapter_model.safetensors"), &weights)?;
        std::fs::write(out.join("logits.f32"), bytemuck::cast_slice(&logits))?;
    }
    let back = AdapterFile::parse(&config, &weights)?;
    if back != trained {
        return Err("the saved adapter does not read back equal".into());
    }
    Ok(())
}

fn train_options(golden: &Golden) -> (TrainOptions, usize) {
    let train = &golden.json["train"];
    let number = |name: &str| train[name].as_f64().unwrap();
    let options = TrainOptions {
        learning_rate: number("lr"),
        warmup_steps: Some(number("warmup_steps") as usize),
        schedule: match train["schedule"].as_str().unwrap() {
            "cosine" => Schedule::Cosine,
            "linear" => Schedule::Linear,
            "constant" => Schedule::Constant,
            other => panic!("unknown schedule {other}"),
        },
        weight_decay: number("weight_decay"),
        beta1: train["betas"][0].as_f64().unwrap(),
        beta2: train["betas"][1].as_f64().unwrap(),
        eps: number("eps"),
        max_grad_norm: number("max_grad_norm"),
        ..Default::default()
    };
    (options, number("steps") as usize)
}

/// The reference's logits of micro-batch 0, rows that are padding left out.
fn expected_logits(golden: &Golden) -> Anyhow<Vec<f64>> {
    let vocab_size = *golden.shape("logits")?.last().unwrap();
    let (logits, mask) = (golden.f64s("logits")?, golden.i64s("attention_mask")?);
    let rows = logits.chunks(vocab_size).zip(mask).filter(|(_, mask)| *mask == 1);
    Ok(rows.flat_map(|(row, _)| row).copied().collect())
}
