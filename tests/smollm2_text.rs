//! A real model as it is read: SmolLM2-135M-Instruct as a Q4_1 GGUF, its config, weights, tokens and chats, against
//! transformers' own output.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use serde_json::Value;
use web_lora::data::{Dataset, Record, tokenize};
use web_lora::io::{ByteSource, Checkpoint, FileSource, Message};

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

/// Sums of the bits of all values, each times its 1-based place, from llama.cpp's Python package with the row order
/// of q and k undone as transformers does.
#[test]
#[ignore = "needs the real model: make test runs it"]
fn weights_have_the_values_that_transformers_loads() {
    let model = open_model();
    for (name, expected) in [
        ("model.layers.7.self_attn.q_proj.weight", 5139663447559610880),
        ("model.layers.7.self_attn.k_proj.weight", 12913745119938030080),
        ("model.embed_tokens.weight", 8619863071844056960),
        ("model.layers.29.mlp.down_proj.weight", 13536469881840214016),
        ("model.norm.weight", 178720733790208),
    ] {
        let values = pollster::block_on(model.read_f32(name)).unwrap();
        // Adding 0.0 makes one of the two zeros.
        let bits = values.iter().map(|value| u64::from((value + 0.0).to_bits()));
        let sum = (1..).zip(bits).fold(0u64, |sum, (place, bits)| sum.wrapping_add(bits.wrapping_mul(place)));
        assert_eq!(sum, expected, "{name}");
    }
}

/// What transformers gave, and the ids in it.
fn golden() -> Value {
    serde_json::from_str(include_str!("fixtures/smollm2/smollm2.json")).expect("the fixture is JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

#[test]
#[ignore = "needs the real model: make test runs it"]
fn texts_have_transformers_ids_and_come_back() {
    let tokenizer = open_model().tokenizer().unwrap();
    let golden = golden();
    let lines = golden["tokenizer"].as_array().unwrap();
    assert_eq!(lines.len(), 15);
    for line in lines {
        let text = line["text"].as_str().unwrap();
        let got = tokenizer.encode(text).unwrap();
        assert_eq!(got, ids(&line["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&got, false).unwrap(), text);

        let with_offsets = tokenizer.encode_with_offsets(text).unwrap();
        assert_eq!(with_offsets.iter().map(|(id, _)| *id).collect::<Vec<_>>(), got);
        assert!(with_offsets.iter().all(|(_, bytes)| text.get(bytes.clone()).is_some()), "{text:?}");

        let mut stream = tokenizer.decode_stream(false);
        let mut streamed = String::new();
        for id in got {
            let fresh = stream.push(id).unwrap();
            assert!(!fresh.contains(char::REPLACEMENT_CHARACTER), "{text:?}");
            streamed += &fresh;
        }
        assert_eq!(streamed + &stream.finish().unwrap(), text);
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos), (Some(1), Some(2), false));
    assert_eq!((tokenizer.end_of_turn(), tokenizer.vocab_size()), ([0, 2].as_slice(), 49152));
    assert_eq!(tokenizer.decode(&[2, 40909], true).unwrap(), "Arr");
}

#[test]
#[ignore = "needs the real model: make test runs it"]
fn chats_have_transformers_text_ids_and_mask() {
    let model = open_model();
    let (tokenizer, template) = (model.tokenizer().unwrap(), model.chat_template().unwrap().unwrap());
    let golden = golden();
    let supervised = ids(&golden["train"]["supervised"]);
    for (chat, n_supervised) in golden["chat"].as_array().unwrap().iter().zip(supervised) {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        assert_eq!(template.render(&messages, false).unwrap(), chat["text"].as_str().unwrap());
        let record = Record::Messages { messages, given: 0, tools: vec![] };
        let example = tokenize(&record, &tokenizer, Some(&template), 2048).unwrap();
        assert_eq!(example.ids, ids(&chat["ids"]));
        let mask: Vec<u32> = example.supervised.iter().map(|&supervised| supervised.into()).collect();
        assert_eq!(mask, ids(&chat["assistant_mask"]));
        assert_eq!(example.supervised_tokens(), n_supervised as usize);
    }
    let question = [Message::new("user", "What is the capital of France?")];
    let prompt = template.render(&question, true).unwrap();
    assert_eq!(tokenizer.encode(&prompt).unwrap(), ids(&golden["next_token"]["prompt_ids"]));
}

#[test]
#[ignore = "needs the real model: make test runs it"]
fn a_file_of_examples_is_reported_line_by_line() {
    let model = open_model();
    let (tokenizer, template) = (model.tokenizer().unwrap(), model.chat_template().unwrap());
    let lines = concat!(
        "\u{feff}{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, ",
        "{\"role\": \"assistant\", \"content\": \"Ahoy!\"}]}\r\n",
        "\n",
        "{\"prompt\": \"2 + 2 =\", \"completion\": \" 4\"}\n",
        "{\"text\": \"Arr\"}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n",
        "{broken\n",
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"Hi\"}], ",
        "\"completion\": [{\"role\": \"assistant\", \"content\": \"Ahoy!\"}]}",
    );
    let dataset = Dataset::new("a.jsonl", lines.as_bytes(), &tokenizer, template.as_ref(), 512).unwrap();
    let report = dataset.report();
    assert_eq!((report.examples, report.truncated), (4, 0));
    assert_eq!(report.errors.iter().map(|error| error.line).collect::<Vec<_>>(), [5, 6]);
    let shown: Vec<(usize, Vec<(&str, bool)>)> = report
        .preview
        .iter()
        .map(|preview| {
            (preview.line, preview.pieces.iter().map(|piece| (piece.text.as_str(), piece.supervised)).collect())
        })
        .collect();
    let system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
    let before = format!("{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    let chat = |line| (line, vec![(before.as_str(), false), ("Ahoy!<|im_end|>", true), ("\n", false)]);
    let completion = (3, vec![("2 + 2 =", false), (" 4<|im_end|>", true)]);
    let text = (4, vec![("Arr", false), ("<|im_end|>", true)]);
    assert_eq!(shown, [chat(1), completion, text, chat(7)]);

    let cut = Dataset::new("a.jsonl", lines.as_bytes(), &tokenizer, template.as_ref(), 6).unwrap();
    assert_eq!(cut.examples.len(), 2);
    assert!(cut.errors.iter().any(|error| error.line == 1 && error.message.contains("within 6 tokens")));
}
