//! What is out of its range is refused by name, before any memory of the GPU is taken: sizes and numbers in a model's own
//! files, settings, and adapters of another model.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::writer;
use crate::writer::{Writer, small_model};
use serde_json::{Value, json};
use web_lora::generate::GenerateOptions;
use web_lora::gpu::{DeviceInfo, Gpu};
use web_lora::io::{AdapterFile, ByteSource, Checkpoint, LoraConfig, Matrix, MemorySource};
use web_lora::lora::{Adapter, Modules};
use web_lora::{Error, Result, model};

fn paper() -> Gpu {
    let sizes = DeviceInfo { max_buffer_size: 1 << 28, max_storage_buffer_binding_size: 1 << 27, ..Default::default() };
    Gpu::paper(sizes)
}

fn open(name: &str, files: Vec<(&str, Vec<u8>)>) -> Result<Checkpoint> {
    let files: Vec<Rc<dyn ByteSource>> = files
        .into_iter()
        .map(|(file, bytes)| Rc::new(MemorySource::new(format!("{name}{file}"), bytes)) as Rc<dyn ByteSource>)
        .collect();
    pollster::block_on(Checkpoint::open(&files))
}

/// What loading it says, where nothing may be taken before it is said.
fn refusal(gpu: &Gpu, checkpoint: Result<Checkpoint>) -> Error {
    let loaded = checkpoint.and_then(|model| pollster::block_on(model::load(gpu, &model, 64, &mut |_, _| true)));
    assert_eq!(gpu.allocated_bytes(), 0);
    loaded.err().expect("it is no model")
}

#[test]
fn sizes_in_metadata_are_refused_before_anything_is_taken() {
    let u32 = |n: u32| n.to_le_bytes().to_vec();
    let f32 = |n: f32| n.to_le_bytes().to_vec();
    let list = |kind: u32, items: &[u8], len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes(), items].concat();
    let set = |key: &str, kind: u32, value: Vec<u8>| {
        let key = key.to_owned();
        Box::new(move |w: &mut Writer| w.set(&key, kind, value)) as Box<dyn FnOnce(&mut Writer)>
    };
    let cases = [
        (set("llama.block_count", 4, u32(1_000_000_000)), "num_hidden_layers is 1000000000, allowed is 1 to 512"),
        (set("llama.block_count", 4, u32(513)), "num_hidden_layers is 513, allowed is 1 to 512"),
        (set("llama.block_count", 4, u32(0)), "num_hidden_layers is 0"),
        (set("llama.block_count", 10, u64::MAX.to_le_bytes().into()), "'llama.block_count' is 18446744073709551615"),
        (set("llama.block_count", 6, f32(1.0)), "'llama.block_count' is not a whole number"),
        (set("llama.attention.head_count", 4, u32(0)), "'llama.attention.head_count' is 0"),
        (set("llama.attention.head_count", 4, u32(7)), "cannot have 7 heads"),
        (set("llama.attention.head_count_kv", 4, u32(3)), "cannot have 3 heads"),
        (set("llama.attention.key_length", 4, u32(0)), "head_dim is 0"),
        (set("llama.attention.key_length", 4, u32(1 << 31)), "head_dim is 2147483648"),
        (set("llama.embedding_length", 4, u32(0)), "hidden_size is 0"),
        (set("llama.embedding_length", 4, u32(u32::MAX)), "hidden_size is 4294967295, allowed is 1 to 65536"),
        (set("llama.feed_forward_length", 4, u32(1 << 30)), "intermediate_size is 1073741824"),
        (set("llama.context_length", 4, u32(0)), "max_position_embeddings is 0"),
        (set("llama.context_length", 4, u32(u32::MAX)), "max_position_embeddings is 4294967295"),
        (set("llama.rope.freq_base", 6, f32(f32::NAN)), "'llama.rope.freq_base' is not a finite number"),
        (set("llama.rope.freq_base", 6, f32(0.0)), "rope_theta is 0"),
        (set("llama.rope.freq_base", 6, f32(1e-30)), "rope_theta is 0.000000000000000000000000000001"),
        (set("llama.rope.freq_base", 8, writer::text("10000")), "'llama.rope.freq_base' is not a finite number"),
        (set("llama.attention.layer_norm_rms_epsilon", 6, f32(0.0)), "rms_norm_eps is 0"),
        (set("llama.attention.layer_norm_rms_epsilon", 6, f32(-1e-5)), "rms_norm_eps is -0.00001"),
        (set("llama.attention.layer_norm_rms_epsilon", 12, 1e-300f64.to_le_bytes().into()), "rms_norm_eps is 0"),
        (
            set("llama.embedding_length", 4, u32(64)),
            "embed_tokens.weight has shape [264, 32], the config says [264, 64]",
        ),
    ];
    for (change, words) in cases {
        let mut writer = small_model();
        change(&mut writer);
        let gpu = paper();
        let error = refusal(&gpu, open("models/", vec![("small.gguf", writer.bytes())])).to_string();
        // The model's own name where it is no single file's fault.
        let is_named = error.starts_with("models/small.gguf: ") || error.starts_with("small: ");
        assert!(is_named && error.contains(words), "{words}: {error}");
    }

    // Vocabularies that say two things: as many scores, types and tokens, all of the kind that they are read as.
    for (key, kind, value, words) in [
        ("tokenizer.ggml.scores", 9, list(0, &[1; 264], 264), "'tokenizer.ggml.scores' is not a list of numbers"),
        ("tokenizer.ggml.token_type", 9, list(6, &[0; 4 * 264], 264), "'tokenizer.ggml.token_type' is not a list of"),
        ("tokenizer.ggml.token_type", 9, list(0, &[1; 3], 3), "264 tokens and 3 token types"),
        ("tokenizer.ggml.eos_token_id", 4, u32(u32::MAX), "is 4294967295 where there are 264 tokens"),
        ("tokenizer.ggml.tokens", 8, writer::text("a"), "'tokenizer.ggml.tokens' is not a list of texts"),
    ] {
        let mut writer = small_model();
        if key == "tokenizer.ggml.scores" {
            writer.set("tokenizer.ggml.model", 8, writer::text("llama"));
            writer.entries.retain(|(name, ..)| name != "tokenizer.ggml.merges");
        }
        writer.set(key, kind, value);
        let error = open("models/", vec![("small.gguf", writer.bytes())]).and_then(|model| model.tokenizer());
        let error = error.err().unwrap_or_else(|| panic!("{key}: {words}")).to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let types_of_bytes = list(0, &[1; 264], 264);
    let mut writer = small_model();
    writer.set("tokenizer.ggml.token_type", 9, types_of_bytes);
    assert!(open("", vec![("m.gguf", writer.bytes())]).and_then(|model| model.tokenizer()).is_ok(), "read as they are");
}

