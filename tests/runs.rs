//! Runs that are saved and taken up, evaluated and ended early, and steps taken by hand, on a tiny chat model. Natively
//! and, as wasm, in a browser.

use crate::tiny::{DATA, all_options, engine, options};
use web_lora::Error;
use web_lora::engine::{Engine, EvaluateOn, EvaluateOptions, LoraOptions, OptimOptions};
use web_lora::train::TrainOptions;

/// An engine with examples and an adapter, its run started.
async fn started(options: TrainOptions) -> Engine {
    started_with(LoraOptions { seed: 4, ..Default::default() }, options).await
}

/// The same with an adapter of other settings.
async fn started_with(lora: LoraOptions, options: TrainOptions) -> Engine {
    let mut engine = engine().await;
    engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    engine.new_adapter(lora).await.unwrap();
    engine.start_training(options, &mut |_| ()).await.unwrap();
    engine
}

/// Goes to the end of the run: the losses told on the way.
async fn finish(engine: &mut Engine) -> Vec<f32> {
    let mut losses = vec![];
    loop {
        let progress = engine.train_step().await.unwrap();
        losses.extend(progress.report.map(|report| report.loss));
        if progress.done {
            return losses;
        }
    }
}

many_engines_test!(a_run_taken_up_anywhere_ends_in_the_same_bytes, async {
    let options = TrainOptions { weight_decay: 0.01, ..options(9) };
    taken_up(LoraOptions { seed: 4, ..Default::default() }, options, &[0, 1, 4, 8, 9]).await;
});

many_engines_test!(with_noise_and_moments_in_8_bits_too, async {
    taken_up(LoraOptions { seed: 4, ..Default::default() }, all_options(5), &[3]).await;
});

many_engines_test!(with_dropout_or_first_factors_and_magnitudes_of_the_weights_too, async {
    for (init_lora_weights, lora_dropout, use_dora) in [("gaussian", 0.2, false), ("pissa_niter_2", 0.0, true)] {
        let init_lora_weights = init_lora_weights.into();
        let lora = LoraOptions { seed: 4, init_lora_weights, lora_dropout, use_dora, ..Default::default() };
        taken_up(lora, TrainOptions { weight_decay: 0.1, ..options(5) }, &[3]).await;
    }
});

many_engines_test!(with_norms_that_are_trained_too, async {
    let lora = LoraOptions { seed: 4, modules_to_save: vec!["norm".into()], ..Default::default() };
    taken_up(lora, TrainOptions { weight_decay: 0.1, ..all_options(5) }, &[3]).await;
});

/// After each of these numbers of steps.
async fn taken_up(lora: LoraOptions, options: TrainOptions, after: &[usize]) {
    let options = || options.clone();
    let mut whole = started_with(lora.clone(), options()).await;
    let losses = finish(&mut whole).await;
    let expected = whole.save_adapter().await.unwrap();
    for &at in after {
        let mut first = started_with(lora.clone(), options()).await;
        let mut told = 0;
        for _ in 0..at {
            told += usize::from(first.train_step().await.unwrap().report.is_some());
        }
        let state = first.save_state().await.unwrap();
        drop(first);

        // As after a crash: another engine, and an adapter that is not the saved one.
        let mut second = started_with(lora.clone(), options()).await;
        second.load_state(&state).await.unwrap();
        assert_eq!(second.adapter_info().unwrap().trained_steps, at);
        assert_eq!(finish(&mut second).await, losses[told..], "from step {at}");
        assert!(second.save_adapter().await.unwrap() == expected, "from step {at}");
    }
}

