//! Adapters in other formats: their bytes are those of the PEFT files, in the other's order. With `EXPORT_OUT`, a folder
//! of PEFT folders named like those of `tests/fixtures/gguf`, each gets its `adapter.gguf` and a folder `mlx`, which
//! `tests/fixtures/exports/` loads with llama.cpp and mlx-lm.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::Error;
use web_lora::io::{AdapterFile, LoraConfig, Matrix};
use web_lora::low_rank::{CombineOptions, CompressOptions, combine, compress, spectrum};

fn adapter() -> AdapterFile {
    let matrix = |rows: usize, cols: usize| Matrix { rows, cols, data: (0..rows * cols).map(|n| n as f32).collect() };
    let config = LoraConfig {
        rank_pattern: vec![("v_proj".to_owned(), 1)],
        ..LoraConfig::new(2, 4.0, vec!["q_proj".to_owned(), "v_proj".to_owned()])
    };
    let name = |kind: &str| format!("model.layers.1.self_attn.{kind}");
    let tensors = [
        (name("q_proj.lora_A"), matrix(2, 3)),
        (name("q_proj.lora_B"), matrix(8, 2)),
        (name("v_proj.lora_A"), matrix(1, 3)),
        (name("v_proj.lora_B"), matrix(8, 1)),
    ];
    AdapterFile { config, tensors: tensors.into() }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn gguf_has_llamas_rows_in_llama_cpps_order() {
    let file = adapter().write_gguf("llama", [2, 2]).unwrap();
    assert_eq!((&file[..4], file.len() % 32), (&b"GGUF"[..], 0));
    // The data are the last part: four tensors of 32 or 64 bytes.
    let data = &file[file.len() - (32 + 64 + 32 + 32)..];
    assert_eq!(floats(&data[..24]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    // Rows 0 2 1 3 of each head of four.
    let q = [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 12.0, 13.0, 10.0, 11.0, 14.0, 15.0];
    assert_eq!(floats(&data[32..96]), q);
    // alpha / r is 4 by its own rank too: nothing is folded in, and v stays in order.
    assert_eq!(floats(&data[128..160]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let qwen = adapter().write_gguf("qwen2", [2, 2]).unwrap();
    assert_eq!(floats(&qwen[qwen.len() - 128..][..64]), (0..16).map(|n| n as f32).collect::<Vec<_>>());
    assert!(adapter().write_gguf("gpt2", [2, 2]).unwrap_err().to_string().contains("GGUF has no name"));
}

#[test]
fn mlx_has_one_rank_and_one_scale() {
    let (config, weights) = adapter().write_mlx(2).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["lora_parameters"]["rank"], 2);
    assert_eq!(config["lora_parameters"]["scale"], 2.0);
    assert_eq!(config["lora_parameters"]["keys"], serde_json::json!(["self_attn.q_proj", "self_attn.v_proj"]));
    let file = SafeTensors::deserialize(&weights).unwrap();
    let tensor = |name: &str| file.tensor(&format!("model.layers.1.self_attn.{name}")).unwrap();
    assert_eq!((tensor("q_proj.lora_a").shape(), tensor("q_proj.lora_b").shape()), (&[3, 2][..], &[2, 8][..]));
    assert_eq!(floats(tensor("q_proj.lora_a").data()), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(floats(tensor("v_proj.lora_a").data()), [0.0, 0.0, 1.0, 0.0, 2.0, 0.0]);
    // Its scaling is twice that of q.
    let v: Vec<f32> = (0..16).map(|n| if n < 8 { 2.0 * n as f32 } else { 0.0 }).collect();
    assert_eq!(floats(tensor("v_proj.lora_b").data()), v);
}

#[test]
fn dora_goes_where_there_is_a_place_for_it() {
    let mut file = adapter();
    file.config.use_dora = true;
    for kind in ["q_proj", "v_proj"] {
        let m = Matrix { rows: 8, cols: 1, data: (1..9).map(|n| n as f32).collect() };
        file.tensors.insert(format!("model.layers.1.self_attn.{kind}.lora_magnitude_vector"), m);
    }
    let (config, weights) = file.write();
    assert_eq!(AdapterFile::parse(&config, &weights).unwrap(), file);
    let (config, weights) = file.write_mlx(2).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["fine_tune_type"], "dora");
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let m = tensors.tensor("model.layers.1.self_attn.q_proj.m").unwrap();
    assert_eq!((m.shape(), floats(m.data())), (&[8][..], (1..9).map(|n| n as f32).collect()));
    let refusals = [
        file.write_gguf("llama", [2, 2]).map(drop),
        spectrum(&file).map(drop),
        compress(&file, CompressOptions { r: Some(1), ..Default::default() }).map(drop),
        combine(&[(&file, 1.0)], CombineOptions::default()).map(drop),
    ];
    for refusal in refusals {
        assert!(matches!(&refusal, Err(Error::Unsupported { field, .. }) if field == "use_dora"), "{refusal:?}");
    }
}

#[test]
fn fixtures_are_written_where_asked() {
    let Some(out) = std::env::var_os("EXPORT_OUT") else { return };
    for entry in std::fs::read_dir(&out).unwrap() {
        let folder = entry.unwrap().path();
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let file = AdapterFile::parse(&read("adapter_config.json"), &read("adapter_model.safetensors")).unwrap();
        let base = Path::new("tests/fixtures/gguf").join(folder.file_name().unwrap()).join("config.json");
        let base: Value = serde_json::from_slice(&std::fs::read(base).unwrap()).unwrap();
        let number = |names: [&str; 2]| names.iter().find_map(|name| base[name].as_u64()).unwrap() as usize;
        let heads = [number(["num_attention_heads", "n_head"]), number(["num_key_value_heads", "n_head"])];
        if !file.config.use_dora {
            let gguf = file.write_gguf(base["model_type"].as_str().unwrap(), heads).unwrap();
            std::fs::write(folder.join("adapter.gguf"), gguf).unwrap();
        }
        let (config, weights) = file.write_mlx(number(["num_hidden_layers", "n_layer"])).unwrap();
        std::fs::create_dir_all(folder.join("mlx")).unwrap();
        std::fs::write(folder.join("mlx/adapter_config.json"), config).unwrap();
        std::fs::write(folder.join("mlx/adapters.safetensors"), weights).unwrap();
    }
}
