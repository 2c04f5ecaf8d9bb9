//! Several adapters on one base: switching between them reads no weight again and gives what each gives alone. And what
//! is told of answers and of adapters in use.
#![cfg(not(target_arch = "wasm32"))]

use std::cell::Cell;
use std::rc::Rc;

use pollster::block_on;
use web_lora::Error;
use web_lora::engine::{
    AdapterSource, Engine, EvaluateOn, EvaluateOptions, Generated, LoadOptions, LoraOptions, PlanOptions, Prompt,
};
use web_lora::generate::{GenerateOptions, Generator, Logprobs};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{
    AdapterFile, ByteSource, Checkpoint, FileSource, LocalBoxFuture, MemorySource, Message, ModuleNames,
};
use web_lora::lora::Adapter;
use web_lora::low_rank::{CombineHow, CombineOptions, CompressOptions};
use web_lora::model;
use web_lora::train::{Evaluation, TrainOptions};

/// A file that counts how much is read of it.
struct Counting {
    file: Rc<dyn ByteSource>,
    read_bytes: Rc<Cell<u64>>,
}

impl ByteSource for Counting {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, web_lora::Result<Vec<u8>>> {
        self.read_bytes.set(self.read_bytes.get() + size as u64);
        self.file.read(offset, size)
    }
}

fn tiny_model() -> Vec<Rc<dyn ByteSource>> {
    let files: [(&str, &[u8]); 4] = [
        ("config.json", include_bytes!("fixtures/golden/llama-gqa-tied/config.json")),
        ("model.safetensors", include_bytes!("fixtures/golden/llama-gqa-tied/model.safetensors")),
        ("tokenizer.json", include_bytes!("fixtures/tiny-chat/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("fixtures/tiny-chat/tokenizer_config.json")),
    ];
    files.map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes.to_vec())) as Rc<dyn ByteSource>).to_vec()
}

fn engine(files: &[Rc<dyn ByteSource>]) -> Engine {
    let mut engine = block_on(Engine::new(DeviceOptions { default_limits: true, ..Default::default() })).unwrap();
    block_on(engine.load_model(files, LoadOptions::default(), &mut |_| true)).unwrap();
    engine
}

/// Trains the adapter in use to say `answer`.
fn train(engine: &mut Engine, answer: &str, steps: usize) {
    let line = serde_json::json!({"messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}
    ]});
    engine.load_dataset("data.jsonl", line.to_string().as_bytes(), None).unwrap();
    let options = TrainOptions { steps: Some(steps), learning_rate: 1e-2, warmup_steps: Some(0), ..Default::default() };
    block_on(engine.start_training(options, &mut |_| ())).unwrap();
    while !block_on(engine.train_step()).unwrap().done {}
    engine.end_training();
}

fn answer(engine: &mut Engine, options: GenerateOptions) -> Generated {
    let prompt = Prompt::Messages(vec![Message::new("user", "hi")]);
    block_on(engine.generate(&prompt, options, |_| true)).unwrap()
}

/// Greedy and drawn, with probabilities: bits that tell one adapter from any other.
fn answers(engine: &mut Engine) -> Vec<Generated> {
    let options = GenerateOptions { max_new_tokens: 8, top_logprobs: Some(3), ..Default::default() };
    [0.0, 1.0].map(|temperature| answer(engine, GenerateOptions { temperature, seed: 7, ..options })).to_vec()
}

