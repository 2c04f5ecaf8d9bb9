//! The default model, natively: next-token logits, greedy text and eight training steps against transformers and peft
//! on the same GGUF file. `SMOLLM2_GGUF` is its path; `make test` fetches it and runs this.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::rc::Rc;

use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::engine::{Engine, LoadOptions, LoraOptions, PlanOptions};
use web_lora::generate::{GenerateOptions, Generator, Stopped};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{AdapterFile, ByteSource, Checkpoint, FileSource, LoraConfig, Matrix};
use web_lora::lora::{Adapter, ModuleShape};
use web_lora::model;
use web_lora::train::{Pass, Schedule, TrainOptions, Trainer};

/// On logits of some 10 and on losses of some 4: both sides are float32, over 30 layers in another order of summation.
const TOLERANCE: f64 = 2e-3;

#[test]
#[ignore = "needs the real model: make test runs it"]
fn smollm2_answers_and_trains_as_transformers_and_peft_do() {
    pollster::block_on(run());
}

#[test]
#[ignore = "needs the real model: make test runs it"]
fn smollm2_needs_the_memory_that_was_planned() {
    pollster::block_on(async {
        let path = std::env::var("SMOLLM2_GGUF").expect("SMOLLM2_GGUF is the path of SmolLM2-135M-Instruct.Q4_1.gguf");
        let files = [Rc::new(FileSource::open(path).unwrap()) as Rc<dyn ByteSource>];
        let mut engine = Engine::new(DeviceOptions::default()).await.unwrap();
        let wanted = PlanOptions { tokens_per_pass: Some(128), ..Default::default() };
        let planned = engine.plan_memory(&files, wanted).await.unwrap();
        assert_eq!(engine.allocated_bytes(), 0);

        engine.load_model(&files, LoadOptions::default(), &mut |_| true).await.unwrap();
        engine.new_adapter(LoraOptions::default()).unwrap();
        engine.load_dataset("one.jsonl", br#"{"text": "sea and ship"}"#, None).unwrap();
        let options = TrainOptions { tokens_per_pass: Some(128), ..Default::default() };
        let plan = engine.start_training(options, &mut |_| ()).await.unwrap();
        println!("planned {planned:?}, allocated {}", engine.allocated_bytes());
        assert_eq!((plan.memory, engine.allocated_bytes()), (planned, planned.total));
    });
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

async fn run() {
    let path = std::env::var("SMOLLM2_GGUF").expect("SMOLLM2_GGUF is the path of SmolLM2-135M-Instruct.Q4_1.gguf");
    let golden: Value = serde_json::from_slice(include_bytes!("fixtures/smollm2/smollm2.json")).unwrap();
    let gpu = Rc::new(Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap());
    let source: Rc<dyn ByteSource> = Rc::new(FileSource::open(path).unwrap());
    let checkpoint = Checkpoint::open(&[source]).await.unwrap();
    let model = model::load(&gpu, &checkpoint, 512, &mut |_, _| true).await.unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();

    // Greedy answers end with the end-of-turn token, which ours stop at.
    let greedy = async |adapter: Option<&Adapter>, expected: &Value| {
        let generator = Generator::new(gpu.clone(), &*model, adapter, 256).await.unwrap();
        let prompt = ids(&golden["next_token"]["prompt_ids"]);
        let expected = ids(expected);
        let options = GenerateOptions { max_new_tokens: expected.len(), ..Default::default() };
        let (mut ours, stopped) =
            generator.generate(&prompt, options, tokenizer.end_of_turn(), |_| true).await.unwrap();
        if stopped == Stopped::End {
            ours.push(tokenizer.eos().unwrap());
        }
        println!("greedy: {:?}", tokenizer.decode(&ours, false).unwrap());
        assert_eq!(ours, expected);
        generator.prompt(&prompt, 1.0).await.unwrap()
    };

    let logits = greedy(None, &golden["next_token"]["greedy"]).await;
    let top = golden["next_token"]["top"].as_array().unwrap();
    let off = top
        .iter()
        .map(|pair| (f64::from(logits[pair[0].as_u64().unwrap() as usize]) - pair[1].as_f64().unwrap()).abs());
    let off = off.fold(0.0, f64::max);
    println!("largest error of the {} largest logits: {off:.1e}", top.len());
    assert!(off < TOLERANCE);

    let train = &golden["train"];
    let adapter = Adapter::from_file(
        &gpu,
        &initial_adapter(train, &model.modules().into_iter().flat_map(|group| group.modules).collect::<Vec<_>>()),
        &model.modules(),
    )
    .unwrap();
    let mut pass = Pass::default();
    for chat in golden["chat"].as_array().unwrap() {
        let supervised: Vec<bool> = ids(&chat["assistant_mask"]).iter().map(|&mask| mask == 1).collect();
        pass.push(&ids(&chat["ids"]), &supervised);
    }
    let passes = [pass];
    let mut trainer =
        Trainer::new(gpu.clone(), &*model, &adapter, passes[0].tokens.len(), 0, &mut |_, _| ()).await.unwrap();
    let options = TrainOptions {
        learning_rate: train["lr"].as_f64().unwrap(),
        warmup_steps: Some(0),
        schedule: Schedule::Constant,
        weight_decay: 0.0,
        max_grad_norm: train["max_grad_norm"].as_f64().unwrap(),
        ..Default::default()
    };
    let curve: Vec<f64> = train["curve"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    let steps = curve.len() - 1;
    let mut ours = vec![];
    for step in 0..steps {
        trainer.step(&passes, options.optim_step(step, steps));
        let metrics = trainer.metrics(step).await.unwrap();
        let norm = train["grad_norm"][step].as_f64().unwrap();
        println!(
            "step {step}: loss {} for {}, gradient norm {} for {norm}",
            metrics.loss, curve[step], metrics.grad_norm
        );
        ours.push(metrics.loss);
    }
    ours.push(trainer.gradients(&passes).await.unwrap().0);
    let off = ours.iter().zip(&curve).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
    println!("losses: {ours:?}, largest error {off:.1e}");
    assert!(off < TOLERANCE, "{ours:?} for {curve:?}");
    drop(trainer);

    greedy(Some(&adapter), &train["greedy"]).await;
}

/// The fixture's A; B is zero.
fn initial_adapter(train: &Value, modules: &[ModuleShape]) -> AdapterFile {
    let r = train["r"].as_u64().unwrap() as usize;
    let bytes = include_bytes!("fixtures/smollm2/smollm2.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut tensors = BTreeMap::new();
    for ModuleShape { name, in_features, out_features } in modules {
        let a = file.tensor(&format!("init.{name}.lora_A")).unwrap().data();
        let data = a.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        tensors.insert(format!("{name}.lora_A"), Matrix { rows: r, cols: *in_features, data });
        tensors.insert(
            format!("{name}.lora_B"),
            Matrix { rows: *out_features, cols: r, data: vec![0.0; out_features * r] },
        );
    }
    let config = LoraConfig {
        r,
        lora_alpha: train["alpha"].as_f64().unwrap() as f32,
        use_rslora: false,
        target_modules: train["target_modules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_str().unwrap().to_owned())
            .collect(),
        base_model_name_or_path: None,
    };
    AdapterFile { config, tensors }
}
