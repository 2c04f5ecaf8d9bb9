//! Preference training as users drive it, from the text of a file, on a tiny chat model: natively and, as wasm, in a
//! browser.

use crate::tiny::{DATA, engine, options, tiny_model};
use web_lora::Error;
use web_lora::data::DataFile;
use web_lora::engine::{
    DataOptions, Engine, EvaluateOn, EvaluateOptions, LoraOptions, OptimOptions, PlanOptions, StepReport, TrainProgress,
};
use web_lora::gpu::Counts;
use web_lora::train::{Loss, TrainOptions};

/// Each of TRL's formats: with the prompt and without, messages and texts.
const PAIRS: &str = r#"{"prompt": [{"role": "user", "content": "hi"}], "chosen": [{"role": "assistant", "content": "arr"}], "rejected": [{"role": "assistant", "content": "hello"}]}
{"chosen": [{"role": "user", "content": "who"}, {"role": "assistant", "content": "a pirate"}], "rejected": [{"role": "user", "content": "who"}, {"role": "assistant", "content": "an assistant"}]}
{"prompt": "one two", "chosen": " three", "rejected": " four"}
{"chosen": "the sea is deep", "rejected": "the sea is dull"}
"#;

fn loss(loss: Loss, steps: usize) -> TrainOptions {
    TrainOptions { loss, ..options(steps) }
}

async fn with_pairs() -> Engine {
    let mut engine = engine().await;
    let report = engine.load_dataset("pairs.jsonl", PAIRS.as_bytes(), None).unwrap();
    assert_eq!((report.examples, report.preference_pairs, report.errors.len()), (4, 4, 0));
    engine.new_adapter(LoraOptions::default()).await.unwrap();
    engine
}

/// Trains to the end; the reports.
async fn train(engine: &mut Engine, options: TrainOptions) -> Vec<StepReport> {
    engine.start_training(options, &mut |_| ()).await.unwrap();
    finish(engine).await
}

async fn finish(engine: &mut Engine) -> Vec<StepReport> {
    let mut reports = vec![];
    loop {
        let TrainProgress { done, report, .. } = engine.train_step().await.unwrap();
        reports.extend(report);
        if done {
            return reports;
        }
    }
}

many_engines_test!(a_run_learns_to_prefer_what_is_chosen, async {
    for kind in [Loss::Dpo, Loss::Orpo] {
        let mut engine = with_pairs().await;
        let reports = train(&mut engine, TrainOptions { batch_size: 4, ..loss(kind, 30) }).await;
        let rewards: Vec<_> = reports.iter().map(|report| report.rewards.unwrap()).collect();
        let (first, last) = (&rewards[0], &rewards[29]);
        assert!(last.accuracy == 1.0 && last.margin > first.margin, "{kind}: {first:?} {last:?}");
        assert!(reports[29].loss < 0.5 * reports[0].loss, "{kind}: {} {}", reports[0].loss, reports[29].loss);
        match kind {
            // Before the first step the model is its own reference.
            Loss::Dpo => {
                assert!((reports[0].loss - std::f32::consts::LN_2).abs() < 1e-5 && first.margin.abs() < 1e-4);
                assert!(last.nll_loss.is_none() && last.log_odds_ratio.is_none());
            }
            _ => {
                let (nll, ratio) = (last.nll_loss.unwrap(), last.log_odds_ratio.unwrap());
                assert!((reports[29].loss - (nll - 0.1 * ratio)).abs() < 1e-5 && nll > 0.0 && ratio < 0.0);
            }
        }
    }
});

many_engines_test!(a_step_is_the_mean_over_its_pairs_however_they_are_packed, async {
    for kind in [Loss::Dpo, Loss::Orpo] {
        let mut curves = vec![];
        for tokens_per_pass in [None, Some(80)] {
            let mut engine = with_pairs().await;
            let options = TrainOptions { batch_size: 4, tokens_per_pass, ..loss(kind, 6) };
            let passes = engine.start_training(options, &mut |_| ()).await.unwrap().passes;
            assert_eq!(passes > 1, tokens_per_pass.is_some());
            curves.push(finish(&mut engine).await);
        }
        for (one, several) in curves[0].iter().zip(&curves[1]) {
            // The same sums in another order.
            assert!((one.loss - several.loss).abs() < 2e-5 * one.loss, "{kind}: {curves:?}");
            let [a, b] = [one, several].map(|report| report.rewards.unwrap());
            assert!((a.margin - b.margin).abs() < 1e-4 && a.accuracy == b.accuracy, "{kind}: {a:?} {b:?}");
        }
    }
});

