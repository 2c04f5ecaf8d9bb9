//! The engine as users drive it, on a tiny chat model: load, examples, training, answers, adapter out and in. The same
//! tests run natively and, as wasm, in a browser.

use crate::tiny::{DATA, all_options, engine, engine_with, options, tiny_model, train};
use web_lora::Error;
use web_lora::engine::{Engine, LoadOptions, LoraOptions, PlanOptions, Prompt};
use web_lora::generate::GenerateOptions;
use web_lora::gpu::{Counts, DeviceOptions};
use web_lora::io::{AdapterFile, Message, ModuleNames};
use web_lora::train::{Optim, TrainOptions};

async fn answer(engine: &mut Engine, strength: f32, temperature: f32) -> String {
    let prompt = Prompt::Messages(vec![Message::new("user", "hi")]);
    let options = GenerateOptions { max_new_tokens: 12, strength, temperature, seed: 3, ..Default::default() };
    engine.generate(&prompt, options, |_| true).await.unwrap().text
}

engine_test!(a_run_learns_its_examples_and_comes_back_from_its_files, async {
    let mut engine = engine().await;
    let report = engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    assert_eq!((report.examples, report.errors.len()), (4, 0));
    engine.new_adapter(LoraOptions::default()).await.unwrap();
    let base = answer(&mut engine, 0.0, 0.0).await;
    assert_eq!(answer(&mut engine, 1.0, 0.0).await, base, "B is zero before training");
    let losses = train(&mut engine, options(40)).await;
    assert_eq!(losses.len(), 40);
    assert!(losses[38] + losses[39] < 0.5 * (losses[0] + losses[1]), "{losses:?}");
    let tuned = answer(&mut engine, 1.0, 0.0).await;
    assert_eq!(tuned, "arr");
    assert_eq!(answer(&mut engine, 0.0, 0.0).await, base, "at strength 0 the model is the base");
    assert_eq!(answer(&mut engine, 1.0, 1.0).await, answer(&mut engine, 1.0, 1.0).await, "one seed, one sample");

    let (config, weights) = engine.save_adapter().await.unwrap();
    engine.new_adapter(LoraOptions::default()).await.unwrap();
    engine.load_adapter(&config, &weights).unwrap();
    assert_eq!(answer(&mut engine, 1.0, 0.0).await, tuned);
    assert_eq!(engine.save_adapter().await.unwrap().1, weights, "what is read back is what was written");
    // A loaded adapter can be trained on.
    let losses = train(&mut engine, options(2)).await;
    assert!(losses.iter().all(|loss| *loss < 1.0), "{losses:?}");
});

engine_test!(a_token_creates_nothing, async {
    let mut engine = engine().await;
    // The first answer makes what all others use.
    generate(&mut engine, 1).await;
    for n_tokens in [1, 9] {
        let before = engine.counts();
        let generated = generate(&mut engine, n_tokens).await as u64;
        let after = engine.counts();
        // An answer has two buffers of its own, which its tokens come back through in turn.
        let created = Counts { buffers: after.buffers - 2, maps: before.maps, submits: before.submits, ..after };
        assert_eq!(created, before, "{generated} tokens");
        // The host reads one token while the GPU computes the next.
        assert!(after.maps - before.maps <= generated + 2, "{generated} tokens: {after:?}");
    }
});

async fn generate(engine: &mut Engine, max_new_tokens: usize) -> usize {
    let options = GenerateOptions { max_new_tokens, ..Default::default() };
    engine.generate(&Prompt::Text("hi".into()), options, |_| true).await.unwrap().tokens
}

engine_test!(one_seed_gives_the_same_bytes, async {
    let mut files = vec![];
    for seed in [5, 5, 6] {
        let mut engine = engine().await;
        engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
        engine.new_adapter(LoraOptions { seed, r: 3, use_rslora: true, ..Default::default() }).await.unwrap();
        train(&mut engine, TrainOptions { seed, ..options(6) }).await;
        files.push(engine.save_adapter().await.unwrap());
    }
    assert!(files[0] == files[1] && files[0].1 != files[2].1);
});

many_engines_test!(a_profile_finds_every_kernel_and_changes_nothing, async {
    // With the GPU's clock, where it has one, and without; all options off and on.
    for (default_limits, options) in [(false, options(4)), (true, options(4)), (true, all_options(4))] {
        let mut weights = vec![];
        for profiled in [false, true] {
            let mut engine = engine_with(DeviceOptions { default_limits, ..Default::default() }).await;
            engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
            let plan = engine.start_training(options.clone(), &mut |_| ()).await.unwrap();
            engine.train_step().await.unwrap();
            if profiled {
                let profile = engine.profile().await.unwrap();
                assert!(profile.timestamps == engine.device().timestamps && !(default_limits && profile.timestamps));
                let kernels: usize =
                    profile.ops.iter().filter(|op| !["clear", "copy"].contains(&op.kernel)).map(|op| op.count).sum();
                assert!(
                    kernels > plan.dispatches / 2 && kernels <= plan.dispatches,
                    "{kernels} of {}",
                    plan.dispatches
                );
                let shares: f64 = profile.ops.iter().map(|op| op.share).sum();
                assert!(profile.seconds > 0.0 && (shares - 1.0).abs() < 1e-9, "{profile}");
                for phase in ["forward", "backward", "update"] {
                    assert!(profile.ops.iter().any(|op| op.phase == phase), "{phase}: {profile}");
                }
            }
            while !engine.train_step().await.unwrap().done {}
            weights.push(engine.save_adapter().await.unwrap().1);
        }
        assert!(weights[0] == weights[1]);
    }
});

