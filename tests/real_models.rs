//! Real models, natively and in a browser: next-token logits, greedy tokens and training steps against transformers and
//! peft on the same GGUF files. `SMOLLM2_GGUF`, `SMOLLM2_FOLDER` and `GEMMA3_GGUF` are their paths natively;
//! `make test-model` and `make test-more-models` fetch and make them and run this. Natively, with `ADAPTER_OUT` the trained
//! adapter and the logits it gives are written to a folder there, and the model with it merged in F32 to its folder
//! `merged`, for the scripts of `tests/fixtures/exports/`.

use std::collections::BTreeMap;
use std::rc::Rc;

#[cfg(not(target_arch = "wasm32"))]
use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::generate::{GenerateOptions, Generator};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{AdapterFile, ByteSource, Checkpoint, LoraConfig, Matrix};
use web_lora::lora::{Adapter, ModuleShape};
use web_lora::model::{self, Decoder};
use web_lora::train::{Pass, Recorded, Schedule, TrainOptions, Trainer};

macro_rules! say {
    ($($words:tt)*) => {
        #[cfg(not(target_arch = "wasm32"))]
        println!($($words)*);
        #[cfg(target_arch = "wasm32")]
        wasm_bindgen_test::console_log!($($words)*);
    };
}

/// Largest error of a logit of some 10 or a loss of some 4. Both sides are float32, over many layers in another order of
/// summation.
const TOLERANCE: f64 = 2e-3;

/// What a model should answer and how it should train.
struct Golden {
    json: Value,
    /// Numbers of the pass's examples: (ids, whether supervised).
    examples: Vec<(Vec<u32>, Vec<bool>)>,
    /// A of the `index`-th module before training; B is zero.
    initial_a: fn(usize, &ModuleShape, usize) -> Vec<f32>,
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::io::Write;
    use std::path::Path;

    use super::*;
    use web_lora::engine::{Engine, LoadOptions, LoraOptions, PlanOptions};
    use web_lora::io::FileSource;
    use web_lora::merge::{MergeDType, MergeOptions, merge};

