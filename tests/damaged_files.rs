//! Thousands of random damages to each kind of file: an error or something usable comes back, never a panic.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use crate::fuzz::damage::damage;
use crate::fuzz::memory;
use crate::writer;
use web_lora::data::parse_jsonl;
use web_lora::io::{AdapterFile, ByteSource, ChatTemplate, Checkpoint, MemorySource, Message, Tokenizer};

/// Uses a model in every way there is, if it opens, within memory's bounds.
fn use_model(files: Vec<(&str, Vec<u8>)>) -> bool {
    let n_bytes = files.iter().map(|(_, bytes)| bytes.len()).sum();
    memory::within(files[0].0, n_bytes, || use_files(files))
}

fn use_files(files: Vec<(&str, Vec<u8>)>) -> bool {
    let sources: Vec<Rc<dyn ByteSource>> =
        files.into_iter().map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>).collect();
    let Ok(model) = pollster::block_on(Checkpoint::open(&sources)) else { return false };
    for tensor in model.tensors() {
        let values = pollster::block_on(model.read_f32(&tensor.name)).expect("checked when it was opened");
        assert_eq!(values.len(), tensor.rows() * tensor.cols());
    }
    if let Ok(tokenizer) = model.tokenizer() {
        use_tokenizer(&tokenizer);
    }
    if let Ok(Some(template)) = model.chat_template() {
        let _ = template.render(&[Message::new("user", "hi")], true);
    }
    true
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    if let Ok(ids) = tokenizer.encode("the <s>user used\n\n a theft: é🙂 123  \t<table> ") {
        let _ = tokenizer.decode(&ids, false);
    }
    let _ = tokenizer.encode_with_offsets("▁<0x41>\0 é");
    let _ = tokenizer.decode(&(0..300).collect::<Vec<_>>(), true);
}

#[test]
fn damaged_gguf_files() {
    let mut model = writer::small_model();
    model.set("tokenizer.chat_template", 8, writer::text("{% for m in messages %}{{ m.content }}{% endfor %}"));
    let (whole, header) = (model.bytes(), model.header().len());
    let mut opened = 0;
    damage(&whole[..header], 4000, |damaged| {
        opened += usize::from(use_model(vec![("m.gguf", [&damaged, &whole[header..]].concat())]));
    });
    println!("{opened} of 4000 opened");
}

#[test]
fn damaged_parts() {
    let parts: Vec<Vec<u8>> = writer::split(writer::small_model(), 2).iter().map(writer::Writer::bytes).collect();
    let mut opened = 0;
    damage(&parts[1][..400], 3000, |damaged| {
        let second = [&damaged, &parts[1][400..]].concat();
        opened += usize::from(use_model(vec![("1.gguf", parts[0].clone()), ("2.gguf", second)]));
    });
    println!("{opened} of 3000 opened");

    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let index = br#"{"weight_map": {"a": "one.safetensors"}}"#;
    let files = |index: &[u8]| {
        let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        let config = ("config.json", b"{}".to_vec());
        vec![config, ("one.safetensors", weights), ("model.safetensors.index.json", index.to_vec())]
    };
    assert!(use_model(files(index)));
    damage(index, 3000, |damaged| _ = use_model(files(&damaged)));
}

#[test]
fn damaged_folders() {
    let tokenizer = br#"{"added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+|[a-z]{1,3}(?!x)"}, "behavior": "Isolated", "invert": false},
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "ByteLevel"}]},
        "model": {"type": "BPE", "unk_token": "a", "fuse_unk": true, "byte_fallback": true,
            "vocab": {"a": 0, "b": 1, "ab": 2, "t": 3, "<0x41>": 4}, "merges": [["a", "b"]]}}"#;
    let header = br#"{"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    let settings = br#"{"bos_token": {"content": "<s>"}, "eos_token": "<s>", "chat_template": [{"name": "default", "template": "{{ bos_token }}"}]}"#;
    let files = [
        ("config.json", br#"{"eos_token_id": [4, 99], "bos_token_id": 1}"#.to_vec()),
        ("model.safetensors", weights),
        ("tokenizer.json", tokenizer.to_vec()),
        ("tokenizer_config.json", settings.to_vec()),
    ];
    assert!(use_model(files.to_vec()));
    for (i, (name, bytes)) in files.iter().enumerate() {
        let mut opened = 0;
        damage(bytes, 3000, |damaged| {
            let mut files = files.to_vec();
            files[i].1 = damaged;
            opened += usize::from(use_model(files));
        });
        println!("{name}: {opened} of 3000 opened");
    }
}

#[test]
fn damaged_tokenizers() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/small");
    for kind in ["gemma", "llama-2", "qwen2"] {
        let whole = std::fs::read(format!("{folder}/{kind}/vocab.gguf")).unwrap();
        damage(&whole, 2000, |damaged| {
            let source: Rc<dyn ByteSource> = Rc::new(MemorySource::new("m.gguf", damaged));
            if let Ok(tokenizer) = pollster::block_on(Tokenizer::from_gguf(&source)) {
                use_tokenizer(&tokenizer);
            }
        });
    }
    for kind in ["unigram", "metaspace", "gemma"] {
        let whole = std::fs::read(format!("{folder}/{kind}/tokenizer.json")).unwrap();
        let weights = [&2u64.to_le_bytes()[..], b"{}"].concat();
        let mut opened = 0;
        damage(&whole, 2000, |damaged| {
            let files =
                [("config.json", b"{}".to_vec()), ("model.safetensors", weights.clone()), ("tokenizer.json", damaged)];
            opened += usize::from(use_model(files.to_vec()));
        });
        assert_eq!(opened, 2000);
    }
}

#[test]
fn damaged_adapters_examples_and_templates() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapters/llama3-ropescaled-untied");
    let config = std::fs::read(format!("{golden}/adapter_config.json")).expect("the adapter is there");
    let weights = std::fs::read(format!("{golden}/adapter_model.safetensors")).unwrap();
    damage(&config, 3000, |damaged| drop(AdapterFile::parse(&damaged, &weights)));
    // The header is what can lie; the rest is numbers.
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    damage(&weights[..header], 3000, |damaged| {
        drop(AdapterFile::parse(&config, &[&damaged, &weights[header..]].concat()))
    });

    let lines = b"\xef\xbb\xbf{\"messages\": [{\"role\": \"user\", \"content\": \"\\u00e9\xf0\x9f\x99\x82\"}]}\r\n{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"text\": \"c\"}";
    damage(lines, 5000, |damaged| drop(parse_jsonl("a.jsonl", &damaged)));

    let source = "{% for m in messages %}{%- if m.role == 'user' -%}[{{ m['content'] | trim | tojson }}]{% endif %}{% generation %}{{ m.content[1:] ~ loop.index }}{% endgeneration %}{% endfor %}{% set ns = namespace(a=1) %}{{ strftime_now('%d') }}";
    let messages = [Message::new("user", "é🙂")];
    damage(source.as_bytes(), 5000, |damaged| {
        if let Ok(template) = ChatTemplate::new("t", &String::from_utf8_lossy(&damaged), "<s>", "</s>") {
            let _ = template.render(&messages, true);
            if let Ok(text) = template.render(&messages, false) {
                let _ = template.answers(&messages, &[], &text);
            }
        }
    });
}