/// These, and the loss on examples of its own.
fn scored(engine: &mut Engine) -> (Vec<Generated>, Evaluation) {
    engine.load_dataset("data.jsonl", br#"{"text": "sea and ship"}"#, None).unwrap();
    let options = EvaluateOptions { data: EvaluateOn::Train, ..Default::default() };
    (answers(engine), block_on(engine.evaluate(options, &mut |_| true)).unwrap())
}

fn files((config, weights): (Vec<u8>, Vec<u8>)) -> AdapterSource {
    AdapterSource::Files { config, weights }
}

/// Three adapters trained on their own: two alike in all but what they say, one of another rank and other modules, with DoRA or
/// without.
fn trained(use_dora: bool) -> [(&'static str, AdapterSource); 3] {
    let other = LoraOptions {
        r: 3,
        lora_alpha: 5.0,
        use_dora,
        target_modules: Some(ModuleNames::Names(vec!["q_proj".into(), "up_proj".into()])),
        ..Default::default()
    };
    [("pirate", LoraOptions::default()), ("sailor", LoraOptions::default()), ("other", other)].map(|(name, options)| {
        let mut engine = engine(&tiny_model());
        block_on(engine.new_adapter(options)).unwrap();
        train(&mut engine, name, 12);
        (name, files(block_on(engine.save_adapter()).unwrap()))
    })
}

#[test]
fn adapters_answer_as_they_do_alone_and_the_base_stays_where_it_is() {
    let adapters = trained(true);
    let mut alone = vec![];
    for (name, source) in &adapters {
        let AdapterSource::Files { config, weights } = source else { unreachable!() };
        let mut engine = engine(&tiny_model());
        engine.load_adapter(config, weights).unwrap();
        alone.push((*name, scored(&mut engine)));
    }
    let base = scored(&mut engine(&tiny_model()));
    assert!(alone.iter().all(|(_, one)| *one != base) && alone[0].1 != alone[1].1, "they can be told apart");
    assert_eq!(alone[0].1.0[0].text, "pirate");

    let read_bytes = Rc::new(Cell::new(0));
    let counting = |file| Rc::new(Counting { file, read_bytes: read_bytes.clone() }) as Rc<dyn ByteSource>;
    let model: Vec<_> = tiny_model().into_iter().map(counting).collect();
    let mut engine = engine(&model);
    let (read, loaded, written) = (read_bytes.get(), engine.allocated_bytes(), engine.written_bytes());
    assert!(read > 0 && written > loaded / 2, "loading reads and writes the weights");
    for (name, source) in &adapters {
        block_on(engine.add_adapter(name, source)).unwrap();
    }
    assert_eq!(
        (engine.allocated_bytes(), engine.written_bytes()),
        (loaded, written),
        "adding takes nothing of the GPU"
    );
    let mut arena = 0;
    let order = ["pirate", "sailor", "other", "pirate", "", "sailor", "pirate", "other", ""];
    for (turn, name) in order.into_iter().enumerate() {
        let (before, counts, bytes) = (engine.written_bytes(), engine.counts(), engine.allocated_bytes());
        let name = Some(name).filter(|name| !name.is_empty());
        let info = block_on(engine.use_adapter(name)).unwrap();
        assert_eq!(info.is_some(), name.is_some());
        let written = engine.written_bytes() - before;
        if turn == 0 {
            arena = engine.allocated_bytes() - bytes;
        } else {
            assert!(written <= arena && arena < loaded / 2, "{written} bytes are no more than an adapter's {arena}");
        }
        // One with the settings of the one before it takes its place, and what was compiled is used again.
        let same =
            turn > 0 && matches!((order[turn - 1], name), ("pirate", Some("sailor")) | ("sailor", Some("pirate")));
        let expected = name.map_or(&base, |name| &alone.iter().find(|(other, _)| *other == name).unwrap().1);
        assert_eq!(&scored(&mut engine), expected, "{name:?}, turn {turn}");
        let after = engine.counts();
        assert_eq!(after.bind_groups == counts.bind_groups, same, "{name:?}, turn {turn}");
        assert!(!same || (after.pipelines, engine.allocated_bytes()) == (counts.pipelines, bytes));
    }
    assert_eq!(read_bytes.get(), read, "nothing of the model was read again");
}

#[test]
fn an_adapter_comes_back_as_it_was_left() {
    let [(_, pirate), (_, sailor), _] = trained(false);
    let mut engine = engine(&tiny_model());
    assert_eq!(names(&engine), []);
    block_on(engine.new_adapter(LoraOptions::default())).unwrap();
    train(&mut engine, "sea", 5);
    let own = (answers(&mut engine), block_on(engine.save_adapter()).unwrap());

    let info = block_on(engine.add_adapter("pirate", &pirate)).unwrap();
    assert_eq!((info.r, info.trained_steps), (8, 0));
    block_on(engine.add_adapter("copy", &AdapterSource::InUse)).unwrap();
    block_on(engine.add_adapter("twin", &AdapterSource::Named("pirate".into()))).unwrap();
    assert_eq!(
        names(&engine),
        [(None, true, 5), named("copy", false, 5), named("pirate", false, 0), named("twin", false, 0)]
    );
    // One that is trained on and left is kept as it was left.
    block_on(engine.use_adapter(Some("pirate"))).unwrap();
    train(&mut engine, "ship", 3);
    let trained = block_on(engine.save_adapter()).unwrap();
    block_on(engine.use_adapter(None)).unwrap();
    assert_eq!((answers(&mut engine), block_on(engine.save_adapter()).unwrap()), own);
    assert_eq!(names(&engine)[2], named("pirate", false, 3));
    block_on(engine.use_adapter(Some("pirate"))).unwrap();
    assert!(block_on(engine.save_adapter()).unwrap() == trained && files(trained) != pirate);
    block_on(engine.use_adapter(Some("twin"))).unwrap();
    assert_eq!(files(block_on(engine.save_adapter()).unwrap()), pirate);
    block_on(engine.use_adapter(Some("copy"))).unwrap();
    assert_eq!(block_on(engine.save_adapter()).unwrap(), own.1);

    // The one in use makes room for the one without a name.
    block_on(engine.remove_adapter("copy")).unwrap();
    block_on(engine.remove_adapter("pirate")).unwrap();
    assert_eq!(names(&engine), [(None, true, 5), named("twin", false, 0)]);
    assert_eq!(answers(&mut engine), own.0);

    let refused = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::BadSetting { name, .. }) => assert_eq!(name, expected),
        other => panic!("{expected}: {other:?}"),
    };
    refused(block_on(engine.add_adapter("twin", &sailor)).map(drop), "name");
    refused(block_on(engine.add_adapter("", &sailor)).map(drop), "name");
    refused(block_on(engine.use_adapter(Some("pirate"))).map(drop), "adapter");
    refused(block_on(engine.remove_adapter("pirate")), "adapter");
    refused(block_on(engine.inspect_adapter(&AdapterSource::Named("pirate".into()))).map(drop), "adapter");
    let (config, mut weights) = match sailor {
        AdapterSource::Files { config, weights } => (config, weights),
        _ => unreachable!(),
    };
    let file = AdapterFile::parse(&config, &weights).unwrap();
    let mut wide = file.clone();
    let a = wide.tensors.get_mut("model.layers.0.self_attn.q_proj.lora_A").unwrap();
    (a.cols, a.data) = (a.cols + 1, vec![0.0; a.rows * (a.cols + 1)]);
    weights = wide.write().1;
    let error = block_on(engine.add_adapter("wide", &AdapterSource::Files { config, weights })).unwrap_err();
    assert_eq!(error.code(), "adapter_mismatch");
    engine_without_a_model_says_so();
    // A model of its own has adapters of its own.
    block_on(engine.load_model(&tiny_model(), LoadOptions::default(), &mut |_| true)).unwrap();
    assert_eq!(names(&engine), []);
}