#[test]
fn sizes_in_a_config_are_refused_before_anything_is_taken() {
    let config = include_bytes!("fixtures/golden/llama-gqa-tied/config.json");
    let weights = include_bytes!("fixtures/golden/llama-gqa-tied/model.safetensors");
    for (field, value, words) in [
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers is 1000000000, allowed is 1 to 512"),
        ("num_hidden_layers", json!(1e9), "num_hidden_layers is 1000000000.0, not a whole number"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("num_key_value_heads", json!(5), "does not divide"),
        ("vocab_size", json!(1u64 << 40), "vocab_size is 1099511627776"),
        ("vocab_size", json!(5), "embed_tokens"),
        ("rms_norm_eps", json!(0), "rms_norm_eps is 0"),
        ("rms_norm_eps", json!("1e-5"), "not a number"),
        ("rope_theta", json!(0.5), "rope_theta is 0.5, allowed is 1 to 1000000000000"),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 1e300}), "factor is"),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0}), "factor is 0"),
        ("max_position_embeddings", json!(-1), "max_position_embeddings is -1"),
        ("tie_word_embeddings", json!("yes"), "not true or false"),
    ] {
        let mut map: serde_json::Map<String, Value> = serde_json::from_slice(config).unwrap();
        if field.starts_with("rope") {
            map.remove("rope_parameters");
        }
        map.insert(field.to_owned(), value);
        let files = vec![("config.json", serde_json::to_vec(&map).unwrap()), ("model.safetensors", weights.to_vec())];
        let error = refusal(&paper(), open("tiny/", files)).to_string();
        assert!(error.contains(words), "{field}: {error}");
    }
}

/// The modules of the small model, on paper.
fn modules() -> Modules {
    let checkpoint = open("", vec![("m.gguf", small_model().bytes())]).unwrap();
    pollster::block_on(model::load(&paper(), &checkpoint, 64, &mut |_, _| true)).unwrap().modules()
}