    fn variable(name: &str) -> String {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} must be set; the Makefile's targets do"))
    }

    /// Writes what the scripts read.
    pub(super) async fn write(files: &[Rc<dyn ByteSource>], adapter: &AdapterFile, golden: &Golden, logits: &[f32]) {
        let Some(out) = std::env::var_os("ADAPTER_OUT") else { return };
        let checkpoint = Checkpoint::open(files).await.unwrap();
        let out = Path::new(&out).join(checkpoint.name());
        let ids = &golden.json["next_token"]["prompt_ids"];
        // Whose tokens these are, where the reference says so.
        let messages = golden.json["chat"].as_array().map(|chats| [&chats[0]["messages"][0]]);
        let prompt = messages.map(|messages| serde_json::json!({ "messages": messages, "ids": ids }));
        for folder in [out.clone(), out.join("merged")] {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("ids.json"), ids.to_string()).unwrap();
            prompt.iter().for_each(|prompt| std::fs::write(folder.join("prompt.json"), prompt.to_string()).unwrap());
            std::fs::write(folder.join("logits.f32"), bytemuck::cast_slice(logits)).unwrap();
        }
        let (config, weights) = adapter.write();
        std::fs::write(out.join("adapter_config.json"), config).unwrap();
        std::fs::write(out.join("adapter_model.safetensors"), weights).unwrap();
        let number = |name: &str| checkpoint.config()[name].as_u64().unwrap() as usize;
        let heads = [number("num_attention_heads"), number("num_key_value_heads")];
        let model_type = checkpoint.config()["model_type"].as_str().unwrap().to_owned();
        std::fs::write(out.join("adapter.gguf"), adapter.write_gguf(&model_type, heads).unwrap()).unwrap();
        let options = MergeOptions { dtype: Some(MergeDType::F32), ..Default::default() };
        for file in merge(checkpoint, files, adapter, &options).unwrap().files {
            let mut written = std::fs::File::create(out.join("merged").join(&file.name)).unwrap();
            for start in (0..file.source.size_bytes()).step_by(4 << 20) {
                let size = (file.source.size_bytes() - start).min(4 << 20) as usize;
                written.write_all(&file.source.read(start, size).await.unwrap()).unwrap();
            }
        }
    }

    fn open(path: &str) -> Rc<dyn ByteSource> {
        Rc::new(FileSource::open(path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    #[test]
    #[ignore = "needs the real model: make test-model runs it"]
    fn smollm2_answers_and_trains_as_transformers_and_peft_do() {
        pollster::block_on(run(&[open(&variable("SMOLLM2_GGUF"))], &smollm2()));
    }

    #[test]
    #[ignore = "needs the real model as a folder: make test-more-models runs it"]
    fn smollm2_from_a_folder_is_the_same() {
        let folder = variable("SMOLLM2_FOLDER");
        let files = ["config.json", "model.safetensors"].map(|name| open(&format!("{folder}/{name}")));
        pollster::block_on(run(&files, &smollm2()));
    }

    #[test]
    #[ignore = "needs a second real model: make test-more-models runs it"]
    fn gemma3_answers_and_trains_as_transformers_and_peft_do() {
        pollster::block_on(run(&[open(&variable("GEMMA3_GGUF"))], &gemma3()));
    }

    #[test]
    #[ignore = "needs the real model: make test-model runs it"]
    fn smollm2_needs_the_memory_that_was_planned() {
        pollster::block_on(async {
            let files = [open(&variable("SMOLLM2_GGUF"))];
            let mut engine = Engine::new(DeviceOptions::default()).await.unwrap();
            let wanted = PlanOptions { tokens_per_pass: Some(128), ..Default::default() };
            let planned = engine.plan_memory(&files, wanted).await.unwrap().memory;
            assert_eq!(engine.allocated_bytes(), 0);

            engine.load_model(&files, LoadOptions::default(), &mut |_| true).await.unwrap();
            engine.new_adapter(LoraOptions::default()).await.unwrap();
            engine.load_dataset("one.jsonl", br#"{"text": "sea and ship"}"#, None).unwrap();
            let options = TrainOptions { tokens_per_pass: Some(128), ..Default::default() };
            let plan = engine.start_training(options, &mut |_| ()).await.unwrap();
            println!("planned {planned:?}, allocated {}", engine.allocated_bytes());
            assert_eq!((plan.memory, engine.allocated_bytes()), (planned, planned.total));
        });
    }
}

#[cfg(target_arch = "wasm32")]
mod browser {
    use super::*;
    use wasm_bindgen_futures::JsFuture;
    use wasm_bindgen_test::wasm_bindgen_test;
    use web_lora::io::MemorySource;

    /// A file of the crate's folder, which the test runner serves.
    async fn fetch(path: &str) -> Rc<dyn ByteSource> {
        let code = format!("return fetch('/{path}').then((r) => r.ok ? r.arrayBuffer() : Promise.reject(r.status))");
        let promise = js_sys::Function::new_no_args(&code).call0(&js_sys::Object::new()).unwrap();
        let buffer = JsFuture::from(js_sys::Promise::from(promise)).await.unwrap_or_else(|e| panic!("{path}: {e:?}"));
        let bytes = js_sys::Uint8Array::new(&buffer).to_vec();
        Rc::new(MemorySource::new(path, bytes))
    }

    #[wasm_bindgen_test]
    #[ignore = "needs a second real model: make test-more-models runs it"]
    async fn gemma3_answers_and_trains_as_transformers_and_peft_do() {
        run(&[fetch(".cache/models/gemma-3-270m-Q4_K_M.gguf").await], &gemma3()).await;
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[cfg(not(target_arch = "wasm32"))]
fn smollm2() -> Golden {
    let json: Value = serde_json::from_slice(include_bytes!("fixtures/smollm2/smollm2.json")).unwrap();
    let supervised = |chat: &Value| ids(&chat["assistant_mask"]).iter().map(|&mask| mask == 1).collect();
    let examples = json["chat"].as_array().unwrap().iter().map(|chat| (ids(&chat["ids"]), supervised(chat))).collect();
    let initial_a = |_: usize, module: &ModuleShape, _: usize| {
        let file = SafeTensors::deserialize(include_bytes!("fixtures/smollm2/smollm2.safetensors")).unwrap();
        let a = file.tensor(&format!("init.{}.lora_A", module.name)).unwrap().data();
        a.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    Golden { examples, initial_a, json }
}

fn gemma3() -> Golden {
    let json: Value = serde_json::from_slice(include_bytes!("fixtures/gemma3/gemma3.json")).unwrap();
    let example = |example: &Value| {
        let (ids, prompt) = (ids(&example["ids"]), example["prompt_tokens"].as_u64().unwrap() as usize);
        let supervised = (0..ids.len()).map(|at| at >= prompt).collect();
        (ids, supervised)
    };
    let examples = json["train"]["examples"].as_array().unwrap().iter().map(example).collect();
    // The script's own formula.
    let initial_a = |index: usize, module: &ModuleShape, r: usize| {
        let width = module.in_features;
        let grain = |at: usize| {
            let (i, j) = (at / width, at % width);
            ((7919 * i + 104_729 * j + 15_485_863 * index) % 10_007) as f64 / 10_007.0 - 0.5
        };
        (0..r * width).map(|at| (2.0 / (width as f64).sqrt() * grain(at)) as f32).collect()
    };
    Golden { examples, initial_a, json }
}

async fn run(files: &[Rc<dyn ByteSource>], golden: &Golden) {
    let gpu = Rc::new(Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap());
    let checkpoint = Checkpoint::open(files).await.unwrap();
    let model = model::load(&gpu, &checkpoint, 512, &mut |_, _| true).await.unwrap();
    let answer = &golden.json["next_token"];

    let greedy = async |adapter: Option<&Adapter>, expected: &Value| {
        let generator = Generator::new(gpu.clone(), &model, adapter, 256).await.unwrap();
        let prompt = ids(&answer["prompt_ids"]);
        let expected = ids(expected);
        let options = GenerateOptions { max_new_tokens: expected.len(), ..Default::default() };
        let (ours, _) = generator.generate(&prompt, options, &[], |_| true).await.unwrap();
        say!("greedy: {ours:?}");
        assert_eq!(ours, expected);
        generator.prompt(&prompt, 1.0).await.unwrap()
    };

    let logits = greedy(None, &answer["greedy"]).await;
    let top = answer["top"].as_array().unwrap();
    let off = |pair: &Value| (f64::from(logits[pair[0].as_u64().unwrap() as usize]) - pair[1].as_f64().unwrap()).abs();
    let largest = top.iter().map(off).fold(0.0, f64::max);
    say!("largest error of the {} largest logits: {largest:.1e}", top.len());
    assert!(largest < TOLERANCE);

    let train = &golden.json["train"];
    let adapter = Adapter::from_file(&gpu, &initial_adapter(golden, &model), &model.modules()).unwrap();
    let mut pass = Pass::default();
    golden.examples.iter().for_each(|(ids, supervised)| pass.push(ids, supervised));
    let passes = [pass];
    let n_tokens = passes[0].tokens.len();
    let mut trainer =
        Trainer::new(gpu.clone(), &model, &adapter, n_tokens, 0, Recorded::default(), &mut |_, _| ()).await.unwrap();
    let options = TrainOptions {
        learning_rate: train["lr"].as_f64().unwrap(),
        warmup_steps: Some(0),
        schedule: Schedule::Constant,
        weight_decay: 0.0,
        max_grad_norm: train["max_grad_norm"].as_f64().unwrap(),
        ..Default::default()
    };
    let curve = numbers(&train["curve"]);
    let steps = curve.len() - 1;
    let mut ours = vec![];
    for (step, expected) in curve[..steps].iter().enumerate() {
        trainer.step(&passes, options.optim_step(step, steps));
        let metrics = trainer.metrics(step).await.unwrap();
        say!("step {step}: loss {} for {expected}, gradient norm {}", metrics.loss, metrics.grad_norm);
        ours.push(metrics.loss);
    }
    ours.push(trainer.gradients(&passes).await.unwrap().0);
    let off = ours.iter().zip(&curve).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
    say!("losses: {ours:?}, largest error {off:.1e}");
    assert!(off < TOLERANCE, "{ours:?} for {curve:?}");
    drop(trainer);

    let logits = greedy(Some(&adapter), &train["greedy"]).await;
    #[cfg(not(target_arch = "wasm32"))]
    native::write(files, &adapter.to_file(&gpu).await.unwrap(), golden, &logits).await;
    #[cfg(target_arch = "wasm32")]
    drop(logits);
}

fn initial_adapter(golden: &Golden, model: &Decoder) -> AdapterFile {
    let train = &golden.json["train"];
    let r = train["r"].as_u64().unwrap() as usize;
    let mut tensors = BTreeMap::new();
    for (index, module) in model.modules().iter().flat_map(|group| &group.modules).enumerate() {
        let ModuleShape { name, in_features, out_features } = module;
        let a = Matrix { rows: r, cols: *in_features, data: (golden.initial_a)(index, module, r) };
        let b = Matrix { rows: *out_features, cols: r, data: vec![0.0; out_features * r] };
        tensors.extend([(format!("{name}.lora_A"), a), (format!("{name}.lora_B"), b)]);
    }
    let targets = train["target_modules"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    AdapterFile { config: LoraConfig::new(r, train["alpha"].as_f64().unwrap() as f32, targets), tensors }
}