#[test]
fn another_engine_has_what_was_beside_the_adapter_in_use() {
    let [(_, pirate), _, _] = trained(true);
    let mut before = engine(&tiny_model());
    block_on(before.new_adapter(LoraOptions::default())).unwrap();
    train(&mut before, "sea", 5);
    let own = (answers(&mut before), block_on(before.save_adapter()).unwrap());
    for name in ["pirate", "twin"] {
        block_on(before.add_adapter(name, &pirate)).unwrap();
    }
    block_on(before.use_adapter(Some("twin"))).unwrap();

    let mut after = engine(&tiny_model());
    let (in_use, shelved) = before.shelf();
    after.restore_shelf(in_use.map(str::to_owned), shelved).unwrap();
    assert_eq!(names(&after), [(None, false, 5), named("pirate", false, 0)]);
    // What comes next goes by the name in use, and makes room as it would have.
    block_on(after.new_adapter(LoraOptions::default())).unwrap();
    train(&mut after, "ship", 2);
    assert_eq!(names(&after), [(None, false, 5), named("pirate", false, 0), named("twin", true, 2)]);
    block_on(after.use_adapter(None)).unwrap();
    assert_eq!((answers(&mut after), block_on(after.save_adapter()).unwrap()), own);
    block_on(after.use_adapter(Some("pirate"))).unwrap();
    assert_eq!(files(block_on(after.save_adapter()).unwrap()), pirate);
}