#[test]
fn settings_of_an_adapter_are_refused_with_what_is_allowed() {
    let ok = || LoraConfig::new(4, 8.0, vec!["q_proj".to_owned()]);
    let modules = modules();
    Adapter::new(&paper(), ok(), &modules, 0).unwrap();
    for (name, config, allowed) in [
        ("r", LoraConfig { r: 0, ..ok() }, "1 to 1024"),
        ("r", LoraConfig { r: 1025, ..ok() }, "1 to 1024"),
        ("r", LoraConfig { r: usize::MAX, ..ok() }, "1 to 1024"),
        ("lora_alpha", LoraConfig { lora_alpha: 0.0, ..ok() }, "a number above 0"),
        ("lora_alpha", LoraConfig { lora_alpha: -1.0, ..ok() }, "a number above 0"),
        ("lora_alpha", LoraConfig { lora_alpha: f32::NAN, ..ok() }, "a number above 0"),
        ("lora_alpha", LoraConfig { lora_alpha: f32::INFINITY, ..ok() }, "a number above 0"),
        ("lora_dropout", LoraConfig { lora_dropout: 1.0, ..ok() }, "0 up to but not including 1"),
        ("lora_dropout", LoraConfig { lora_dropout: f64::NAN, ..ok() }, "0 up to but not including 1"),
        ("target_modules", LoraConfig::new(4, 8.0, vec!["x_proj".into()]), "one or more of down_proj"),
        ("target_modules", LoraConfig::new(4, 8.0, vec![]), "one or more of down_proj"),
        ("rank_pattern", LoraConfig { rank_pattern: vec![("q_proj".into(), 1 << 40)], ..ok() }, "1 to 1024"),
    ] {
        let gpu = paper();
        let refused = Adapter::new(&gpu, config, &modules, 0).err();
        assert_eq!(gpu.allocated_bytes(), 0, "{name}");
        match refused {
            Some(Error::BadSetting { name: named, allowed: range, .. }) => {
                assert_eq!(named, name);
                assert!(range.starts_with(allowed), "{name}: {range}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn settings_of_an_answer_are_refused_with_what_is_allowed() {
    let ok = GenerateOptions::default;
    ok().validate().unwrap();
    for (name, options) in [
        ("temperature", GenerateOptions { temperature: f32::NAN, ..ok() }),
        ("temperature", GenerateOptions { temperature: -0.1, ..ok() }),
        ("temperature", GenerateOptions { temperature: f32::INFINITY, ..ok() }),
        ("topP", GenerateOptions { top_p: 0.0, ..ok() }),
        ("topP", GenerateOptions { top_p: 1.5, ..ok() }),
        ("strength", GenerateOptions { strength: 1e9, ..ok() }),
        ("maxNewTokens", GenerateOptions { max_new_tokens: 0, ..ok() }),
        ("maxNewTokens", GenerateOptions { max_new_tokens: usize::MAX, ..ok() }),
        ("topLogprobs", GenerateOptions { top_logprobs: Some(usize::MAX), ..ok() }),
    ] {
        match options.validate() {
            Err(Error::BadSetting { name: named, allowed, .. }) => {
                assert_eq!(named, name);
                assert!(allowed.contains(" to "), "{allowed}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Each names the adapter's side and the model's.
#[test]
fn an_adapter_of_another_model_names_both_sides() {
    let matrix = |rows: usize, cols: usize| Matrix { rows, cols, data: vec![0.5; rows * cols] };
    let file = |module: &str, a: Matrix, b: Matrix| AdapterFile {
        config: LoraConfig::new(2, 4.0, vec!["q_proj".into()]),
        tensors: BTreeMap::from([(format!("{module}.lora_A"), a), (format!("{module}.lora_B"), b)]),
    };
    let q = "model.layers.0.self_attn.q_proj";
    let modules = modules();
    Adapter::from_file(&paper(), &file(q, matrix(2, 32), matrix(32, 2)), &modules).unwrap();
    for (adapter, words) in [
        (file(q, matrix(2, 48), matrix(32, 2)), ["lora_A is 2 x 48", "needs 2 x 32"]),
        (file(q, matrix(2, 32), matrix(48, 2)), ["lora_B is 48 x 2", "needs 32 x 2"]),
        // Turned round.
        (file(q, matrix(32, 2), matrix(2, 32)), ["lora_A is 32 x 2", "needs 2 x 32"]),
        (file(q, matrix(3, 32), matrix(32, 3)), ["lora_A is 3 x 32", "needs 2 x 32"]),
        (file(q, matrix(0, 32), matrix(32, 0)), ["lora_A is 0 x 32", "needs 2 x 32"]),
        (
            file("model.layers.7.self_attn.q_proj", matrix(2, 32), matrix(32, 2)),
            ["the model has model.layers.0", "no lora_A"],
        ),
        (
            file("transformer.h.0.attn.c_attn", matrix(2, 32), matrix(32, 2)),
            ["the model has model.layers.0", "no lora_A"],
        ),
    ] {
        match Adapter::from_file(&paper(), &adapter, &modules).err() {
            Some(Error::AdapterMismatch { message }) => {
                assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
            }
            other => panic!("{words:?}: {other:?}"),
        }
    }
    let mut more = file(q, matrix(2, 32), matrix(32, 2));
    let other = file("model.layers.1.self_attn.q_proj", matrix(2, 32), matrix(32, 2));
    more.tensors.extend(other.tensors);
    let error = Adapter::from_file(&paper(), &more, &modules).err().unwrap().to_string();
    assert!(error.contains("holds model.layers.1.self_attn.q_proj.lora_A, this model has no such target"), "{error}");
    let mut broken = file(q, matrix(2, 32), matrix(32, 2));
    broken.tensors.get_mut(&format!("{q}.lora_B")).unwrap().data[3] = f32::NAN;
    let error = Adapter::from_file(&paper(), &broken, &modules).err().unwrap().to_string();
    assert!(error.contains("not finite, at 3"), "{error}");
}
