//! Adapters in other formats: their bytes are those of the PEFT files, in the other's order. What llama.cpp and mlx-lm make
//! of such files `tests/fixtures/exports/` shows, with those that `tests/architectures.rs` writes.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;
use std::rc::Rc;

use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::Error;
use web_lora::io::{AdapterFile, ByteSource, LoraConfig, Matrix, MemorySource};
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
fn gguf_is_read_as_the_adapter_that_was_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/merged");
    // peft's own, with ranks and alphas by module, one of them rsLoRA's.
    let cases = [
        ("gemma3", "gemma3_text", [4, 2]),
        ("gpt2", "gpt2", [4, 4]),
        ("llama", "llama", [4, 2]),
        ("phi3", "phi3", [4, 2]),
    ];
    for (case, model_type, heads) in cases.into_iter().chain([("qwen3", "qwen3", [4, 2]), ("llama", "mistral", [4, 2])])
    {
        let read = |name: &str| std::fs::read(folder.join(case).join(name)).unwrap();
        let adapter = AdapterFile::parse(&read("adapter_config.json"), &read("adapter_model.safetensors")).unwrap();
        let gguf: Rc<dyn ByteSource> =
            Rc::new(MemorySource::new("adapter.gguf", adapter.write_gguf(model_type, heads).unwrap()));
        let back = pollster::block_on(AdapterFile::parse_gguf(&gguf, model_type, heads)).unwrap();
        assert!(back.tensors.keys().eq(adapter.tensors.keys()), "{case}");
        for (name, b) in &adapter.tensors {
            let (module, factor) = name.rsplit_once('.').unwrap();
            let of = |file: &AdapterFile| file.config.of_module(module).unwrap().unwrap();
            let ((r, scaling), (own_r, own_scaling)) = (of(&adapter), of(&back));
            assert_eq!(r, own_r, "{name}");
            // What alpha / r does not say is multiplied into B.
            let factor = if factor == "lora_B" { scaling / own_scaling } else { 1.0 };
            let off = b.data.iter().zip(&back.tensors[name].data).map(|(one, other)| (one * factor - other).abs());
            assert!(off.fold(0.0, f32::max) < 1e-6, "{case}: {name}");
        }
    }
    let mut bytes = adapter().write_gguf("llama", [2, 2]).unwrap();
    let read = |bytes: &[u8], model_type: &str| {
        let source: Rc<dyn ByteSource> = Rc::new(MemorySource::new("a.gguf", bytes.to_vec()));
        pollster::block_on(AdapterFile::parse_gguf(&source, model_type, [2, 2])).map(|_| ()).unwrap_err().to_string()
    };
    assert!(read(&bytes, "qwen2").contains("it is for llama, the model is qwen2"));
    assert!(read(&bytes[..200], "llama").starts_with("a.gguf: "));
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(read(&bytes, "llama").contains("has NaN at element 7"), "{}", read(&bytes, "llama"));
    let at = bytes.windows(4).position(|part| part == b"lora").unwrap();
    bytes[at..at + 4].copy_from_slice(b"cvec");
    assert!(!read(&bytes, "llama").is_empty());
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