/// Of each adapter its name, whether it is in use, and for how many steps it was trained.
fn names(engine: &Engine) -> Vec<(Option<String>, bool, usize)> {
    let entries = engine.list_adapters();
    entries.into_iter().map(|entry| (entry.name, entry.in_use, entry.info.trained_steps)).collect()
}

fn named(name: &str, in_use: bool, steps: usize) -> (Option<String>, bool, usize) {
    (Some(name.to_owned()), in_use, steps)
}

fn engine_without_a_model_says_so() {
    let mut empty = block_on(Engine::new(DeviceOptions { default_limits: true, ..Default::default() })).unwrap();
    let code = |result: Result<(), Error>| result.unwrap_err().code();
    assert_eq!(code(block_on(empty.add_adapter("a", &AdapterSource::InUse)).map(drop)), "not_ready");
    assert_eq!(code(block_on(empty.use_adapter(None)).map(drop)), "not_ready");
    assert_eq!(code(block_on(empty.inspect_adapter(&AdapterSource::InUse)).map(drop)), "not_ready");
}

/// Largest difference of the probabilities that two answers tell of the same tokens, chosen or not.
fn difference(one: &[Generated], other: &[Generated]) -> f64 {
    let tokens = |answers: &[Generated]| {
        let answers = answers.iter().flat_map(|answer| answer.logprobs.clone().unwrap());
        let tokens = answers.flat_map(|token| [vec![token.token], token.top].concat());
        tokens.map(|token| (token.text, token.logprob)).collect::<Vec<_>>()
    };
    let (one, other) = (tokens(one), tokens(other));
    assert!(one.iter().map(|(text, _)| text).eq(other.iter().map(|(text, _)| text)), "{one:?}\n{other:?}");
    one.iter().zip(&other).map(|(one, other)| (one.1 - other.1).abs()).fold(0.0, f64::max)
}

#[test]
fn made_over_adapters_answer_as_they_should() {
    let [(_, pirate), (_, sailor), (_, other)] = trained(false);
    let mut engine = engine(&tiny_model());
    let AdapterSource::Files { config, weights } = &pirate else { unreachable!() };
    engine.load_adapter(config, weights).unwrap();
    let own = answers(&mut engine);
    let report = block_on(engine.inspect_adapter(&AdapterSource::InUse)).unwrap();
    let info = engine.adapter_info().unwrap();
    assert_eq!((report.parameters, report.base_parameters), (info.parameters, info.base_parameters));
    assert_eq!(report, block_on(engine.inspect_adapter(&pirate)).unwrap());

    block_on(engine.add_adapter("sailor", &sailor)).unwrap();
    block_on(engine.add_adapter("other", &other)).unwrap();
    let named = |name: &str| AdapterSource::Named(name.into());
    let svd = CombineOptions { how: CombineHow::Svd, r: Some(8) };
    let made = [
        // All ranks kept, or nothing of the others: what there was, with other factors.
        block_on(engine.compress_adapter(&AdapterSource::InUse, CompressOptions { r: Some(8), keep: None })),
        block_on(engine.compress_adapter(&AdapterSource::InUse, CompressOptions { r: None, keep: Some(0.999_999_9) })),
        block_on(engine.combine_adapters(&[(named("other"), 0.0), (AdapterSource::InUse, 1.0)], Default::default())),
        block_on(engine.combine_adapters(&[(named("sailor"), 0.0), (pirate.clone(), 1.0)], svd)),
    ];
    for (index, made) in made.into_iter().enumerate() {
        let made = made.unwrap();
        block_on(engine.add_adapter("made", &files(made.file.write()))).unwrap();
        block_on(engine.use_adapter(Some("made"))).unwrap();
        let worst = difference(&answers(&mut engine), &own);
        println!("{index}: probabilities are off by {worst:.1e}");
        // Other factors of the same ΔW, rounded to f32 anew.
        assert!(worst < 1e-4, "{index}: {worst:e}");
        block_on(engine.remove_adapter("made")).unwrap();
        assert_eq!(answers(&mut engine), own, "{index}: the one it was made of is as it was");
    }
    // Rank 1 of all is something else.
    let made = block_on(engine.compress_adapter(&pirate, CompressOptions { r: Some(1), keep: None })).unwrap();
    assert!(made.relative_error > 0.01 && made.parameters * 8 == info.parameters);
    let (config, weights) = made.file.write();
    assert_eq!(engine.load_adapter(&config, &weights).unwrap().parameters, made.parameters);
    assert_ne!(answers(&mut engine), own);
}

