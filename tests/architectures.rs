//! Every architecture from a Hugging Face folder and from the GGUF that llama.cpp's own converter makes of it
//! (`tests/fixtures/gguf/make_gguf.py`): the same modules by the same names, the same logits, and an adapter of the one
//! fits the other. With `ADAPTER_OUT`, each adapter and the logits it gives on the GGUF are written to a folder there,
//! which `tests/fixtures/check_peft.py` loads with peft on the Hugging Face folder; and what it is for llama.cpp and mlx-lm,
//! which `tests/fixtures/exports/` loads with these.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;
use std::rc::Rc;

use crate::golden::logits::logits;
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{ByteSource, Checkpoint, FileSource, LoraConfig, ModuleNames};
use web_lora::lora::Adapter;
use web_lora::model;
use web_lora::train::Pass;

const N_TOKENS: usize = 23;

fn open(paths: &[String]) -> Checkpoint {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let source = |path: &String| Rc::new(FileSource::open(fixtures.join(path)).unwrap()) as Rc<dyn ByteSource>;
    pollster::block_on(Checkpoint::open(&paths.iter().map(source).collect::<Vec<_>>())).unwrap()
}

fn ids() -> Vec<u32> {
    (0..N_TOKENS as u32).map(|at| at * 7 % 40).collect()
}

async fn check(gpu: &Gpu, case: &str) {
    let folder = open(&["config.json", "model.safetensors"].map(|name| format!("{case}/{name}")));
    let gguf = open(&[format!("{case}.gguf")]);
    let models = [
        model::load(gpu, &folder, 64, &mut |_, _| true).await.unwrap_or_else(|error| panic!("{case}: {error}")),
        model::load(gpu, &gguf, 64, &mut |_, _| true).await.unwrap_or_else(|error| panic!("{case}.gguf: {error}")),
    ];
    let [from_folder, from_gguf] = &models;
    assert_eq!(from_folder.config(), from_gguf.config(), "{case}");
    assert_eq!(*from_folder.modules(), *from_gguf.modules(), "{case}");

    // An adapter of the GGUF, away from zero, then on the folder.
    let groups = from_gguf.modules();
    let kinds = groups.iter().flat_map(|group| &group.modules).map(|module| module.kind().to_owned()).collect();
    // No scaling is 1: alpha is not r, ranks differ, and two of the adapters are rsLoRA's.
    let config = LoraConfig {
        use_rslora: case == "llama" || case == "qwen3",
        rank_pattern: vec![("(down|c)_proj".to_owned(), 2)],
        ..LoraConfig::new(3, 5.0, kinds)
    };
    let fresh = Adapter::new(gpu, config, &groups, 1).unwrap();
    let mut file = fresh.to_file(gpu).await.unwrap();
    assert!(matches!(&file.config.target_modules, ModuleNames::Names(names) if names.len() >= 3));
    for (at, value) in file.tensors.values_mut().flat_map(|matrix| &mut matrix.data).enumerate() {
        *value += (at * 37 % 101) as f32 / 500.0 - 0.1;
    }
    let mut pass = Pass::default();
    pass.push(&ids(), &[false; N_TOKENS]);
    let mut both = vec![];
    for (model, groups) in [(from_folder, from_folder.modules()), (from_gguf, groups)] {
        let adapter = Adapter::from_file(gpu, &file, &groups).unwrap();
        let (base, tuned) = (logits(gpu, model, Some(&fresh), &pass), logits(gpu, model, Some(&adapter), &pass));
        both.push((base.await.unwrap(), tuned.await.unwrap()));
    }
    assert!(both[0].0.iter().all(|value| value.is_finite()) && both[0].0 != both[0].1, "{case}");
    if let Some(out) = std::env::var_os("ADAPTER_OUT") {
        let out = Path::new(&out).join(case);
        std::fs::create_dir_all(&out).unwrap();
        let (config, weights) = file.write();
        std::fs::write(out.join("adapter_config.json"), config).unwrap();
        std::fs::write(out.join("adapter_model.safetensors"), weights).unwrap();
        std::fs::write(out.join("ids.json"), serde_json::to_vec(&ids()).unwrap()).unwrap();
        std::fs::write(out.join("logits.f32"), bytemuck::cast_slice(&both[1].1)).unwrap();
        let base = from_gguf.config();
        let heads = [base.num_attention_heads, base.num_key_value_heads];
        std::fs::write(out.join("adapter.gguf"), file.write_gguf(&base.model_type, heads).unwrap()).unwrap();
        let (config, weights) = file.write_mlx(base.num_hidden_layers).unwrap();
        std::fs::create_dir_all(out.join("mlx")).unwrap();
        std::fs::write(out.join("mlx/adapter_config.json"), config).unwrap();
        std::fs::write(out.join("mlx/adapters.safetensors"), weights).unwrap();
    }
    if case == "gemma3" {
        // The GGUF's norms are one more than the folder's, which rounds them.
        let pairs = both[0].0.iter().chain(&both[0].1).zip(both[1].0.iter().chain(&both[1].1));
        let largest = pairs.clone().fold(0f32, |most, (a, _)| most.max(a.abs()));
        assert!(pairs.map(|(a, b)| (a - b).abs()).all(|off| off < 1e-5 * largest), "{case}");
    } else {
        assert!(both[0] == both[1], "{case}: logits differ");
    }
}

#[test]
fn a_gguf_is_the_model_it_was_made_from() {
    pollster::block_on(async {
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        for case in ["gemma3", "gpt2", "llama", "phi3", "qwen2", "qwen3"] {
            check(&gpu, case).await;
        }
    });
}
