//! Hugging Face folders: the golden ones are read, and broken or unimplemented ones refused by file and field.
#![cfg(not(target_arch = "wasm32"))]

use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::fuzz::memory;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use web_lora::Result;
use web_lora::io::{ByteSource, Checkpoint, DType, FileSource, MemorySource, Message, Tokenizer, dequantize};

fn open(files: &[(&str, &[u8])]) -> Result<Checkpoint> {
    let files: Vec<Rc<dyn ByteSource>> = files
        .iter()
        .map(|(name, bytes)| Rc::new(MemorySource::new(format!("tiny/{name}"), bytes.to_vec())) as Rc<dyn ByteSource>)
        .collect();
    pollster::block_on(Checkpoint::open(&files))
}

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(case)
}

#[test]
fn golden_folders_are_read() {
    for case in ["llama-gqa-tied", "llama3-ropescaled-untied"] {
        let folder = golden(case);
        let files: Vec<Rc<dyn ByteSource>> = std::fs::read_dir(&folder)
            .expect("tests/fixtures/golden has the case")
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| Rc::new(FileSource::open(path).unwrap()) as Rc<dyn ByteSource>)
            .collect();
        let model = pollster::block_on(Checkpoint::open(&files)).unwrap();
        let config = std::fs::read(folder.join("config.json")).unwrap();
        assert_eq!(Value::Object(model.config().clone()), serde_json::from_slice::<Value>(&config).unwrap());

        // The reference reader wants all bytes at once; ours reads the header alone. Both see the same.
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(model.tensors().count(), reference.len());
        for tensor in model.tensors() {
            let view = reference.tensor(&tensor.name).unwrap();
            assert_eq!((view.shape(), tensor.dtype), (tensor.shape.as_slice(), DType::F32));
            assert_eq!(model.row_group(tensor), 1);
            let rows = tensor.rows();
            assert_eq!(pollster::block_on(model.read_rows(tensor, 0..rows)).unwrap(), view.data());
            let values = pollster::block_on(model.read_f32(&tensor.name)).unwrap();
            assert_eq!(values, dequantize(DType::F32, view.data()));
        }
        assert_eq!(model.tokenizer().err().unwrap().to_string(), "tokenizer.json: is missing");
        assert!(model.chat_template().unwrap().is_none());
    }
}

/// A safetensors file of a header and zeros.
fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data_bytes]].concat()
}

