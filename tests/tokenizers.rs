//! Tokenizers of every kind give the ids of the reference libraries, from tokenizer.json and from GGUF.
#![cfg(not(target_arch = "wasm32"))]

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use web_lora::io::{ByteSource, Checkpoint, FileSource, MemorySource, Tokenizer};

/// Texts, their ids, and the text of those ids.
#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

/// A text and its ids by llama.cpp's own test files.
#[derive(Deserialize)]
struct Vector {
    text: String,
    ids: Vec<u32>,
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = std::fs::read(path).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// The tokenizers of a folder: of its tokenizer.json and of its vocab.gguf, where there.
fn open(folder: &Path) -> Vec<(&'static str, Tokenizer)> {
    let mut found = Vec::new();
    if let Ok(json) = std::fs::read(folder.join("tokenizer.json")) {
        let weights = [&2u64.to_le_bytes()[..], b"{}"].concat();
        let settings = std::fs::read(folder.join("tokenizer_config.json")).unwrap_or_else(|_| b"{}".to_vec());
        let files = [
            ("config.json", b"{}".to_vec()),
            ("model.safetensors", weights),
            ("tokenizer.json", json),
            ("tokenizer_config.json", settings),
        ];
        let files = files.map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>);
        let model = pollster::block_on(Checkpoint::open(&files)).unwrap();
        found.push(("tokenizer.json", model.tokenizer().unwrap()));
    }
    if let Ok(file) = FileSource::open(folder.join("vocab.gguf")) {
        let file: Rc<dyn ByteSource> = Rc::new(file);
        found.push(("vocab.gguf", pollster::block_on(Tokenizer::from_gguf(&file)).unwrap()));
    }
    found
}

/// Holds the tokenizers of a folder to what is expected of them; how many texts that were.
fn check(folder: &Path) -> usize {
    let expected: Option<Expected> = read(&folder.join("expected.json"));
    let vectors: Vec<Vector> = read(&folder.join("vectors.json")).unwrap_or_default();
    let mut wrong = Vec::new();
    for (file, tokenizer) in open(folder) {
        for Vector { text, ids } in &vectors {
            let got = tokenizer.encode(text).unwrap();
            if got != *ids {
                wrong.push(format!("{file}, vector {text:?}: {got:?} where {ids:?}"));
            }
        }
        let Some(expected) = &expected else { continue };
        for ((text, ids), decoded) in expected.texts.iter().zip(&expected.ids).zip(&expected.decoded) {
            let got = tokenizer.encode(text).unwrap();
            if got != *ids {
                wrong.push(format!("{file}, {text:?}: {got:?} where {ids:?}"));
            }
            let back = tokenizer.decode(ids, false).unwrap();
            if back != *decoded {
                wrong.push(format!("{file}, {ids:?}: {back:?} where {decoded:?}"));
            }
            let with_offsets = tokenizer.encode_with_offsets(text).unwrap();
            assert!(with_offsets.iter().all(|(_, bytes)| text.get(bytes.clone()).is_some()), "{file}, {text:?}");
            assert!(with_offsets.iter().map(|(id, _)| id).eq(&got), "{file}, {text:?}");
        }
    }
    let shown: Vec<String> = wrong.iter().take(8).map(|line| line.chars().take(400).collect()).collect();
    assert!(wrong.is_empty(), "{}: {} differ:\n{}", folder.display(), wrong.len(), shown.join("\n"));
    expected.map_or(0, |expected| expected.texts.len()) + vectors.len()
}

#[test]
fn small_vocabularies_give_the_references_ids() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/small");
    let kinds: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kinds.len(), 9);
    for kind in &kinds {
        assert!(check(kind) > 80);
    }
}