#[test]
fn the_cost_is_known_before() {
    let mut engine = engine(&tiny_model());
    let model = block_on(engine.load_model(&tiny_model(), LoadOptions::default(), &mut |_| true)).unwrap();
    let targets = Some(ModuleNames::Names(vec!["v_proj".into(), "down_proj".into()]));
    let options = PlanOptions { r: Some(5), target_modules: targets.clone(), ..Default::default() };
    let forecast = block_on(engine.plan_memory(&tiny_model(), options)).unwrap();
    let info =
        block_on(engine.new_adapter(LoraOptions { r: 5, target_modules: targets, ..Default::default() })).unwrap();
    let cost = &forecast.cost;
    assert_eq!((cost.parameters, cost.base_parameters), (info.parameters as u64, info.base_parameters as u64));
    assert_eq!((cost.modules.len(), cost.model_parameters), (6, model.parameters));
    let report = block_on(engine.inspect_adapter(&AdapterSource::InUse)).unwrap();
    for module in &report.modules {
        let cost = cost.modules.iter().find(|cost| cost.name == module.name).unwrap();
        assert_eq!((cost.shape, cost.r), (module.shape, module.r));
    }
    // The plan has pads as well.
    assert_eq!(cost.bytes, forecast.memory.weights + 16 * cost.parameters);
    assert!(forecast.memory.adapter + forecast.memory.optimizer >= 16 * cost.parameters);
    assert_eq!(cost.full_bytes, 16 * model.parameters);
}

/// The small model with a trained adapter, for what the engine has no words for.
fn generator(alpha: f32, strength: f32) -> (Generator, GenerateOptions) {
    let gpu = Rc::new(block_on(Gpu::request(DeviceOptions { default_limits: true, ..Default::default() })).unwrap());
    let checkpoint = block_on(Checkpoint::open(&tiny_model())).unwrap();
    let model = block_on(model::load(&gpu, &checkpoint, 512, &mut |_, _| true)).unwrap();
    let read = |name: &str| std::fs::read(format!("tests/fixtures/adapters/llama-gqa-tied/{name}")).unwrap();
    let mut file = AdapterFile::parse(&read("adapter_config.json"), &read("adapter_model.safetensors")).unwrap();
    file.config.lora_alpha *= alpha;
    let adapter = Adapter::from_file(&gpu, &file, &model.modules()).unwrap();
    let generator = block_on(Generator::new(gpu, &model, Some(&adapter), 256)).unwrap();
    (generator, GenerateOptions { strength, ..Default::default() })
}

#[test]
fn probabilities_are_those_of_the_logits() {
    let (generator, options) = generator(1.0, 1.0);
    let prompt = [25, 25, 105, 77, 25, 231, 53];
    let chosen_by = [(0.0, 1.0, 0), (1.0, 1.0, 20), (2.0, 0.5, 5)];
    for (temperature, top_p, top) in chosen_by {
        let options = GenerateOptions { temperature, top_p, seed: 5, max_new_tokens: 10, ..options };
        let (plain, _) = block_on(generator.generate(&prompt, options, &[], |_| true)).unwrap();
        let mut told = vec![];
        let asked = GenerateOptions { top_logprobs: Some(top), ..options };
        let on_token = |id, logprobs: Option<Logprobs>| {
            told.push((id, logprobs.expect("they were asked for")));
            true
        };
        let (ids, _) = block_on(generator.generate_with_logprobs(&prompt, asked, &[], on_token)).unwrap();
        assert_eq!(ids, plain, "asking changes no token");
        assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        for (n, (id, ours)) in told.iter().enumerate() {
            let logits = block_on(generator.prompt(&[&prompt[..], &ids[..n]].concat(), options.strength)).unwrap();
            let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
            let expected = |id: u32| (exps[id as usize] / exps.iter().sum::<f64>()).ln();
            // The prompt's kernels and those of one token sum in other orders.
            let close = |id: u32, ours: f64| (ours - expected(id)).abs() < 1e-4;
            assert!(close(*id, ours.logprob), "token {n}: {ours:?}, expected {}", expected(*id));
            assert!(ours.top.len() == top && ours.top.iter().all(|&(id, logprob)| close(id, logprob)));
            assert!(ours.top.is_sorted_by(|one, next| one.1 >= next.1));
            let last = ours.top.last().map_or(f64::INFINITY, |(_, logprob)| *logprob);
            let told: Vec<u32> = ours.top.iter().map(|(id, _)| *id).collect();
            assert!((0..logits.len() as u32).all(|id| told.contains(&id) || expected(id) <= last + 1e-4));
            assert!(temperature > 0.0 || ours.top.first().is_none_or(|(first, _)| first == id));
        }
    }
    let many = GenerateOptions { top_logprobs: Some(21), ..options };
    let error = block_on(generator.generate(&prompt, many, &[], |_| true)).unwrap_err();
    assert!(matches!(error, Error::BadSetting { name, .. } if name == "topLogprobs"));
}