many_engines_test!(steps_by_hand_are_those_of_the_run, async {
    for kind in [Loss::Dpo, Loss::Orpo] {
        let mut whole = with_pairs().await;
        let options = || TrainOptions { batch_size: 4, ..loss(kind, 1) };
        let report = train(&mut whole, options()).await.remove(0);
        let mut by_hand = with_pairs().await;
        by_hand.start_training(options(), &mut |_| ()).await.unwrap();
        // Two halves of the mean over pairs. ORPO's cross-entropy is a mean over tokens, so that it takes them at once.
        let parts: &[(&[usize], f32)] =
            if kind == Loss::Dpo { &[(&[0, 1], 0.5), (&[2, 3], 0.5)] } else { &[(&[3, 1, 0, 2], 1.0)] };
        let mut loss = 0.0;
        for (numbers, weight) in parts {
            loss += weight * by_hand.forward_backward(numbers, *weight).await.unwrap().loss;
        }
        let step = by_hand.optim_step(OptimOptions::default()).await.unwrap();
        assert!((loss - report.loss).abs() < 1e-5 * report.loss, "{kind}: {loss} {}", report.loss);
        assert!((step.grad_norm - report.grad_norm).abs() < 1e-4 * report.grad_norm, "{kind}");
    }
});

many_engines_test!(a_run_taken_up_anywhere_ends_in_the_same_bytes, async {
    let mut whole = with_pairs().await;
    train(&mut whole, loss(Loss::Dpo, 5)).await;
    let expected = whole.save_adapter().await.unwrap();
    // In the midst of the first time through the pairs, and later.
    for at in [1, 3] {
        let mut first = with_pairs().await;
        first.start_training(loss(Loss::Dpo, 5), &mut |_| ()).await.unwrap();
        for _ in 0..at {
            first.train_step().await.unwrap();
        }
        let state = first.save_state().await.unwrap();
        let mut second = with_pairs().await;
        second.start_training(loss(Loss::Dpo, 5), &mut |_| ()).await.unwrap();
        second.load_state(&state).await.unwrap();
        finish(&mut second).await;
        assert!(second.save_adapter().await.unwrap() == expected, "from step {at}");
    }
});

many_engines_test!(a_steady_step_makes_nothing_and_its_memory_is_planned, async {
    for kind in [Loss::Dpo, Loss::Orpo] {
        let wanted = PlanOptions { tokens_per_pass: Some(80), loss: kind, ..Default::default() };
        let mut engine = with_pairs().await;
        let planned = engine.plan_memory(&tiny_model(), wanted).await.unwrap().memory;
        let options = TrainOptions { batch_size: 4, tokens_per_pass: Some(80), ..loss(kind, 12) };
        let plan = engine.start_training(options, &mut |_| ()).await.unwrap();
        assert_eq!((plan.memory, engine.allocated_bytes()), (planned, planned.total), "{kind}");
        // The first step asks the reference; later ones know.
        for _ in 0..2 {
            engine.train_step().await.unwrap();
        }
        let (before, bytes) = (engine.counts(), engine.allocated_bytes());
        for _ in 2..12 {
            engine.train_step().await.unwrap();
        }
        let submits = before.submits + 10 * plan.passes as u64;
        let expected = Counts { maps: before.maps + 10, submits, ..before };
        assert_eq!((engine.counts(), engine.allocated_bytes()), (expected, bytes), "{kind}");
        assert!(engine.profile().await.unwrap().ops.iter().any(|op| op.kernel == "preference_gradient"));
    }
});