#[test]
fn broken_safetensors_are_refused_with_their_place() {
    let good = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}"#;
    let good = safetensors(good, 16);
    assert_eq!(open(&[("config.json", b"{}"), ("model.safetensors", &good)]).unwrap().tensors().count(), 2);
    let one = |fields: &str| safetensors(&format!(r#"{{"a":{{{fields}}}}}"#), 12);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes are too few"),
        (u64::MAX.to_le_bytes().into(), "claims a header of 18446744073709551615 bytes"),
        ((1u64 << 63).to_le_bytes().into(), "claims a header"),
        ([&200_000_000u64.to_le_bytes()[..], &[0; 64]].concat(), "claims a header"),
        (b"<!DOCTYPE html><html>".to_vec(), "claims a header"),
        (safetensors("[]", 0), "does not begin with '{'"),
        (safetensors("{\"a\": \u{0}", 0), "its header is not valid"),
        ([&4u64.to_le_bytes()[..], b"{\xff\xff}"].concat(), "its header is not valid"),
        (safetensors("{}", 4), "its tensors take 0 bytes, the file has 4"),
        (safetensors(r#"{"__metadata__":{"a":1}}"#, 0), "its header is not valid"),
        (one(r#""dtype":"F32","shape":[3]"#), "missing field `data_offsets`"),
        (one(r#""dtype":"F32","shape":[-3],"data_offsets":[0,12]"#), "its header is not valid"),
        (one(r#""dtype":"F32","shape":[3],"data_offsets":[0,16]"#), "bytes 0 to 16 do not hold F32 of shape [3]"),
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[0,12]"#), "do not hold"),
        (one(r#""dtype":"F32","shape":[3],"data_offsets":[12,0]"#), "begins at 12 where the one before ends at 0"),
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[4,12]"#), "begins at 4 where"),
        (one(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,12]"#), "do not hold"),
        (one(r#""dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,12]"#), "do not hold"),
        (one(r#""dtype":"F32","shape":[9223372036854775807,9223372036854775807,0],"data_offsets":[0,0]"#), "a"),
        (one(r#""dtype":"I64","shape":[1],"data_offsets":[0,8]"#), "tensor type I64 is not supported"),
        (one(r#""dtype":"F8_E4M3","shape":[12],"data_offsets":[0,12]"#), "tensor type F8_E4M3 is not supported"),
        (
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "tensor 'a': is there twice",
        ),
        (
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "tensor 'b': its data begins at 4 where the one before ends at 8",
        ),
    ];
    for (i, (bytes, words)) in cases.iter().enumerate() {
        let open = || open(&[("config.json", b"{}"), ("model.safetensors", bytes)]).err();
        let error = memory::within(words, bytes.len(), open);
        let error = error.unwrap_or_else(|| panic!("case {i} was read")).to_string();
        assert!(error.starts_with("tiny/model.safetensors: ") && error.contains(words), "case {i}: {error}");
        // What the reference refuses we refuse; it has more types.
        let reference = SafeTensors::deserialize(bytes);
        assert!(reference.is_err() || error.contains("tensor type") || error.contains("twice"), "case {i}");
    }
    for length in 0..good.len() {
        assert!(open(&[("config.json", b"{}"), ("model.safetensors", &good[..length])]).is_err());
    }
}

/// An index names files of the folder, whatever else it names.
#[test]
fn an_index_reaches_no_further_than_its_folder() {
    let shard = safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let index = |file: &str| serde_json::to_vec(&json!({"weight_map": {"a": file}})).unwrap();
    let open = |index: &[u8]| {
        open(&[("config.json", b"{}"), ("one.safetensors", &shard), ("model.safetensors.index.json", index)])
    };
    open(&index("one.safetensors")).unwrap();
    for file in ["two.safetensors", "../one.safetensors", "/one.safetensors", "tiny/one.safetensors", "", "config.json"]
    {
        let error = open(&index(file)).err().unwrap_or_else(|| panic!("{file} was read")).to_string();
        assert!(error.contains("is missing") || error.contains("config.json: "), "{file}: {error}");
    }
    for broken in [&b""[..], b"[]", b"{}", br#"{"weight_map": {"a": 1}}"#, br#"{"weight_map": ["a"]}"#, b"\xff"] {
        let error = open(broken).err().expect("it is no index").to_string();
        assert!(error.starts_with("tiny/model.safetensors.index.json: "), "{error}");
    }
    let other = serde_json::to_vec(&json!({"weight_map": {"b": "one.safetensors"}})).unwrap();
    let error = open(&other).err().unwrap().to_string();
    assert!(error.contains("the tensor 'b' is missing"), "{error}");
}

#[test]
fn a_choice_of_files_that_is_no_model_is_explained() {
    let weights = safetensors("{}", 0);
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(Files, &str); 8] = [
        (&[], "config.json: is missing: a model is one .gguf file or all parts of one, or a folder"),
        (&[("README.md", b"hi")], "(there is: tiny/README.md)"),
        (&[("config.json", b"{")], "tiny/config.json: EOF"),
        (&[("config.json", b"[]")], "tiny/config.json: invalid type"),
        (&[("config.json", b"{}")], "model.safetensors: is missing"),
        (&[("config.json", b"{}"), ("pytorch_model.bin", b"")], "save the model as model.safetensors"),
        (&[("config.json", b"{}"), ("a/config.json", b"{}")], "tiny/a/config.json: is there twice"),
        (&[("a.gguf", b"")], "tiny/a.gguf: the magic at byte 0 needs 4 bytes and 0 are left"),
    ];
    for (files, words) in cases {
        let error = open(files).err().expect("no model").to_string();
        assert!(error.contains(words), "{error}");
    }
    let named = open(&[("config.json", b"{}"), ("model.safetensors", &weights)]).unwrap();
    assert_eq!(named.name(), "tiny");
    let config = br#"{"_name_or_path": "someone/model"}"#;
    assert_eq!(open(&[("config.json", config), ("model.safetensors", &weights)]).unwrap().name(), "someone/model");
}

/// A byte-pair tokenizer of a few letters, with one special token beyond its vocabulary.
fn tokenizer_json() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5},
        "padding": null,
        "added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "</s>": 4}, "merges": [["a", "b"]]}
    })
}

fn open_tokenizer(tokenizer: &Value, more: &[(&str, &str)]) -> Result<Tokenizer> {
    open_folder(tokenizer, more)?.tokenizer()
}

fn open_folder(tokenizer: &Value, more: &[(&str, &str)]) -> Result<Checkpoint> {
    let (weights, tokenizer) = (safetensors("{}", 0), serde_json::to_vec(tokenizer).unwrap());
    let mut files: Vec<(&str, &[u8])> =
        vec![("config.json", br#"{"eos_token_id": [4, 99]}"#), ("model.safetensors", &weights)];
    files.push(("tokenizer.json", &tokenizer));
    files.extend(more.iter().map(|(name, text)| (*name, text.as_bytes())));
    open(&files)
}

#[test]
fn a_folders_tokenizer_and_template_are_read() {
    let settings = r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ bos_token }}old"}"#;
    let model = open_folder(&tokenizer_json(), &[("tokenizer_config.json", settings)]).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.encode("<s>ab b").unwrap(), [5, 2, 3, 1]);
    assert_eq!(tokenizer.decode(&[5, 2, 3, 1], true).unwrap(), "ab b");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos), (Some(5), Some(4), true));
    assert_eq!((tokenizer.end_of_turn(), tokenizer.vocab_size()), ([4].as_slice(), 6));

    let say = [Message::new("user", "a")];
    assert_eq!(model.chat_template().unwrap().unwrap().render(&say, false).unwrap(), "<s>old");
    let own_file = [("tokenizer_config.json", settings), ("chat_template.jinja", "{{ eos_token }}new")];
    let model = open_folder(&tokenizer_json(), &own_file).unwrap();
    assert_eq!(model.chat_template().unwrap().unwrap().render(&say, false).unwrap(), "</s>new");
    let named = r#"{"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": "y"}]}"#;
    let model = open_folder(&tokenizer_json(), &[("tokenizer_config.json", named)]).unwrap();
    assert_eq!(model.chat_template().unwrap().unwrap().render(&say, false).unwrap(), "y");
}

#[test]
fn tokenizers_that_make_the_library_panic_are_refused() {
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/model/merges", json!([["a", "bbbbbbbbbbbbbbbbb"]]), "makes no token of the vocabulary"),
        ("/model/merges", json!([["b", "a"]]), "makes no token of the vocabulary"),
        ("/model/merges", json!(["ab"]), "merge 0 ('ab') is not two tokens"),
        ("/model/merges", json!([1]), "tokenizer.json: "),
        ("/model/vocab", json!({"a": -1}), "tokenizer.json: "),
        ("/model/vocab", json!("a"), "a vocabulary: an object of ids, or a list of tokens with scores"),
        ("/model/vocab", json!([["a", 0.0]]), "its vocabulary is not one of its model.type"),
        ("/model/type", json!("Unigram"), "its vocabulary is not one of its model.type"),
        ("/model/type", json!("WordPiece"), "model.type is not supported: it is 'WordPiece'"),
        ("/model", json!({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 1}), "the tokenizer cannot be built"),
        (
            "/model",
            json!({"type": "Unigram", "vocab": [["a", 0.0], ["x".repeat(100_000), 0.0]]}),
            "has 100000 bytes, at most 256",
        ),
        (
            "/added_tokens",
            json!([
                {"id": 5, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true},
                {"id": 6, "content": "\n\n", "single_word": false, "lstrip": true, "rstrip": false, "normalized": false, "special": true}
            ]),
            "the added token '<s>' takes in white space with which another begins",
        ),
        ("/model/dropout", json!(0.5), "model.dropout is not supported"),
        ("/model/continuing_subword_prefix", json!("##########"), "model.continuing_subword_prefix"),
        ("/model/unk_token", json!("<unk>"), "the unknown token '<unk>' is not in the vocabulary"),
        ("/added_tokens/0/id", json!(4_000_000_000u32), "'<s>' cannot have the id 4000000000"),
        ("/added_tokens/0/id", json!(4_294_967_296u64), "tokenizer.json: "),
        ("/decoder", json!({"type": "Strip", "content": "a", "start": 0, "stop": 5}), "tokenizer decoder 'Strip'"),
        (
            "/decoder",
            json!({"type": "Sequence", "decoders": [{"type": "Strip", "content": "a", "start": 0, "stop": 5}]}),
            "tokenizer decoder 'Strip'",
        ),
        ("/decoder", json!({"type": "CTC"}), "tokenizer decoder 'CTC' is not supported"),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "normalizer 'Precompiled'"),
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "pre_tokenizer 'FixedLength'"),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            "tokenizer pre_tokenizer 'Split' is not supported: its pattern cannot be used",
        ),
    ];
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let chain =
        |n: usize, to: usize| json!({"type": "Sequence", "normalizers": vec![replace("a", &"a".repeat(to)); n]});
    let regex = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let matching = |regex: &str, to: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": to});
    let nothing = |regex: &str| ("/normalizer", matching(regex, "b"), "its pattern may match nothing");
    let costly: Vec<(&str, Value, &str)> = vec![
        ("/normalizer", chain(20, 2), "texts could become more than 32 times as long"),
        ("/normalizer", chain(2, 6), "texts could become more than 32 times as long"),
        ("/normalizer", matching("x+", &"0123456789".repeat(10)), "texts could become more than 32 times as long"),
        ("/decoder", matching("x*", &"0123456789".repeat(10)), "texts could become more than 32 times as long"),
        // Texts whose first letter is not of the text, over which tokenizers stumbles.
        ("/normalizer", replace("", "b"), "its pattern may match nothing"),
        nothing("x*"),
        nothing("^"),
        nothing(r"\b"),
        nothing("a|(?=b)"),
        ("/decoder", replace("a", &"b".repeat(1_000_000)), "texts could become more than 32 times as long"),
        ("/normalizer", json!({"type": "Prepend", "prepend": "a".repeat(100)}), "more than 64 bytes before a text"),
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 1000]}),
            "more than 32 components",
        ),
        ("/pre_tokenizer", regex(&"a".repeat(10_000)), "its pattern has 10000 bytes"),
        ("/pre_tokenizer", regex(r"(?:\pL{1000}){1000}"), "its pattern cannot be used"),
        ("/pre_tokenizer", regex(r"\p{L}{2000}"), "its pattern cannot be used"),
        ("/pre_tokenizer", regex(&format!("{}a{}", "(".repeat(3000), ")".repeat(3000))), "its pattern cannot be used"),
        ("/pre_tokenizer/add_prefix_space", json!("\u{d7ff}"), "its pre_tokenizer is not valid"),
    ];
    for (place, value, words) in cases.into_iter().chain(costly) {
        let mut tokenizer = tokenizer_json();
        let (parent, field) = place.rsplit_once('/').unwrap();
        tokenizer.pointer_mut(parent).unwrap()[field] = value;
        let size = serde_json::to_vec(&tokenizer).unwrap().len();
        let error = memory::within(words, size, || open_tokenizer(&tokenizer, &[]).err());
        let error = error.unwrap_or_else(|| panic!("{place}: {words}")).to_string();
        assert!(error.starts_with("tokenizer.json: ") && error.contains(words), "{place}: {error}");
    }
    let mut many = tokenizer_json();
    let pieces: Vec<Value> = (0..20_000).map(|i| json!([format!("{i:0>250}"), 0.0])).collect();
    many["model"] = json!({"type": "Unigram", "vocab": pieces});
    let error = open_tokenizer(&many, &[]).err().unwrap().to_string();
    assert!(error.contains("its tokens have 5000000 bytes, at most 4194304 are read"), "{error}");
    let deep = json!({"type": "Sequence"});
    let deep = (0..100).fold(deep, |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}));
    let mut tokenizer = tokenizer_json();
    tokenizer["pre_tokenizer"] = deep;
    assert!(open_tokenizer(&tokenizer, &[]).is_err());
    assert!(open_tokenizer(&tokenizer_json(), &[("tokenizer_config.json", "nonsense")]).is_err());
}

#[test]
fn a_regular_expression_that_backtracks_forever_ends() {
    let mut tokenizer = tokenizer_json();
    let split = json!({"type": "Split", "pattern": {"Regex": "(a+)+(?!a)c"}, "behavior": "Isolated", "invert": false});
    let byte_level = tokenizer["pre_tokenizer"].take();
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, byte_level]});
    let tokenizer = open_tokenizer(&tokenizer, &[]).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(tokenizer.encode(&"a".repeat(5000)).map(|ids| ids.len()).ok(), Some(5000));
    assert!(start.elapsed().as_secs() < 10);

    // tokenizers' own example, in a normaliser: linear here, as the engine is another.
    let mut tokenizer = tokenizer_json();
    tokenizer["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"});
    let tokenizer = open_tokenizer(&tokenizer, &[]).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(tokenizer.encode(&format!("{}!", "a".repeat(100_000))).map(|ids| ids.len()).ok(), Some(100_000));
    for text in ["^".repeat(1 << 20), "\u{fe0f}".repeat(1 << 18), "\u{fffd}".repeat(1 << 18)] {
        tokenizer.encode(&text).unwrap();
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