many_engines_test!(another_runs_state_is_refused, async {
    let mut engine = started(options(3)).await;
    let state = engine.save_state().await.unwrap();
    let other = |result: Result<(), Error>, what: &str| match result {
        Err(Error::BadSetting { name, value, .. }) => {
            assert_eq!((name.as_str(), value.contains(what)), ("resume", true))
        }
        result => panic!("{what}: {result:?}"),
    };
    let mut longer = started(options(4)).await;
    other(longer.load_state(&state).await, "options");
    let data: String = DATA.lines().rev().map(|line| format!("{line}\n")).collect();
    longer.load_dataset("data.jsonl", data.as_bytes(), None).unwrap();
    longer.start_training(options(3), &mut |_| ()).await.unwrap();
    other(longer.load_state(&state).await, "examples");
    longer.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    longer.new_adapter(LoraOptions { r: 4, ..Default::default() }).await.unwrap();
    longer.start_training(options(3), &mut |_| ()).await.unwrap();
    other(longer.load_state(&state).await, "adapter");
    assert_eq!(engine.load_state(&state[..state.len() / 2]).await.unwrap_err().code(), "bad_file");
    // What was refused has changed nothing.
    engine.load_state(&state).await.unwrap();
    assert!(engine.save_state().await.unwrap() == state);
});

engine_test!(evaluating_is_training_without_learning, async {
    // All four examples are a batch, so that the first step's loss is that of the data.
    let mut engine = started(TrainOptions { batch_size: 4, ..options(12) }).await;
    let train = EvaluateOptions { data: EvaluateOn::Train, ..Default::default() };
    let before = engine.evaluate(train, &mut |_| true).await.unwrap();
    let losses = finish(&mut engine).await;
    // The same sums in another order.
    assert!((before.loss - f64::from(losses[0])).abs() < 1e-5 * before.loss, "{before:?} {losses:?}");
    assert_eq!(before.perplexity, before.loss.exp());
    let report = engine.load_dataset("data.jsonl", DATA.as_bytes(), None).unwrap();
    assert_eq!((before.examples, before.tokens), (4, report.supervised_tokens));
    let after = engine.evaluate(train, &mut |_| true).await.unwrap();
    assert!(after.loss < before.loss && after.accuracy > before.accuracy, "{before:?} {after:?}");
    let base = engine.evaluate(EvaluateOptions { strength: 0.0, ..train }, &mut |_| true).await.unwrap();
    assert_eq!(base, before, "at strength 0 the model is the base, and B was zero at first");

    let held_out = engine.evaluate(EvaluateOptions::default(), &mut |_| true).await;
    assert_eq!(held_out.unwrap_err().code(), "not_ready");
    assert_eq!(engine.evaluate(train, &mut |_| false).await.unwrap_err(), Error::Cancelled);
});

engine_test!(steps_by_hand_are_the_runs_own, async {
    for options in [all_options(5), options(5)] {
        let options = || TrainOptions { batch_size: 4, max_grad_norm: 0.5, ..options.clone() };
        let mut run = started(options()).await;
        let losses = finish(&mut run).await;
        let mut by_hand = started(options()).await;
        for (step, loss) in losses.iter().enumerate() {
            // As the run packs them, so that even the order of its sums is the same.
            let batch = by_hand.forward_backward(&run_order(step), 1.0).await.unwrap();
            assert_eq!(batch.loss, *loss);
            let report = by_hand.optim_step(OptimOptions::default()).await.unwrap();
            assert_eq!((report.step, report.skipped), (step + 1, false));
        }
        assert!(by_hand.save_adapter().await.unwrap() == run.save_adapter().await.unwrap());
    }

    let mut by_hand = started(options(5)).await;
    // Halves of two calls are the mean of both.
    let half = by_hand.forward_backward(&[0, 1], 0.5).await.unwrap();
    by_hand.forward_backward(&[2, 3], 0.5).await.unwrap();
    assert!(half.tokens > half.supervised_tokens && half.supervised_tokens > 0);
    let still = OptimOptions { learning_rate: Some(0.0), ..Default::default() };
    let before = by_hand.save_adapter().await.unwrap();
    let halves = by_hand.optim_step(still).await.unwrap().grad_norm;
    assert!(halves > 0.0 && by_hand.optim_step(still).await.unwrap().grad_norm == 0.0, "gradients are used up");
    assert!(by_hand.save_adapter().await.unwrap() == before);
    for (examples, weight) in [(vec![4], 1.0), (vec![], 1.0), (vec![0], f32::NAN), (vec![0], 0.0)] {
        assert_eq!(by_hand.forward_backward(&examples, weight).await.unwrap_err().code(), "bad_setting");
    }
});

