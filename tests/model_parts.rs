//! Models in several files: read whatever the order of the files, and refused by name where they do not make one model.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use crate::writer::{Writer, small_model, split};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use web_lora::Result;
use web_lora::io::{ByteSource, Checkpoint, MemorySource};

type Files = Vec<(String, Vec<u8>)>;

fn open(files: &Files) -> Result<Checkpoint> {
    let sources: Vec<Rc<dyn ByteSource>> = files
        .iter()
        .map(|(name, bytes)| Rc::new(MemorySource::new(format!("models/{name}"), bytes.clone())) as Rc<dyn ByteSource>)
        .collect();
    pollster::block_on(Checkpoint::open(&sources))
}

/// Config and every tensor's bytes.
fn contents(model: &Checkpoint) -> (String, Vec<(String, Vec<u8>)>) {
    let rows = |tensor| pollster::block_on(model.read_rows(tensor, 0..tensor.rows())).unwrap();
    let tensors = model.tensors().map(|tensor| (tensor.name.clone(), rows(tensor))).collect();
    (serde_json::to_string(model.config()).unwrap(), tensors)
}

/// The small model in three parts, after `change`.
fn parts(change: fn(&mut [Writer])) -> Files {
    let mut parts = split(small_model(), 3);
    change(&mut parts);
    let name = |at: usize| format!("small-{:05}-of-00003.gguf", at + 1);
    parts.iter().enumerate().map(|(at, part)| (name(at), part.bytes())).collect()
}

#[test]
fn parts_of_a_gguf_are_one_model() {
    let whole = open(&vec![("small.gguf".to_owned(), small_model().bytes())]).unwrap();
    // As `gguf-split --no-tensor-first-split` writes them, too.
    let no_tensors_first: fn(&mut [Writer]) = |parts| {
        let moved = std::mem::take(&mut parts[0].tensors);
        parts[1].tensors.extend(moved);
    };
    for change in [|_: &mut [Writer]| (), no_tensors_first] {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let files = parts(change);
            let model = open(&order.map(|at| files[at].clone()).into()).unwrap();
            assert_eq!((model.name(), model.config_file()), ("small", "models/small-00001-of-00003.gguf"));
            assert_eq!(contents(&model), contents(&whole));
            let encoded = |model: &Checkpoint| model.tokenizer().unwrap().encode("the theft").unwrap();
            assert_eq!(encoded(&model), encoded(&whole));
        }
    }
    let renamed = parts(|_| ()).into_iter().zip(["c.gguf", "a.gguf", "b.gguf"]);
    let renamed = renamed.map(|((_, bytes), name)| (name.to_owned(), bytes)).collect();
    assert_eq!(contents(&open(&renamed).unwrap()), contents(&whole));
}