engine_test!(batches_accumulated_are_one_large_batch, async {
    let mut engine = engine().await;
    engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    let mut runs = vec![];
    for (batch_size, gradient_accumulation_steps) in [(4, 1), (2, 2), (1, 4)] {
        engine.new_adapter(LoraOptions::default()).await.unwrap();
        let batches = TrainOptions { batch_size, gradient_accumulation_steps, ..options(5) };
        let losses = train(&mut engine, TrainOptions { tokens_per_pass: Some(64), ..batches }).await;
        runs.push((losses, engine.save_adapter().await.unwrap().1));
    }
    assert!(runs[0] == runs[1] && runs[0] == runs[2]);
});

engine_test!(a_batch_is_the_mean_over_its_tokens_however_it_is_packed, async {
    let mut engine = engine().await;
    let longest = engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap().longest;
    let mut finals = vec![];
    for tokens_per_pass in [None, Some(longest)] {
        engine.new_adapter(LoraOptions::default()).await.unwrap();
        let losses = train(&mut engine, TrainOptions { batch_size: 4, tokens_per_pass, ..options(5) }).await;
        finals.push(losses);
    }
    for (one, several) in finals[0].iter().zip(&finals[1]) {
        // The same sums in another order.
        assert!((one - several).abs() < 1e-5 * one, "{finals:?}");
    }
});

fn targets(names: &[&str]) -> Option<ModuleNames> {
    Some(ModuleNames::Names(names.iter().map(|name| name.to_string()).collect()))
}