#[test]
fn strength_2_is_twice_the_adapter() {
    let prompt = [25, 25, 105, 77, 25, 231, 53];
    let logits = |alpha, strength| {
        let (generator, options) = generator(alpha, strength);
        options.validate().unwrap();
        block_on(generator.prompt(&prompt, options.strength)).unwrap()
    };
    let twice = logits(1.0, 2.0);
    assert_eq!(twice, logits(2.0, 1.0));
    assert_ne!(twice, logits(1.0, 1.0));
}

#[test]
fn alternatives_read_as_text() {
    let mut engine = engine(&tiny_model());
    train(&mut engine, "a pirate", 20);
    for top in [None, Some(0), Some(5)] {
        let options = GenerateOptions { max_new_tokens: 8, top_logprobs: top, ..Default::default() };
        let answer = answer(&mut engine, options);
        assert_eq!(answer.logprobs.is_some(), top.is_some());
        let Some(logprobs) = answer.logprobs else { continue };
        assert_eq!((answer.text.as_str(), logprobs.len()), ("a pirate", answer.tokens));
        let text: String = logprobs.iter().map(|token| token.token.text.as_str()).collect();
        assert_eq!(text, answer.text);
        for token in &logprobs {
            assert_eq!(token.top.len(), top.unwrap());
            assert!(token.top.first().is_none_or(|first| *first == token.token), "{token:?}");
            assert!(token.token.logprob <= 0.0 && token.token.logprob > -1.0, "it has learned this: {token:?}");
        }
    }
}

/// The same with SmolLM2, and how long a switch takes.
#[test]
#[ignore = "needs the real model: make test runs it"]
fn smollm2_switches_without_its_weights() {
    let path = std::env::var("SMOLLM2_GGUF").expect("SMOLLM2_GGUF must name SmolLM2-135M-Instruct.Q4_1.gguf");
    let model: Vec<Rc<dyn ByteSource>> = vec![Rc::new(FileSource::open(path).unwrap())];
    let mut engine = engine(&model);
    let loaded = engine.written_bytes();
    for (seed, r) in [(1, 8), (2, 8), (3, 16)] {
        block_on(engine.new_adapter(LoraOptions { seed, r, ..Default::default() })).unwrap();
        block_on(engine.add_adapter(&format!("{seed} of rank {r}"), &AdapterSource::InUse)).unwrap();
    }
    let options = GenerateOptions { max_new_tokens: 1, ..Default::default() };
    for name in ["1 of rank 8", "2 of rank 8", "1 of rank 8", "3 of rank 16", "1 of rank 8"] {
        let (before, start) = (engine.written_bytes(), std::time::Instant::now());
        block_on(engine.use_adapter(Some(name))).unwrap();
        let (switched, written) = (start.elapsed(), engine.written_bytes() - before);
        assert!(written < loaded / 2, "{written} of {loaded} bytes");
        answer(&mut engine, options);
        println!(
            "{name}: {:.1} ms and {written} bytes to switch, {:.1} ms with its first token",
            switched.as_secs_f64() * 1e3,
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    let start = std::time::Instant::now();
    answer(&mut engine, options);
    println!("the next first token: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
}