/// The examples of a step in the order of the run of seed 0.
fn run_order(step: usize) -> Vec<usize> {
    web_lora::train::Batches::new(4, 4, 0).examples(step)
}

/// Examples of which every fourth kind of answer is held out now and then.
fn data() -> String {
    (0..12)
        .map(|at| format!("{{\"prompt\": \"one {}\", \"completion\": \" two\"}}\n", ["a", "b", "c", "d"][at % 4]))
        .collect()
}

async fn started_with_eval(options: TrainOptions) -> Engine {
    let mut engine = engine().await;
    engine.load_dataset("data.jsonl", data().as_bytes(), None).unwrap();
    let report = engine.hold_out(0.25, 1).unwrap();
    assert_eq!((report.examples, report.eval_examples), (9, 3));
    engine.new_adapter(LoraOptions { seed: 4, ..Default::default() }).await.unwrap();
    let plan = engine.start_training(options, &mut |_| ()).await.unwrap();
    assert_eq!(plan.memory.total, engine.allocated_bytes(), "the evaluation's memory is planned too");
    engine
}

/// To the end: steps and losses of the evaluations, and the step at which it ended.
async fn evaluations(engine: &mut Engine) -> (Vec<(usize, f64, bool)>, usize, bool) {
    let (mut seen, mut step) = (vec![], engine.adapter_info().unwrap().trained_steps);
    loop {
        let progress = engine.train_step().await.unwrap();
        if let Some(report) = progress.report {
            step = report.step;
        }
        if let Some(evaluation) = progress.evaluation {
            assert_eq!(evaluation.step, step, "an evaluation comes after its step's report");
            seen.push((step, evaluation.scores.loss, evaluation.best));
        }
        if progress.done {
            return (seen, step, progress.stopped_early);
        }
    }
}

many_engines_test!(evaluations_come_when_they_are_due_and_the_best_is_kept, async {
    let every = |n| TrainOptions { eval_steps: Some(n), eval_on_start: true, ..options(10) };
    let mut engine = started_with_eval(every(4)).await;
    let (seen, ..) = evaluations(&mut engine).await;
    assert_eq!(seen.iter().map(|(step, ..)| *step).collect::<Vec<_>>(), [0, 4, 8, 10]);
    assert!(seen[1].1 < seen[0].1 && seen[0].2, "{seen:?}");
    // The run's last is what evaluating afterwards says.
    let after = engine.evaluate(EvaluateOptions::default(), &mut |_| true).await.unwrap();
    assert_eq!((after.loss, after.examples), (seen[3].1, 3));

    // A rate that destroys what was learned: the run ends early, and the best adapter comes back.
    let wild = TrainOptions {
        learning_rate: 0.5,
        early_stopping_patience: Some(2),
        load_best_model_at_end: true,
        eval_steps: Some(1),
        eval_on_start: true,
        ..options(40)
    };
    let mut engine = started_with_eval(wild.clone()).await;
    let (seen, step, early) = evaluations(&mut engine).await;
    let best = seen.iter().rposition(|(.., best)| *best).unwrap();
    assert!(early && step < 40 && seen.len() == best + 3, "{seen:?}");
    let after = engine.evaluate(EvaluateOptions::default(), &mut |_| true).await.unwrap();
    assert_eq!(after.loss, seen[best].1);

    // So it does when it is cut off in between.
    let expected = engine.save_adapter().await.unwrap();
    let mut first = started_with_eval(wild.clone()).await;
    for _ in 0..4 {
        first.train_step().await.unwrap();
    }
    let state = first.save_state().await.unwrap();
    let mut second = started_with_eval(wild).await;
    second.load_state(&state).await.unwrap();
    let (again, again_step, again_early) = evaluations(&mut second).await;
    assert_eq!((again_step, again_early), (step, early));
    assert!(seen.ends_with(&again) && second.save_adapter().await.unwrap() == expected);
});
