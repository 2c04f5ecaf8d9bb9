//! The text side of a real model: SmolLM2-135M-Instruct as a Q4_1 GGUF, against transformers' own output.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use web_lora::io::{ByteSource, Checkpoint, FileSource};

/// The model named by `SMOLLM2_GGUF`.
fn open_model() -> Checkpoint {
    let path = std::env::var("SMOLLM2_GGUF")
        .expect("SMOLLM2_GGUF must name SmolLM2-135M-Instruct.Q4_1.gguf; `make test` fetches it and sets this");
    let source: Rc<dyn ByteSource> = Rc::new(FileSource::open(path).expect("the file opens"));
    pollster::block_on(Checkpoint::open(&[source])).expect("the model opens")
}

#[test]
#[ignore = "needs the real model: make test runs it"]
fn the_header_is_the_models_own_config() {
    let model = open_model();
    assert_eq!(model.name(), "SmolLM2-135M-Instruct.Q4_1");
    let expected = serde_json::json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "hidden_act": "silu",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_theta": 100000.0, "rope_type": "default" },
        "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true, "vocab_size": 49152,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2
    });
    assert_eq!(serde_json::Value::Object(model.config().clone()), expected);
    assert_eq!(model.tensors().count(), 272);
    let q = model.tensor("model.layers.29.self_attn.q_proj.weight").unwrap();
    assert_eq!((q.shape.as_slice(), q.dtype.to_string().as_str()), ([576, 576].as_slice(), "Q4_1"));
    assert_eq!(model.row_group(q), 64);
}