many_engines_test!(the_memory_planned_is_what_is_allocated, async {
    let mut engine = Engine::new(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
    // The first forecast measures how fast the GPU is.
    let forecast = engine.plan_memory(&tiny_model(), PlanOptions::default()).await.unwrap();
    assert!(forecast.tokens_per_second > 0.0 && forecast.tokens_per_second.is_finite());
    let (plain, all) = (options(1), all_options(1));
    let loraplus = TrainOptions { optim: Optim::AdamW, ..all.clone() };
    let evaluated = TrainOptions { eval_steps: Some(1), ..plain.clone() };
    let usual = LoraOptions::default;
    let ranks = serde_json::Map::from_iter([("layers.0".to_owned(), 16.into())]);
    for (lora, tokens, run) in [
        (usual(), 67, &plain),
        (usual(), 67, &all),
        (LoraOptions { r: 3, target_modules: targets(&["down_proj"]), ..usual() }, 512, &plain),
        (LoraOptions { r: 3, target_modules: targets(&["down_proj"]), use_rslora: true, ..usual() }, 512, &loraplus),
        (LoraOptions { r: 64, target_modules: targets(&["q_proj"]), ..usual() }, 100, &plain),
        (LoraOptions { use_dora: true, lora_dropout: 0.1, rank_pattern: ranks, ..usual() }, 67, &plain),
        (LoraOptions { lora_dropout: 0.1, layers_to_transform: Some(vec![1]), ..usual() }, 67, &evaluated),
    ] {
        let before = (engine.allocated_bytes(), engine.counts());
        let wanted = PlanOptions {
            r: Some(lora.r),
            target_modules: lora.target_modules.clone(),
            layers_to_transform: lora.layers_to_transform.clone(),
            rank_pattern: lora.rank_pattern.clone(),
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            lora_dropout: lora.lora_dropout,
            eval_steps: run.eval_steps,
            tokens_per_pass: Some(tokens),
            optim: Some(run.optim),
            loraplus_lr_ratio: Some(run.loraplus_lr_ratio),
            label_smoothing_factor: Some(run.label_smoothing_factor),
            neftune_noise_alpha: Some(run.neftune_noise_alpha),
            ..Default::default()
        };
        let planned = engine.plan_memory(&tiny_model(), wanted).await.unwrap().memory;
        assert_eq!((engine.allocated_bytes(), engine.counts()), before, "planning takes nothing of the GPU");

        engine.load_model(&tiny_model(), LoadOptions::default(), &mut |_| true).await.unwrap();
        engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
        engine.hold_out(0.25, 0).unwrap();
        engine.new_adapter(lora).await.unwrap();
        let options = TrainOptions { tokens_per_pass: Some(tokens), ..run.clone() };
        let plan = engine.start_training(options, &mut |_| ()).await.unwrap();
        assert_eq!((plan.memory, engine.allocated_bytes()), (planned, planned.total));
        let parts = [planned.weights, planned.adapter, planned.optimizer, planned.activations, planned.workspace];
        assert!(parts.iter().all(|bytes| *bytes > 0) && parts.iter().sum::<u64>() == planned.total, "{planned:?}");
    }
});

engine_test!(a_steady_step_makes_nothing_and_submits_once_a_pass, async {
    let mut engine = engine().await;
    let longest = engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap().longest;
    let several = Some(longest);
    for (run, tokens_per_pass) in [(options(60), None), (options(60), several), (all_options(60), several)] {
        let options = TrainOptions { batch_size: 4, tokens_per_pass, ..run };
        let passes = engine.start_training(options, &mut |_| ()).await.unwrap().passes;
        assert_eq!(passes > 1, tokens_per_pass.is_some());
        for _ in 0..2 {
            engine.train_step().await.unwrap();
        }
        let (before, bytes) = (engine.counts(), engine.allocated_bytes());
        for _ in 2..60 {
            engine.train_step().await.unwrap();
        }
        let steps = |each: usize| 58 * each as u64;
        let expected = Counts { maps: before.maps + steps(1), submits: before.submits + steps(passes), ..before };
        assert_eq!((engine.counts(), engine.allocated_bytes()), (expected, bytes));
    }
});

engine_test!(only_what_is_adapted_is_trained, async {
    let mut engine = engine().await;
    engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    for names in [vec!["down_proj"], vec!["q_proj"], vec!["gate_proj", "o_proj"], vec!["v_proj", "up_proj"]] {
        let target_modules = targets(&names);
        engine.new_adapter(LoraOptions { target_modules, ..Default::default() }).await.unwrap();
        let losses = train(&mut engine, options(20)).await;
        assert!(losses[19] < losses[0], "{names:?}: {losses:?}");
        let (config, weights) = engine.save_adapter().await.unwrap();
        let file = AdapterFile::parse(&config, &weights).unwrap();
        assert!(file.tensors.keys().all(|name| names.iter().any(|target| name.contains(target))));
        let zero = file.tensors.iter().find(|(name, b)| name.ends_with("lora_B") && b.data.iter().all(|v| *v == 0.0));
        assert!(zero.is_none(), "{:?} has not moved", zero.map(|(name, _)| name));
    }
});

engine_test!(what_cannot_be_done_is_said, async {
    let mut empty = Engine::new(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
    let not_ready = |result: Result<(), Error>| assert_eq!(result.unwrap_err().code(), "not_ready");
    not_ready(empty.load_dataset("d", DATA.as_bytes(), None).map(drop));
    not_ready(empty.new_adapter(LoraOptions::default()).await.map(drop));
    not_ready(empty.start_training(options(1), &mut |_| ()).await.map(drop));
    not_ready(empty.train_step().await.map(drop));
    not_ready(empty.profile().await.map(drop));
    not_ready(empty.save_adapter().await.map(drop));

    let mut engine = engine().await;
    let setting = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::BadSetting { name, .. }) => assert_eq!(name, expected),
        other => panic!("{expected}: {other:?}"),
    };
    let lora = LoraOptions::default;
    setting(engine.new_adapter(LoraOptions { r: 0, ..lora() }).await.map(drop), "r");
    setting(engine.new_adapter(LoraOptions { r: 1 << 20, ..lora() }).await.map(drop), "r");
    setting(engine.new_adapter(LoraOptions { lora_alpha: f32::NAN, ..lora() }).await.map(drop), "lora_alpha");
    setting(
        engine.new_adapter(LoraOptions { target_modules: targets(&[]), ..lora() }).await.map(drop),
        "target_modules",
    );
    let unknown = targets(&["c_attn"]);
    setting(engine.new_adapter(LoraOptions { target_modules: unknown, ..lora() }).await.map(drop), "target_modules");
    setting(engine.load_dataset("d", DATA.as_bytes(), Some(1)).map(drop), "maxLength");
    engine.load_dataset("d", DATA.as_bytes(), None).unwrap();
    setting(
        engine.start_training(TrainOptions { batch_size: 0, ..options(1) }, &mut |_| ()).await.map(drop),
        "batchSize",
    );
    let short = TrainOptions { tokens_per_pass: Some(16), ..options(1) };
    setting(engine.start_training(short, &mut |_| ()).await.map(drop), "tokensPerPass");
    let text = Prompt::Text("hi".into());
    let hot = GenerateOptions { temperature: -1.0, ..Default::default() };
    setting(engine.generate(&text, hot, |_| true).await.map(drop), "temperature");

    assert_eq!(engine.load_dataset("d", b"{}", None).unwrap_err().code(), "bad_data");
    let stopped =
        engine.load_model(&tiny_model(), LoadOptions::default(), &mut |progress| progress.phase != "weights").await;
    assert_eq!(stopped.unwrap_err(), Error::Cancelled);
});
