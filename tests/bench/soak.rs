//! The native half of `make soak`: trains a tiny chat model for STEPS steps and prints the device, then one line of JSON
//! for every hundred steps: their milliseconds, the bytes on the GPU, and what was made of anything on it until then.
//!
//! `cargo bench --bench soak -- STEPS`

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    pollster::block_on(native::run());
}

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Instant;

    use serde_json::json;
    use web_lora::engine::{Engine, LoadOptions, TrainProgress};
    use web_lora::gpu::{Counts, DeviceOptions};
    use web_lora::io::{ByteSource, FileSource};
    use web_lora::train::TrainOptions;

    const MODEL: [&str; 4] = [
        "tests/fixtures/golden/llama-gqa-tied/config.json",
        "tests/fixtures/golden/llama-gqa-tied/model.safetensors",
        "tests/fixtures/tiny-chat/tokenizer.json",
        "tests/fixtures/tiny-chat/tokenizer_config.json",
    ];
    const EXAMPLES: &str = "www/public/samples/pirate.jsonl";

    pub(super) async fn run() {
        // cargo adds `--bench`.
        let steps = std::env::args().find_map(|argument| argument.parse().ok()).expect("soak STEPS");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = MODEL.map(|file| Rc::new(FileSource::open(root.join(file)).unwrap()) as Rc<dyn ByteSource>);

        let mut engine = Engine::new(DeviceOptions::default()).await.unwrap();
        println!("{}", json!({ "device": engine.device().name }));
        engine.load_model(&files, LoadOptions::default(), &mut |_| true).await.unwrap();
        engine.load_dataset(EXAMPLES, &std::fs::read(root.join(EXAMPLES)).unwrap(), None).unwrap();
        let options = TrainOptions { steps: Some(steps), batch_size: 2, ..Default::default() };
        engine.start_training(options, &mut |_| ()).await.unwrap();
        let mut ms = vec![];
        let mut start = Instant::now();
        loop {
            let TrainProgress { done, report, .. } = engine.train_step().await.unwrap();
            if report.is_some() {
                ms.push(1e3 * start.elapsed().as_secs_f64());
                start = Instant::now();
            }
            if ms.len() == 100 {
                let made = made(&engine.counts());
                println!(
                    "{}",
                    json!({ "ms": std::mem::take(&mut ms), "gpuBytes": engine.allocated_bytes(), "made": made })
                );
                start = Instant::now();
            }
            if done {
                break;
            }
        }
    }

    /// Everything but what a step does: maps and submits.
    fn made(counts: &Counts) -> u64 {
        let Counts { buffers, bind_groups, layouts, shader_modules, pipelines, query_sets, maps: _, submits: _ } =
            counts;
        buffers + bind_groups + layouts + shader_modules + pipelines + query_sets
    }
}