// A run that a rate of 1 destroys ends early with the adapter of its best evaluation, and so it does when it is taken up in
// between.
many_engines_test!(pairs_held_out_end_a_run_early_and_the_best_is_kept, async {
    let wild = TrainOptions {
        learning_rate: 1.0,
        eval_steps: Some(1),
        early_stopping_patience: Some(2),
        load_best_model_at_end: true,
        ..loss(Loss::Dpo, 40)
    };
    let started = async || {
        let mut engine = with_pairs().await;
        let report = engine.hold_out(0.25, 1).unwrap();
        assert_eq!((report.examples, report.eval_examples, report.preference_pairs), (3, 1, 3));
        let plan = engine.start_training(wild.clone(), &mut |_| ()).await.unwrap();
        assert_eq!(plan.memory.total, engine.allocated_bytes());
        engine
    };
    let finish = async |engine: &mut Engine| {
        let mut seen = vec![];
        loop {
            let progress = engine.train_step().await.unwrap();
            seen.extend(
                progress.evaluation.map(|evaluation| (evaluation.step, evaluation.scores.loss, evaluation.best)),
            );
            if progress.done {
                return (seen, progress.stopped_early);
            }
        }
    };
    let mut whole = started().await;
    let (seen, early) = finish(&mut whole).await;
    let best = seen.iter().rposition(|(.., best)| *best).unwrap();
    assert!(early && seen.len() == best + 3, "{seen:?}");
    let after = whole.evaluate(EvaluateOptions::default(), &mut |_| true).await.unwrap();
    assert_eq!((after.loss, after.examples), (seen[best].1, 1));

    let mut first = started().await;
    for _ in 0..3 {
        first.train_step().await.unwrap();
    }
    let state = first.save_state().await.unwrap();
    let mut second = started().await;
    second.load_state(&state).await.unwrap();
    let (again, again_early) = finish(&mut second).await;
    assert!(again_early && seen.ends_with(&again), "{seen:?} {again:?}");
    assert!(second.save_adapter().await.unwrap() == whole.save_adapter().await.unwrap());
});

engine_test!(losses_and_examples_must_belong_together, async {
    let mut engine = with_pairs().await;
    let setting = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::BadSetting { name, allowed, .. }) => assert!(format!("{name}: {allowed}").contains(expected)),
        other => panic!("{expected}: {other:?}"),
    };
    let not_ready = |result: Result<(), Error>| assert_eq!(result.unwrap_err().code(), "not_ready");
    let start = async |engine: &mut Engine, options| engine.start_training(options, &mut |_| ()).await.map(drop);
    setting(start(&mut engine, loss(Loss::Sft, 1)).await, "loss: dpo or orpo");
    setting(start(&mut engine, TrainOptions { beta: -1.0, ..loss(Loss::Dpo, 1) }).await, "beta: above 0");
    let smoothed = TrainOptions { label_smoothing_factor: 0.1, ..loss(Loss::Orpo, 1) };
    setting(start(&mut engine, smoothed).await, "labelSmoothingFactor: 0 where");
    let short = TrainOptions { tokens_per_pass: Some(16), ..loss(Loss::Dpo, 1) };
    setting(start(&mut engine, short).await, "both answers of the longest pair");
    let on = EvaluateOptions { data: EvaluateOn::Train, loss: Some(Loss::Sft), ..Default::default() };
    setting(engine.evaluate(on, &mut |_| true).await.map(drop), "loss: dpo or orpo");
    not_ready(engine.evaluate(EvaluateOptions::default(), &mut |_| true).await.map(drop));
    let [pairs, examples] = [PAIRS, DATA].map(|text| [DataFile { name: "a", bytes: text.as_bytes(), format: None }]);
    let mixed = engine.load_data(&pairs, &examples, &DataOptions::default());
    assert_eq!(mixed.unwrap_err().code(), "bad_data");

    engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    let on = EvaluateOptions { data: EvaluateOn::Train, loss: Some(Loss::Dpo), ..Default::default() };
    setting(engine.evaluate(on, &mut |_| true).await.map(drop), "loss: sft");
    setting(start(&mut engine, loss(Loss::Dpo, 1)).await, "loss: sft");

    let mixed = format!("{PAIRS}{DATA}");
    let report = engine.load_dataset("mixed.jsonl", mixed.as_bytes(), None).unwrap();
    assert_eq!((report.examples, report.preference_pairs, report.errors.len()), (4, 4, 4));
    assert!(report.errors[0].line == 5 && report.errors[0].message.starts_with("it is no preference pair"));
    let mixed = format!("{DATA}{PAIRS}");
    let report = engine.load_dataset("mixed.jsonl", mixed.as_bytes(), None).unwrap();
    assert_eq!((report.examples, report.preference_pairs, report.errors.len()), (4, 0, 4));
    assert!(report.errors[0].line == 5 && report.errors[0].message.starts_with("it is a preference pair"));
});