/// Long texts that nothing cuts, and tokens in any order, take no quadratic time.
#[test]
fn long_texts_take_their_time_and_no_more() {
    for kind in ["llama-2", "gemma", "unigram", "tekken"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/small").join(kind);
        for (file, tokenizer) in open(&folder) {
            let start = std::time::Instant::now();
            for unit in ["a", " ", "\n", "the ", "é", "中"] {
                let text = unit.repeat((1 << 19) / unit.len());
                let ids = tokenizer.encode(&text).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap().trim(), text.trim(), "{kind}, {file}");
            }
            assert!(start.elapsed().as_secs() < 60, "{kind}, {file}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn ends_and_beginnings_are_those_of_the_kind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/small");
    let from_gguf = |kind: &str| open(&folder.join(kind)).pop().unwrap().1;
    let names = |tokenizer: &Tokenizer| -> Vec<String> {
        tokenizer.end_of_turn().iter().map(|&id| tokenizer.token(id).unwrap()).collect()
    };
    let llama = from_gguf("llama-2");
    assert_eq!((llama.bos(), llama.eos(), llama.add_bos), (Some(1), Some(2), true));
    assert_eq!(names(&llama), ["</s>"]);
    let gemma = from_gguf("gemma");
    // A `</s>` that is HTML's ends nothing.
    assert_eq!(names(&gemma), ["<bos>", "<end_of_turn>"]);
    assert!(gemma.token_id("</s>").is_some());
    assert!(from_gguf("llama-3").add_bos && from_gguf("tekken").add_bos && !from_gguf("qwen2").add_bos);

    let mut stream = llama.decode_stream(false);
    let ids = llama.encode(" two  spaces 🙂!").unwrap();
    let text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(text + &stream.finish().unwrap(), " two  spaces 🙂!");
}

/// The real vocabularies, in the folder named by `TOKENIZERS_DIR`.
#[test]
#[ignore = "needs real vocabularies: make test-tokenizers fetches them"]
fn real_vocabularies_give_the_references_ids() {
    let folder = std::env::var("TOKENIZERS_DIR").expect("TOKENIZERS_DIR must name what make test-tokenizers fetches");
    let mut families: Vec<PathBuf> = std::fs::read_dir(Path::new(&folder).join("parity"))
        .expect("the folder opens")
        .map(|entry| entry.unwrap().path())
        .collect();
    families.sort();
    let mut failed = Vec::new();
    for family in &families {
        let start = std::time::Instant::now();
        match std::panic::catch_unwind(|| check(family)) {
            Ok(texts) => println!("{}: {texts} texts, {:.1?}", family.display(), start.elapsed()),
            Err(_) => failed.push(family),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(families.len(), 10);
}

/// The tokens that begin and end a text, by the files themselves.
#[test]
#[ignore = "needs real vocabularies: make test-tokenizers fetches them"]
fn real_vocabularies_begin_and_end_texts_with_their_own_tokens() {
    let folder = std::env::var("TOKENIZERS_DIR").expect("TOKENIZERS_DIR must name what make test-tokenizers fetches");
    let cases = [
        ("llama-3", "tokenizer.json", Some("<|begin_of_text|>"), "<|eot_id|>", true),
        ("llama-3", "vocab.gguf", Some("<|begin_of_text|>"), "<|end_of_text|>", true),
        ("qwen", "tokenizer.json", None, "<|im_end|>", false),
        ("qwen", "vocab.gguf", Some("<|endoftext|>"), "<|endoftext|>", false),
        ("gemma", "tokenizer.json", Some("<bos>"), "<end_of_turn>", true),
        ("gemma", "vocab.gguf", Some("<bos>"), "<eos>", true),
        ("mistral", "tokenizer.json", Some("<s>"), "</s>", true),
        ("mistral", "vocab.gguf", Some("<s>"), "</s>", true),
        ("phi-3", "vocab.gguf", Some("<s>"), "<|endoftext|>", true),
        ("gpt-2", "vocab.gguf", Some("<|endoftext|>"), "<|endoftext|>", false),
    ];
    for (family, file, bos, eos, add_bos) in cases {
        let tokenizers = open(&Path::new(&folder).join("parity").join(family));
        let (_, tokenizer) = tokenizers.iter().find(|(name, _)| *name == file).unwrap();
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        assert_eq!(name(tokenizer.bos()).as_deref(), bos, "{family}, {file}");
        assert_eq!(name(tokenizer.eos()).as_deref(), Some(eos), "{family}, {file}");
        assert_eq!(tokenizer.add_bos, add_bos, "{family}, {file}");
        let ends: Vec<&str> = match family {
            "llama-3" => vec!["<|end_of_text|>", "<|eot_id|>"],
            "qwen" => vec!["<|endoftext|>", "<|im_end|>"],
            "gemma" => vec!["<end_of_turn>"],
            "phi-3" => vec!["<|endoftext|>", "<|end|>"],
            _ => vec![eos],
        };
        for end in ends {
            let id = tokenizer.token_id(end).unwrap();
            assert!(tokenizer.end_of_turn().contains(&id), "{family}, {file}: {end}");
        }
    }
}
