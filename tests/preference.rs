//! DPO and ORPO against transformers, peft and TRL's formulas in float64 (`tests/fixtures/preference/make_preference.py`):
//! tokens of the pairs, gradients of the first step, losses and rewards of twenty; and against TRL's own trainers on pairs
//! that are held out (`make_held_out.py`).
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::data::{DataFile, Dataset, Pair};
use web_lora::engine::{DataOptions, EvaluateOn, EvaluateOptions};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{AdapterFile, ByteSource, Checkpoint, FileSource, LoraConfig, Matrix};
use web_lora::lora::Adapter;
use web_lora::model;
use web_lora::train::{Loss, Pass, References, TrainOptions, Trainer, pair_passes};

/// Largest `‖ours - reference‖ / ‖reference‖` of a gradient: as for the golden cases.
const GRADS: f64 = 3e-5;
/// Largest distance of a loss or reward over twenty steps. PyTorch in float32 is some 1e-6 off.
const CURVE: f64 = 2e-5;

fn fixture(path: &str) -> PathBuf {
    Path::new("tests/fixtures").join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(path)).unwrap()).unwrap()
}

fn checkpoint() -> Checkpoint {
    let files = ["config.json", "model.safetensors"].map(|name| format!("golden/llama-gqa-tied/{name}"));
    let tokenizer = ["tokenizer.json", "tokenizer_config.json"].map(|name| format!("tiny-chat/{name}"));
    let open = |path: &String| Rc::new(FileSource::open(fixture(path)).unwrap()) as Rc<dyn ByteSource>;
    let files: Vec<Rc<dyn ByteSource>> = files.iter().chain(&tokenizer).map(open).collect();
    pollster::block_on(Checkpoint::open(&files)).unwrap()
}

fn pairs() -> Vec<Pair> {
    let bytes = std::fs::read(fixture("preference/pairs.jsonl")).unwrap();
    let checkpoint = checkpoint();
    Dataset::new("pairs.jsonl", &bytes, &checkpoint.tokenizer().unwrap(), None, 512).unwrap().pairs
}