#[test]
fn parts_that_are_no_model_are_refused_by_name() {
    fn set(part: &mut Writer, key: &str, number: u16) {
        part.set(key, 2, number.to_le_bytes().into());
    }
    type Case = (fn(&mut [Writer]), fn(&mut Files), &'static str);
    let cases: &[Case] = &[
        (
            |_| (),
            |f| drop(f.remove(0)),
            "models/small-00001-of-00003.gguf: is missing: small-00002-of-00003.gguf is part 2 of 3",
        ),
        (|_| (), |f| drop(f.remove(1)), "models/small-00002-of-00003.gguf: is missing: small-00001"),
        (|_| (), |f| drop(f.remove(2)), "models/small-00003-of-00003.gguf: is missing: small-00001"),
        (|_| (), |f| f.truncate(1), "models/small-00002-of-00003.gguf: is missing"),
        (
            |_| (),
            |f| {
                f.truncate(1);
                f[0].0 = "a.gguf".into()
            },
            "models/a.gguf: part 2 is missing: a.gguf is part 1 of 3",
        ),
        (
            |_| (),
            |f| f.push(("again.gguf".into(), f[1].1.clone())),
            "models/again.gguf: is part 2 of 3, as models/small-00002",
        ),
        (
            |p| set(&mut p[2], "split.no", 1),
            |_| (),
            "models/small-00003-of-00003.gguf: is part 2 of 3, as models/small-00002",
        ),
        (
            |p| set(&mut p[2], "split.no", 3),
            |_| (),
            "models/small-00003-of-00003.gguf: metadata 'split.no' is 3 of 3 parts",
        ),
        (
            |p| set(&mut p[2], "split.count", 4),
            |_| (),
            "models/small-00003-of-00003.gguf: is a second model beside models/small-00001",
        ),
        (|p| p[1].entries.clear(), |_| (), "models/small-00002-of-00003.gguf: is a second model beside"),
        (|_| (), |f| f.push(("b.gguf".into(), small_model().bytes())), "models/b.gguf: is a second model beside"),
        (
            |_| (),
            |f| *f = ["a", "b"].map(|n| (format!("{n}.GGUF"), small_model().bytes())).into(),
            "models/b.GGUF: is a second model beside models/a.GGUF: choose one .gguf file, or all parts of one",
        ),
        (
            |p| p[0].set("split.tensors.count", 5, 12i32.to_le_bytes().into()),
            |_| (),
            "have 11 tensors, metadata 'split.tensors.count' is 12",
        ),
        (
            |p| {
                let twice = p[0].tensors[0].clone();
                p[2].tensors.push(twice)
            },
            |_| (),
            "models/small-00003-of-00003.gguf: tensor 'token_embd.weight' is there already in models/small-00001",
        ),
        (|p| p[1].cut = 1, |_| (), "models/small-00002-of-00003.gguf: tensor "),
        (|p| p[1].magic = *b"GGML", |_| (), "models/small-00002-of-00003.gguf: it does not begin with 'GGUF'"),
    ];
    for (change, after, words) in cases {
        let mut files = parts(*change);
        after(&mut files);
        let error = open(&files).err().unwrap_or_else(|| panic!("{words}: it was read")).to_string();
        assert!(error.contains(words), "{error}\n{words}");
    }
}

/// A shard of the golden model with the tensors that `belongs` says.
fn shard(belongs: impl Fn(usize) -> bool) -> Vec<u8> {
    let whole = SafeTensors::deserialize(include_bytes!("fixtures/golden/llama-gqa-tied/model.safetensors")).unwrap();
    let mut tensors: Vec<(String, TensorView)> = whole.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let chosen = tensors.into_iter().enumerate().filter(|(at, _)| belongs(*at)).map(|(_, tensor)| tensor);
    safetensors::serialize(chosen, None).unwrap()
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// The golden model in two shards, tensors by turns, with their index.
fn shards() -> Files {
    let even = shard(|at| at % 2 == 0);
    let odd = shard(|at| at % 2 == 1);
    let mut map = serde_json::Map::new();
    for (file, bytes) in SHARDS.iter().zip([&even, &odd]) {
        for name in SafeTensors::deserialize(bytes).unwrap().names() {
            map.insert(name.to_owned(), (*file).into());
        }
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    vec![
        ("config.json".into(), include_bytes!("fixtures/golden/llama-gqa-tied/config.json").to_vec()),
        (SHARDS[0].into(), even),
        (SHARDS[1].into(), odd),
        ("model.safetensors.index.json".into(), serde_json::to_vec(&index).unwrap()),
    ]
}

#[test]
fn shards_of_a_folder_are_one_model() {
    let whole = open(&vec![shards()[0].clone(), ("model.safetensors".into(), shard(|_| true))]).unwrap();
    let files = shards();
    for order in [vec![0, 1, 2, 3], vec![3, 2, 1, 0], vec![2, 0, 1]] {
        let model = open(&order.iter().map(|&at| files[at].clone()).collect()).unwrap();
        assert_eq!(contents(&model), contents(&whole), "{order:?}");
    }
    // The whole comes before the parts, as in transformers.
    let both = [files, vec![("model.safetensors".into(), shard(|at| at == 0))]].concat();
    assert_eq!(open(&both).unwrap().tensors().count(), 1);
}

#[test]
fn shards_that_are_no_model_are_refused_by_name() {
    let without = |at: usize| {
        let mut files = shards();
        files.remove(at);
        files
    };
    let with_index = |text: &str| {
        let mut files = shards();
        files[3].1 = text.into();
        files
    };
    let with_shard = |at: usize, bytes: Vec<u8>| {
        let mut files = shards();
        files[at].1 = bytes;
        files
    };
    let one = |file: &str| format!(r#"{{"weight_map": {{"model.norm.weight": "{file}"}}}}"#);
    let twice = [shards(), vec![(format!("a/{}", SHARDS[0]), shards()[1].1.clone())]].concat();
    let mut bare = without(3);
    bare.truncate(2);
    let cases = [
        (without(1), "model-00001-of-00002.safetensors: is missing: models/model.safetensors.index.json goes with it"),
        (without(2), "model-00002-of-00002.safetensors: is missing: models/model.safetensors.index.json goes with it"),
        (bare, "model-00002-of-00002.safetensors: is missing: models/model-00001-of-00002.safetensors goes with it"),
        (twice, "models/a/model-00001-of-00002.safetensors: is there twice"),
        (with_index("{"), "models/model.safetensors.index.json: EOF"),
        (with_index("{}"), "models/model.safetensors.index.json: missing field `weight_map`"),
        (with_index(r#"{"weight_map": {"a": 1}}"#), "models/model.safetensors.index.json: invalid type"),
        (with_index(&one("../../model.safetensors")), "../../model.safetensors: is missing"),
        (with_index(&one("")), ": is missing: models/model.safetensors.index.json"),
        (
            with_shard(2, shard(|at| at % 2 == 1 && at > 1)),
            "model-00002-of-00002.safetensors: the tensor 'model.layers.0.input_layernorm.weight' is missing, which",
        ),
        (
            with_shard(2, shard(|at| at < 2)),
            "models/model-00002-of-00002.safetensors: tensor 'model.embed_tokens.weight' is there already in",
        ),
        (with_shard(1, vec![]), "models/model-00001-of-00002.safetensors: 0 bytes are too few"),
    ];
    for (files, words) in cases {
        let error = open(&files).err().unwrap_or_else(|| panic!("{words}: it was read")).to_string();
        assert!(error.contains(words), "{error}\n{words}");
    }
    let model = open(&with_index(r#"{"weight_map": {}}"#)).unwrap();
    let missing = model.tensor("model.norm.weight").unwrap_err().to_string();
    assert_eq!(missing, "models/model.safetensors.index.json: the tensor 'model.norm.weight' is missing");
}
