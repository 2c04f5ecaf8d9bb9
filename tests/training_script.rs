//! The training script that the package writes for Python, run there, has the losses of the training here: twenty steps
//! over files of several formats and shapes, as `tests/fixtures/training_script/make_training_script.py` ran them. That the
//! scripts there are those which the package writes now is a test of the page's (`www/tests/script.spec.ts`).
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;

use crate::tiny::{engine, train};
use serde_json::{Value, json};
use web_lora::data::{DataFile, Format};
use web_lora::engine::DataOptions;
use web_lora::io::AdapterFile;
use web_lora::train::TrainOptions;

/// Largest difference of a loss, as in `train_options.rs`: both sides compute in f32, which has steps of 5e-7 for one of 8,
/// and add up over twenty steps what each differs in. A token more or less to learn is 1e-2.
const TOLERANCE: f64 = 2e-5;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/fixtures").join(name)).unwrap()
}

fn file(name: &str) -> serde_json::Map<String, Value> {
    serde_json::from_slice(&fixture(&format!("training_script/{name}"))).unwrap()
}

#[test]
fn the_scripts_losses_are_those_here() {
    let (cases, curves) = (file("cases.json"), file("curves.json"));
    assert_eq!(cases.keys().collect::<Vec<_>>(), curves.keys().collect::<Vec<_>>());
    for (name, settings) in &cases {
        let losses = pollster::block_on(losses(settings));
        let theirs: Vec<f64> = curves[name].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
        assert_eq!(losses.len(), theirs.len(), "{name}");
        let off =
            losses.iter().zip(&theirs).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs()).fold(0.0, f64::max);
        println!("{name}: {} -> {}, off by {off:.1e}", theirs[0], theirs[theirs.len() - 1]);
        assert!(off < TOLERANCE, "{name}: {losses:?} for {theirs:?}");
    }
}

/// Of a training with the settings of a script, from the adapter that the script was given.
async fn losses(settings: &Value) -> Vec<f32> {
    let mut engine = engine().await;
    let of = |name: &str| settings.get(name).cloned().unwrap_or_else(|| Value::Object(Default::default()));
    let data: DataOptions = serde_json::from_value(of("data")).unwrap();
    let training: TrainOptions = serde_json::from_value(of("training")).unwrap();
    let files = settings["dataFiles"].as_array().unwrap().iter().map(|file| {
        let path = file.as_str().or(file["path"].as_str()).unwrap();
        let format: Option<Format> = file.get("format").map(|format| serde_json::from_value(format.clone()).unwrap());
        (path, fixture(&format!("training_script/{path}")), format)
    });
    let files: Vec<_> = files.collect();
    let files: Vec<DataFile> =
        files.iter().map(|(name, bytes, format)| DataFile { name, bytes, format: *format }).collect();
    let report = engine.load_data(&files, &[], &data).unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    // Else the order of the examples would matter, which Python draws otherwise.
    assert_eq!(training.examples_per_step(), report.examples, "a step has all examples");
    let [config, weights] = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| fixture(&format!("adapters/llama-gqa-tied/{name}")));
    let mut adapter = AdapterFile::parse(&config, &weights).unwrap();
    let lora = of("adapter");
    assert_eq!(lora, json!({"r": adapter.config.r, "loraAlpha": adapter.config.lora_alpha as u32}));
    // As a new adapter begins.
    let b = adapter.tensors.iter_mut().filter(|(name, _)| name.ends_with("lora_B"));
    b.for_each(|(_, matrix)| matrix.data.fill(0.0));
    let (config, weights) = adapter.write();
    engine.load_adapter(&config, &weights).unwrap();
    train(&mut engine, training).await
}
