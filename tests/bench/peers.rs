//! Our side of the native comparison of `make bench-peers`: trains the model folder that it is given and prints one line
//! of JSON for each step, as its peer does.
//!
//! `cargo bench --bench bench_peers -- FOLDER STEPS`, with the files that www/bench/model.mjs writes.

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    pollster::block_on(native::run());
}

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::path::PathBuf;
    use std::rc::Rc;
    use std::time::Instant;

    use serde_json::json;
    use web_lora::engine::{Engine, LoadOptions, LoraOptions, TrainProgress};
    use web_lora::gpu::DeviceOptions;
    use web_lora::io::{ByteSource, FileSource};
    use web_lora::train::{Schedule, TrainOptions};

    pub(super) async fn run() {
        // cargo adds `--bench`.
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let [folder, steps] = &arguments[..] else { panic!("bench_peers FOLDER STEPS") };
        let folder = PathBuf::from(folder);
        let files = ["config.json", "model.safetensors", "tokenizer.json"]
            .map(|name| Rc::new(FileSource::open(folder.join(name)).unwrap()) as Rc<dyn ByteSource>);

        let mut engine = Engine::new(DeviceOptions::default()).await.unwrap();
        println!("{}", json!({ "device": engine.device().name, "driver": engine.device().driver }));
        engine.load_model(&files, LoadOptions::default(), &mut |_| true).await.unwrap();
        engine.load_dataset("example.jsonl", &std::fs::read(folder.join("example.jsonl")).unwrap(), None).unwrap();
        engine.new_adapter(LoraOptions { r: 8, lora_alpha: 16.0, ..Default::default() }).await.unwrap();
        let options = TrainOptions {
            steps: Some(steps.parse().unwrap()),
            batch_size: 1,
            warmup_steps: Some(0),
            schedule: Schedule::Constant,
            ..Default::default()
        };
        engine.start_training(options, &mut |_| ()).await.unwrap();
        let mut start = Instant::now();
        loop {
            let TrainProgress { done, report, .. } = engine.train_step().await.unwrap();
            if let Some(report) = report {
                let seconds = start.elapsed().as_secs_f64();
                start = Instant::now();
                println!("{}", json!({ "step": report.step, "loss": report.loss, "seconds": seconds }));
            }
            if done {
                break;
            }
        }
    }
}