/// The golden case's adapter before training.
fn init() -> AdapterFile {
    let golden = json("golden/llama-gqa-tied/golden.json");
    let lora = &golden["lora"];
    let targets = lora["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    let (r, alpha) = (lora["r"].as_u64().unwrap() as usize, lora["alpha"].as_f64().unwrap() as f32);
    let file = std::fs::read(fixture("golden/llama-gqa-tied/golden.safetensors")).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in SafeTensors::deserialize(&file).unwrap().tensors() {
        let Some(name) = name.strip_prefix("init.") else { continue };
        let data = tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32).collect();
        let (rows, cols) = (tensor.shape()[0], tensor.shape()[1]);
        tensors.insert(name.to_owned(), Matrix { rows, cols, data });
    }
    AdapterFile { config: LoraConfig::new(r, alpha, targets.collect()), tensors }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn pairs_have_the_tokens_that_trl_gives_them() {
    let expected = json("preference/preference.json");
    let expected = expected["pairs"].as_array().unwrap();
    let pairs = pairs();
    assert_eq!(pairs.len(), expected.len());
    for (pair, expected) in pairs.iter().zip(expected) {
        let ids = |name: &str| numbers(&expected[name]).iter().map(|&id| id as u32).collect::<Vec<u32>>();
        let prompt = ids("prompt");
        for (example, answer) in [(&pair.chosen, ids("chosen")), (&pair.rejected, ids("rejected"))] {
            assert_eq!(example.ids, [&prompt[..], &answer].concat());
            let learned: Vec<bool> = (0..example.ids.len()).map(|at| at >= prompt.len()).collect();
            assert_eq!(example.supervised, learned);
        }
    }
}

/// All formats give TRL's tokens, and learning begins where TRL's does; in a conversation it ends with the token that
/// ends the turn, where TRL goes on to what the template writes after it.
#[test]
fn every_format_of_trl_is_read_as_trl_reads_it() {
    let expected = json("preference/preference.json");
    let checkpoint = checkpoint();
    let (tokenizer, template) = (checkpoint.tokenizer().unwrap(), checkpoint.chat_template().unwrap());
    for expected in expected["formats"].as_array().unwrap() {
        let ids = |name: &str| numbers(&expected[name]).iter().map(|&id| id as u32).collect::<Vec<u32>>();
        let row = expected["row"].to_string();
        let dataset = Dataset::new("row.jsonl", row.as_bytes(), &tokenizer, template.as_ref(), 512).unwrap();
        let conversation = expected["row"]["chosen"].is_array();
        let prompt = ids("prompt");
        for (example, answer) in
            [(&dataset.pairs[0].chosen, ids("chosen")), (&dataset.pairs[0].rejected, ids("rejected"))]
        {
            assert_eq!(example.ids, [&prompt[..], &answer].concat(), "{row}");
            let end = example.ids.len() - usize::from(conversation);
            // There is nothing to predict the first token from.
            let learned: Vec<bool> =
                (0..example.ids.len()).map(|at| (prompt.len().max(1)..end).contains(&at)).collect();
            assert_eq!(example.supervised, learned, "{row}");
        }
    }
}

#[test]
fn dpo_is_trls() {
    for default_limits in [false, true] {
        pollster::block_on(run(Loss::Dpo, default_limits));
    }
}

#[test]
fn orpo_is_trls() {
    for default_limits in [false, true] {
        pollster::block_on(run(Loss::Orpo, default_limits));
    }
}

async fn run(loss: Loss, default_limits: bool) {
    let expected = json("preference/preference.json");
    let (train, curves) = (&expected["train"], &expected[loss.to_string()]);
    let number = |name: &str| train[name].as_f64().unwrap();
    let options = TrainOptions {
        learning_rate: number("lr"),
        warmup_steps: Some(number("warmup_steps") as usize),
        weight_decay: number("weight_decay"),
        max_grad_norm: number("max_grad_norm"),
        beta: curves["beta"].as_f64().unwrap(),
        loss,
        ..Default::default()
    };
    assert_eq!((numbers(&train["betas"]), number("eps")), (vec![options.beta1, options.beta2], options.eps));

    let gpu = Rc::new(Gpu::request(DeviceOptions { default_limits, ..Default::default() }).await.unwrap());
    let model = model::load(&gpu, &checkpoint(), 512, &mut |_, _| true).await.unwrap();
    let adapter = Adapter::from_file(&gpu, &init(), &model.modules()).unwrap();
    let pairs = pairs();
    let tokens: Vec<usize> = pairs.iter().map(Pair::tokens).collect();
    // In one pass, and in two.
    let (all, longest) = (tokens.iter().sum::<usize>(), *tokens.iter().max().unwrap());
    let kind = loss.preference().unwrap();
    let mut references = References::new(gpu.clone(), &model, pairs.len(), all).await.unwrap();
    for (max_tokens, n_passes) in [(all, 1), (all.div_ceil(2).max(longest) + 20, 2)] {
        let mut passes = pair_passes(&[4, 2, 0, 1, 3], &pairs, kind, max_tokens);
        assert_eq!(passes.len(), n_passes);
        if loss == Loss::Dpo {
            references.fill(&mut passes).await.unwrap();
        }
        let trainer = async |recompute| {
            let (gpu, recorded) = (gpu.clone(), options.recorded());
            Trainer::new(gpu, &model, &adapter, max_tokens, recompute, recorded, &mut |_, _| ()).await
        };
        let worst = grads_and_bits(&trainer(0).await.unwrap(), &adapter, &passes, &loss.to_string()).await;
        let again = trainer(model.n_recomputable()).await.unwrap().gradients(&passes).await.unwrap();
        assert!(again == trainer(0).await.unwrap().gradients(&passes).await.unwrap(), "recomputing changes bits");
        if n_passes == 2 {
            let off = curve(trainer(0).await.unwrap(), &passes, &options, curves).await;
            println!("{loss}: grads {worst:.1e}, over twenty steps {off:?}");
        }
    }
}

/// The worst relative error of a gradient.
async fn grads_and_bits(trainer: &Trainer, adapter: &Adapter, passes: &[Pass], kind: &str) -> f64 {
    let file = std::fs::read(fixture("preference/preference.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let (_, grads) = trainer.gradients(passes).await.unwrap();
    let grads = adapter.unpack(&grads);
    assert_eq!(expected.names().iter().filter(|name| name.starts_with(&format!("{kind}."))).count(), grads.len());
    let mut worst = 0.0f64;
    for (name, grad) in grads {
        let tensor = expected.tensor(&format!("{kind}.{name}")).unwrap();
        let reference = tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        let (mut off, mut norm) = (0.0, 0.0);
        for (ours, reference) in grad.data.iter().zip(reference) {
            off += (f64::from(*ours) - reference).powi(2);
            norm += reference * reference;
        }
        let error = (off / norm).sqrt();
        assert!(error < GRADS, "{kind}, {name}: off by {error:.1e}");
        worst = worst.max(error);
    }
    worst
}

/// Twenty steps; the largest distance from the reference of each number.
async fn curve(
    mut trainer: Trainer,
    passes: &[Pass],
    options: &TrainOptions,
    expected: &Value,
) -> BTreeMap<&'static str, f64> {
    let total = expected["loss"].as_array().unwrap().len();
    let mut worst = BTreeMap::new();
    for step in 0..total {
        trainer.step(passes, options.optim_step(step, total));
        let metrics = trainer.metrics(step).await.unwrap();
        let rewards = metrics.rewards.unwrap();
        assert!(!metrics.skipped);
        for (name, ours) in [
            ("loss", metrics.loss),
            ("grad_norm", metrics.grad_norm),
            ("chosen", rewards.chosen),
            ("rejected", rewards.rejected),
            ("accuracy", rewards.accuracy),
            ("log_odds_ratio", rewards.log_odds_ratio),
        ] {
            let expected = match (name, options.loss) {
                ("log_odds_ratio", Loss::Dpo) => -expected["loss"][step].as_f64().unwrap(),
                _ => expected[name][step].as_f64().unwrap(),
            };
            let off = (f64::from(ours) - expected).abs();
            let limit = if name == "grad_norm" { GRADS * expected } else { CURVE };
            assert!(off < limit, "{}, step {step}: {name} is {ours} for {expected}", options.loss);
            let entry = worst.entry(name).or_insert(0.0);
            *entry = off.max(*entry);
        }
    }
    worst
}

/// TRL's `eval_loss` and `eval_rewards/…` in the course of a run.
#[test]
fn pairs_that_are_held_out_are_scored_as_trl_scores_them() {
    pollster::block_on(async {
        for loss in [Loss::Dpo, Loss::Orpo] {
            held_out(loss).await;
        }
    });
}

async fn held_out(loss: Loss) {
    let (expected, train) = (&json("preference/held_out.json")[loss.to_string()], json("preference/preference.json"));
    let number = |name: &str| train["train"][name].as_f64().unwrap();
    let options = TrainOptions {
        steps: Some(number("steps") as usize),
        batch_size: 5,
        learning_rate: number("lr"),
        warmup_steps: Some(number("warmup_steps") as usize),
        weight_decay: number("weight_decay"),
        beta: train[loss.to_string()]["beta"].as_f64().unwrap(),
        eval_steps: Some(4),
        eval_on_start: true,
        loss,
        ..Default::default()
    };
    let beta = options.beta;
    let mut engine = crate::tiny::engine().await;
    let [pairs, held_out] = ["pairs", "held_out"].map(|name| {
        let name = format!("{name}.jsonl");
        let bytes = std::fs::read(fixture(&format!("preference/{name}"))).unwrap();
        (name, bytes)
    });
    let [pairs, held_out] = [&pairs, &held_out].map(|(name, bytes)| [DataFile { name, bytes, format: None }]);
    let report = engine.load_data(&pairs, &held_out, &DataOptions::default()).unwrap();
    assert_eq!((report.preference_pairs, report.eval_examples), (5, 3));
    let (config, weights) = init().write();
    engine.load_adapter(&config, &weights).unwrap();
    engine.start_training(options, &mut |_| ()).await.unwrap();
    let mut evaluations = vec![];
    loop {
        let progress = engine.train_step().await.unwrap();
        evaluations.extend(progress.evaluation);
        if progress.done {
            break;
        }
    }
    let steps: Vec<f64> = evaluations.iter().map(|evaluation| evaluation.step as f64).collect();
    assert_eq!(steps, numbers(&expected["steps"]));
    let mut worst = 0.0f64;
    for (at, evaluation) in evaluations.iter().enumerate() {
        let rewards = evaluation.scores.rewards.unwrap();
        for (name, ours) in [
            ("loss", Some(evaluation.scores.loss as f32)),
            ("accuracy", Some(rewards.accuracy)),
            ("chosen", Some(rewards.chosen)),
            ("rejected", Some(rewards.rejected)),
            ("margin", Some(rewards.margin)),
            ("nll_loss", rewards.nll_loss),
            ("log_odds_ratio", rewards.log_odds_ratio),
        ] {
            assert_eq!(ours.is_some(), expected[name].is_array(), "{loss}: {name}");
            let Some(ours) = ours else { continue };
            let off = (f64::from(ours) - expected[name][at].as_f64().unwrap()).abs();
            assert!(off < CURVE, "{loss}, evaluation {at}: {name} is {ours} for {}", expected[name][at]);
            worst = worst.max(off);
        }
    }
    println!("{loss}: off by {worst:.1e}");

    // Evaluated afterwards, as the run's last, and without a run; the base model prefers nothing more than itself.
    let last = evaluations.last().unwrap().scores;
    let score = EvaluateOptions { loss: Some(loss), beta: Some(beta), ..Default::default() };
    assert_eq!(engine.evaluate(EvaluateOptions::default(), &mut |_| true).await.unwrap(), last);
    engine.end_training();
    assert_eq!(engine.evaluate(score, &mut |_| true).await.unwrap(), last);
    if loss == Loss::Dpo {
        let base = EvaluateOptions { strength: 0.0, data: EvaluateOn::Train, ..score };
        let base = engine.evaluate(base, &mut |_| true).await.unwrap();
        assert!((base.loss - std::f64::consts::LN_2).abs() < 1e-7 && base.rewards.unwrap().margin == 0.0, "{base:?}");
    }
}
