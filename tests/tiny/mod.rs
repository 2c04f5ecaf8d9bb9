//! A tiny chat model, examples for it, and what tests of the engine do with them.
#![allow(dead_code, unused_macros, reason = "each test file takes what it needs")]

use std::rc::Rc;

use web_lora::engine::{Engine, LoadOptions, TrainProgress};
use web_lora::gpu::DeviceOptions;
use web_lora::io::{ByteSource, MemorySource};
use web_lora::train::{Optim, Schedule, TrainOptions};

/// An async test, native or in a browser.
macro_rules! engine_test {
    ($name:ident, $body:expr) => {
        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn $name() {
            pollster::block_on($body);
        }
        #[cfg(target_arch = "wasm32")]
        #[wasm_bindgen_test::wasm_bindgen_test]
        async fn $name() {
            $body.await;
        }
    };
}

/// One that makes many engines, each of which takes a browser seconds to compile: native alone. What they prove there is
/// proved for browsers by the tests of the page and the package.
macro_rules! many_engines_test {
    ($name:ident, $body:expr) => {
        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn $name() {
            pollster::block_on($body);
        }
        #[cfg(target_arch = "wasm32")]
        #[allow(dead_code, reason = "compiled, and run natively")]
        async fn $name() {
            $body.await;
        }
    };
}

/// One example of each kind.
pub(crate) const DATA: &str = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "arr"}]}
{"messages": [{"role": "user", "content": "who"}, {"role": "assistant", "content": "a pirate"}]}
{"prompt": "one two", "completion": " three"}
{"text": "sea and ship"}
"#;

/// Its files.
pub(crate) fn tiny_model() -> Vec<Rc<dyn ByteSource>> {
    let files: [(&str, &[u8]); 4] = [
        ("config.json", include_bytes!("../fixtures/golden/llama-gqa-tied/config.json")),
        ("model.safetensors", include_bytes!("../fixtures/golden/llama-gqa-tied/model.safetensors")),
        ("tokenizer.json", include_bytes!("../fixtures/tiny-chat/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("../fixtures/tiny-chat/tokenizer_config.json")),
    ];
    files.map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes.to_vec())) as Rc<dyn ByteSource>).to_vec()
}

/// An engine with the model, at WebGPU's default limits.
pub(crate) async fn engine() -> Engine {
    engine_with(DeviceOptions { default_limits: true, ..Default::default() }).await
}

/// An engine with the model.
pub(crate) async fn engine_with(options: DeviceOptions) -> Engine {
    let mut engine = Engine::new(options).await.unwrap();
    let info = engine.load_model(&tiny_model(), LoadOptions::default(), &mut |_| true).await.unwrap();
    assert!(info.has_tokenizer && info.has_chat_template);
    engine
}

/// A run of two examples a step.
pub(crate) fn options(steps: usize) -> TrainOptions {
    TrainOptions { steps: Some(steps), batch_size: 2, learning_rate: 1e-2, warmup_steps: Some(0), ..Default::default() }
}

/// The same with every option that changes what is recorded.
pub(crate) fn all_options(steps: usize) -> TrainOptions {
    TrainOptions {
        optim: Optim::AdamW8bit,
        loraplus_lr_ratio: 4.0,
        label_smoothing_factor: 0.1,
        neftune_noise_alpha: 5.0,
        schedule: Schedule::CosineWithRestarts,
        num_cycles: Some(2),
        ..options(steps)
    }
}

/// Trains to the end; the loss of every step.
pub(crate) async fn train(engine: &mut Engine, options: TrainOptions) -> Vec<f32> {
    let plan = engine.start_training(options, &mut |_| ()).await.unwrap();
    let mut losses = vec![];
    loop {
        let TrainProgress { done, report, .. } = engine.train_step().await.unwrap();
        if let Some(report) = report {
            losses.push(report.loss);
            assert_eq!((report.step, report.steps, report.skipped), (losses.len(), plan.steps, false));
        }
        if done {
            return losses;
        }
    }
}
