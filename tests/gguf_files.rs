//! GGUF files: a small sound one is read as it should be, and every kind of broken one is refused with its place.
//! The table of broken files follows llama.cpp's `tests/test-gguf.cpp` and its published advisories.
#![cfg(not(target_arch = "wasm32"))]

use std::cell::Cell;
use std::rc::Rc;

use crate::fuzz::memory;
use crate::writer::{Item, Writer, small_model, text};
use safetensors::SafeTensors;
use web_lora::io::{ByteSource, Checkpoint, DType, LocalBoxFuture, MemorySource, dequantize};
use web_lora::{Error, Result};

fn open(bytes: Vec<u8>) -> Result<Checkpoint> {
    pollster::block_on(Checkpoint::open(
        &[Rc::new(MemorySource::new("models/small.gguf", bytes)) as Rc<dyn ByteSource>],
    ))
}

#[test]
fn a_small_model_is_read() {
    for version in [2, 3] {
        let model = open(Writer { version, ..small_model() }.bytes()).unwrap();
        assert_eq!((model.name(), model.config_file()), ("small", "models/small.gguf"));
        let config = model.config();
        assert_eq!(config["model_type"], "llama");
        assert_eq!((config["head_dim"].as_u64(), config["vocab_size"].as_u64()), (Some(16), Some(264)));
        assert_eq!(config["rms_norm_eps"].as_f64(), Some(1e-6));
        assert_eq!(config["tie_word_embeddings"], true);

        let down = model.tensor("model.layers.0.mlp.down_proj.weight").unwrap();
        assert_eq!((down.shape.as_slice(), down.dtype.to_string().as_str()), ([32, 64].as_slice(), "Q8_0"));
        assert_eq!((down.rows(), down.cols(), down.row_bytes(), down.size_bytes()), (32, 64, 68, 32 * 68));
        let two = pollster::block_on(model.read_rows(down, 3..5)).unwrap();
        let all = pollster::block_on(model.read_rows(down, 0..32)).unwrap();
        assert_eq!(two, all[3 * 68..5 * 68]);
        let values = pollster::block_on(model.read_f32(&down.name)).unwrap();
        assert_eq!(values, dequantize(down.dtype, &all));

        for rows in [30..33, 33..33, usize::MAX - 1..usize::MAX] {
            assert!(pollster::block_on(model.read_rows(down, rows)).is_err());
        }
        let missing = model.tensor("lm_head.weight").unwrap_err().to_string();
        assert_eq!(missing, "models/small.gguf: the tensor 'lm_head.weight' is missing");
    }
}

/// Every type under its number in `enum ggml_type` of `ggml.h`: blocks of each come out of a file with their values.
#[test]
fn every_type_is_read() {
    let fixture = SafeTensors::deserialize(include_bytes!("fixtures/quants/quants.safetensors")).unwrap();
    let kinds = [0, 1, 30, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23];
    let mut writer = small_model();
    for (dtype, kind) in DType::ALL.into_iter().zip(kinds) {
        let blocks = fixture.tensor(&format!("{dtype}.blocks")).unwrap();
        let dims = [dtype.block_len() as u64, blocks.shape()[0] as u64];
        writer.tensors.push(Item::new(&dtype.to_string(), &dims, kind, blocks.data().to_vec()));
    }
    let model = open(writer.bytes()).unwrap();
    for dtype in DType::ALL {
        let tensor = model.tensor(&dtype.to_string()).unwrap();
        assert_eq!((tensor.dtype, tensor.shape.as_slice()), (dtype, [64, dtype.block_len()].as_slice()));
        let values: Vec<u8> = pollster::block_on(model.read_f32(&tensor.name))
            .unwrap()
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(values, fixture.tensor(&format!("{dtype}.values")).unwrap().data(), "{dtype}");
    }
}

/// The small model's q holds its own Hugging Face row number in every element of a row, permuted as the converter
/// does: `w.reshape(heads, 2, head_dim / 2, in).swapaxes(1, 2)`.
#[test]
fn rows_of_q_and_k_come_in_hugging_face_order() {
    let model = open(small_model().bytes()).unwrap();
    for (name, rows) in [("q_proj", 32), ("k_proj", 16)] {
        let tensor = model.tensor(&format!("model.layers.0.self_attn.{name}.weight")).unwrap();
        assert_eq!(model.row_group(tensor), 16);
        let values = pollster::block_on(model.read_f32(&tensor.name)).unwrap();
        let first: Vec<f32> = values.chunks(32).map(|row| row[0]).collect();
        assert_eq!(first, (0..rows).map(|row| row as f32).collect::<Vec<_>>());
        assert!(pollster::block_on(model.read_rows(tensor, 8..16)).is_err());
        assert!(pollster::block_on(model.read_rows(tensor, 0..8)).is_err());
    }
    let v = model.tensor("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(model.row_group(v), 1);
}

#[test]
fn llama3_scaling_is_found_in_its_factors() {
    let factor_of = |i: usize, factor: f64, length: f64| {
        let wavelength = std::f64::consts::TAU * 500_000f64.powf(i as f64 / 32.0);
        let s = ((length / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        (1.0 / ((1.0 - s) / factor + s)) as f32
    };
    for (factor, length) in [(32.0, 8192.0), (8.0, 8192.0), (4.0, 2048.0)] {
        let mut writer = small_model();
        writer.set("llama.rope.freq_base", 6, 500_000f32.to_le_bytes().into());
        let factors: Vec<u8> = (0..32).flat_map(|i| factor_of(i, factor, length).to_le_bytes()).collect();
        writer.tensors.push(Item::new("rope_freqs.weight", &[32], 0, factors));
        let rope = open(writer.bytes()).unwrap().config()["rope_parameters"].clone();
        let expected = serde_json::json!({
            "rope_theta": 500000.0, "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": length as u64
        });
        assert_eq!(rope, expected);
    }
    let mut writer = small_model();
    writer.tensors.push(Item::new("rope_freqs.weight", &[4], 0, [1f32, 3.0, 2.0, 7.0].map(f32::to_le_bytes).concat()));
    assert!(matches!(open(writer.bytes()), Err(Error::Unsupported { field, .. }) if field == "rope_freqs.weight"));
}

#[test]
fn every_cut_is_noticed() {
    let whole = small_model().bytes();
    for part in 0..200 {
        let error = open(whole[..whole.len() * part / 200].to_vec()).err().expect("a cut file is refused");
        assert!(matches!(&error, Error::BadFile { file, .. } if file == "models/small.gguf"), "{error}");
    }
    // Every byte of the fixed part and the first entries.
    for length in 0..600 {
        assert!(open(whole[..length].to_vec()).is_err());
    }
}

/// A change to the small model, and words of the error that it must give.
type Case = (&'static str, fn(&mut Writer), &'static str);

const BROKEN: &[Case] = &[
    ("magic", |w| w.magic = *b"GGML", "does not begin with 'GGUF'"),
    ("html", |w| w.magic = *b"<htm", "another kind of file"),
    ("version 0", |w| w.version = 0, "GGUF version 0 is not supported"),
    ("version 1", |w| w.version = 1, "GGUF version 1 is not supported"),
    ("version 4", |w| w.version = 4, "GGUF version 4 is not supported"),
    ("big-endian", |w| w.version = 3 << 24, "big-endian"),
    ("n_tensors -1", |w| w.n_tensors = Some(u64::MAX), "the number of tensors at byte 8"),
    ("n_tensors large", |w| w.n_tensors = Some(1 << 31), "the number of tensors"),
    ("n_kv -1", |w| w.n_entries = Some(u64::MAX), "the number of metadata entries at byte 16"),
    ("n_kv one more", |w| w.n_entries = Some(w.entries.len() as u64 + 1), "small.gguf: "),
    ("n_tensors one more", |w| w.n_tensors = Some(w.tensors.len() as u64 + 1), "small.gguf: "),
    ("empty key", |w| w.set("", 4, vec![0; 4]), "is empty"),
    ("key of 2^64 bytes", |w| w.raw = Some(u64::MAX.to_le_bytes().to_vec()), "a metadata key"),
    ("key of 2^63 bytes", |w| w.raw = Some((1u64 << 63).to_le_bytes().to_vec()), "a metadata key"),
    ("key not UTF-8", |w| w.raw = Some([1, 0, 0, 0, 0, 0, 0, 0, 0xff].to_vec()), "is not UTF-8"),
    ("duplicate key", |w| w.entries.push(w.entries[0].clone()), "'general.architecture' is there twice"),
    ("unknown type", |w| w.set("a", 13, vec![0; 8]), "'a' has the unknown type 13"),
    ("type -1", |w| w.set("a", u32::MAX, vec![0; 8]), "unknown type 4294967295"),
    ("bool of 2", |w| w.set("a", 7, vec![2]), "truth value of 2"),
    ("string of 2^64", |w| w.set("a", 8, u64::MAX.to_le_bytes().into()), "metadata 'a'"),
    ("array of 2^64 u8", |w| w.set("a", 9, list(0, u64::MAX)), "metadata 'a'"),
    ("array of 2^61 u64", |w| w.set("a", 9, list(10, 1 << 61)), "metadata 'a'"),
    ("array of 2^61 strings", |w| w.set("a", 9, list(8, 1 << 61)), "metadata 'a'"),
    ("array of arrays", |w| w.set("a", 9, list(9, 1)), "list of lists"),
    ("array of unknown", |w| w.set("a", 9, list(99, 0)), "unknown type 99"),
    ("alignment 13", |w| w.set("general.alignment", 4, 13u32.to_le_bytes().into()), "is 13, no power of two"),
    ("alignment 0", |w| w.set("general.alignment", 4, 0u32.to_le_bytes().into()), "is 0, no power of two"),
    ("alignment 2^31", |w| w.set("general.alignment", 4, (1u32 << 31).to_le_bytes().into()), "no power of two up to"),
    (
        "alignment i32",
        |w| w.set("general.alignment", 5, (-32i32).to_le_bytes().into()),
        "'general.alignment' is not a u32",
    ),
    ("alignment text", |w| w.set("general.alignment", 8, text("32")), "'general.alignment' is not a u32"),
    ("tensor name of 64", |w| w.tensors[0].name = "x".repeat(64), "has 64 bytes, at most 63"),
    ("no dimensions", |w| w.tensors[0].dims.clear(), "has 0 dimensions"),
    ("five dimensions", |w| w.tensors[0].dims = vec![1; 5], "has 5 dimensions"),
    ("zero dimension", |w| w.tensors[1].dims = vec![32, 0], "cannot be"),
    ("dimension -1", |w| w.tensors[1].dims = vec![u64::MAX; 2], "cannot be"),
    ("product wraps", |w| w.tensors[1].dims = vec![1 << 33, 1 << 31], "cannot be"),
    ("product wraps to 0", |w| w.tensors[1].dims = vec![1 << 32, 1 << 32], "cannot be"),
    ("row no whole blocks", |w| w.tensors[0].dims[0] = 31, "cannot be Q8_0"),
    ("size beyond the file", |w| w.tensors[1].dims = vec![1 << 40], "lies past its end"),
    ("type withdrawn", |w| w.tensors[0].kind = 4, "has the unknown type 4"),
    ("type -1", |w| w.tensors[0].kind = u32::MAX, "unknown type 4294967295"),
    ("type IQ2_XS", |w| w.tensors[0].kind = 17, "tensor type IQ2_XS is not supported: tensor 'token_embd.weight'"),
    ("type IQ3_S", |w| w.tensors[0].kind = 21, "choose the model in one of these, or convert it with llama-quantize"),
    ("type NVFP4", |w| w.tensors[0].kind = 40, "tensor type NVFP4 is not supported"),
    ("type I32", |w| w.tensors[0].kind = 26, "tensor type I32 is not supported"),
    ("offset unaligned", |w| w.tensors[1].offset = Some(33), "begins at 33, no multiple of 32"),
    ("offset at the end", |w| w.tensors[1].offset = Some(1 << 40), "lies past its end"),
    ("offset wraps", |w| w.tensors[1].offset = Some(u64::MAX - 31), "lies past its end"),
    (
        "two huge tensors",
        |w| {
            for tensor in &mut w.tensors[1..3] {
                *tensor = Item { dims: vec![0x7fff_ffff_ffff_ffc0 / 4], kind: 0, ..tensor.clone() };
            }
        },
        "lies past its end",
    ),
    ("overlap", |w| w.tensors[1].offset = Some(0), "overlap"),
    ("duplicate tensor", |w| w.tensors[2].name = w.tensors[1].name.clone(), "is there twice"),
    ("data missing", |w| w.cut = 1, "lies past its end"),
    (
        "no architecture",
        |w| w.entries.retain(|(key, ..)| key != "general.architecture"),
        "'general.architecture' is missing",
    ),
    ("architecture a number", |w| w.set("general.architecture", 4, vec![0; 4]), "'general.architecture' is not a text"),
    ("no layers", |w| w.entries.retain(|(key, ..)| key != "llama.block_count"), "'llama.block_count' is missing"),
    ("layers a text", |w| w.set("llama.block_count", 8, text("1")), "'llama.block_count' is not a whole number"),
    ("layers negative", |w| w.set("llama.block_count", 5, (-1i32).to_le_bytes().into()), "is -1, out of range"),
    ("no heads", |w| w.set("llama.attention.head_count", 4, vec![0; 4]), "'llama.attention.head_count' is 0"),
    ("5 heads", |w| w.set("llama.attention.head_count", 4, 5u32.to_le_bytes().into()), "cannot have 5 heads"),
    ("32 heads", |w| w.set("llama.attention.head_count", 4, 32u32.to_le_bytes().into()), "cannot have 32 heads"),
    ("0 kv heads", |w| w.set("llama.attention.head_count_kv", 4, vec![0; 4]), "cannot have 0 heads"),
    ("kv heads by layer", |w| w.set("llama.attention.head_count_kv", 9, list(4, 0)), "is not a whole number"),
    ("rope base NaN", |w| w.set("llama.rope.freq_base", 6, f32::NAN.to_le_bytes().into()), "is not a finite number"),
    (
        "eps infinite",
        |w| w.set("llama.attention.layer_norm_rms_epsilon", 6, f32::INFINITY.to_le_bytes().into()),
        "is not a finite",
    ),
    (
        "part of a head rotated",
        |w| w.set("llama.rope.dimension_count", 4, 8u32.to_le_bytes().into()),
        "llama.rope.dimension_count is not supported: it is 8 where a head has 16",
    ),
    (
        "bias of q",
        |w| w.tensors.push(Item::new("blk.0.attn_q.bias", &[32], 0, vec![0; 128])),
        "the tensor 'blk.0.attn_q.bias' is not supported",
    ),
    (
        "clamped attention",
        |w| w.set("llama.attention.clamp_kqv", 6, 8f32.to_le_bytes().into()),
        "llama.attention.clamp_kqv is not supported",
    ),
    ("split", |w| w.set("split.count", 2, vec![3, 0]), "part 2 is missing: small.gguf is part 1 of 3"),
    ("split.no beyond", |w| w.set("split.no", 2, vec![1, 0]), "'split.no' is 1 of 1 parts"),
    ("split.count a text", |w| w.set("split.count", 8, text("3")), "'split.count' is not a whole number"),
    ("split.count 2^32 - 1", |w| w.set("split.count", 4, vec![0xff; 4]), "part 2 is missing"),
    (
        "nothing in it",
        |w| {
            w.entries.clear();
            w.tensors.clear();
        },
        "'general.architecture' is missing",
    ),
    ("alignment of others", |w| w.set("general.alignment", 4, 64u32.to_le_bytes().into()), "no multiple of 64"),
    (
        "alignment 1 << 20",
        |w| w.set("general.alignment", 4, (1u32 << 20).to_le_bytes().into()),
        "no multiple of 1048576",
    ),
    ("alignment a list", |w| w.set("general.alignment", 9, list(4, 0)), "'general.alignment' is not a u32"),
    ("tensor name of 2^64", |w| w.tensors[0].name = "\0".repeat(70_000), "at most 63 are allowed"),
    ("no type", |w| w.set("a", 9, vec![]), "small.gguf: "),
    (
        "many entries",
        |w| (0..66_000).for_each(|i| w.entries.push((format!("k{i}"), 7, vec![1]))),
        "metadata entries, at most 65536 are read",
    ),
    (
        "many tensors",
        |w| (0..66_000).for_each(|i| w.tensors.push(Item::new(&format!("t{i}"), &[1], 0, vec![0; 4]))),
        "tensors, at most 65536 are read",
    ),
    (
        "many texts",
        |w| w.set("a", 9, [list(8, 3 << 20), vec![0; 24 << 20]].concat()),
        "where all lists may have 2097152",
    ),
    (
        "many bytes",
        |w| w.set("a", 9, [list(0, 3 << 20), vec![0; 3 << 20]].concat()),
        "where all lists may have 2097152",
    ),
    (
        "many lists",
        |w| (0..40).for_each(|i| w.set(&format!("a{i}"), 9, [list(7, 60_000), vec![0; 60_000]].concat())),
        "where all lists may have 2097152",
    ),
    (
        "a long header",
        |w| w.set("a", 8, [(40u64 << 20).to_le_bytes().to_vec(), vec![b' '; 40 << 20]].concat()),
        "its header is longer than 33554432 bytes",
    ),
];

/// The beginning of a list that claims `len` items.
fn list(kind: u32, len: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat()
}

#[test]
fn broken_files_are_refused_with_their_place() {
    for (name, change, words) in BROKEN {
        let mut writer = small_model();
        change(&mut writer);
        let bytes = writer.bytes();
        let error = memory::within(name, bytes.len(), || open(bytes).err());
        let error = error.unwrap_or_else(|| panic!("{name}: it was read"));
        assert!(error.to_string().starts_with("models/small.gguf: "), "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

/// A SentencePiece vocabulary in place of the small model's, all with the score 0.
fn scored(w: &mut Writer, tokens: impl Iterator<Item = String>) {
    let tokens: Vec<String> = tokens.collect();
    w.set("tokenizer.ggml.model", 8, text("llama"));
    let len = tokens.len() as u64;
    w.set("tokenizer.ggml.tokens", 9, [list(8, len), tokens.iter().flat_map(|token| text(token)).collect()].concat());
    w.set("tokenizer.ggml.scores", 9, [list(6, len), vec![0; 4 * tokens.len()]].concat());
    w.entries.retain(|(key, ..)| key != "tokenizer.ggml.merges" && key != "tokenizer.ggml.token_type");
}

const BROKEN_TOKENIZERS: &[Case] = &[
    (
        "no tokens",
        |w| w.entries.retain(|(key, ..)| key != "tokenizer.ggml.tokens"),
        "'tokenizer.ggml.tokens' is missing",
    ),
    (
        "word pieces",
        |w| w.set("tokenizer.ggml.model", 8, text("bert")),
        "tokenizer.ggml.model is not supported: it is 'bert'; byte-level BPE ('gpt2')",
    ),
    (
        "no scores",
        |w| {
            w.set("tokenizer.ggml.model", 8, text("llama"));
            w.entries.retain(|(key, ..)| key != "tokenizer.ggml.merges");
        },
        "'tokenizer.ggml.scores' is missing",
    ),
    (
        "too few scores",
        |w| {
            w.set("tokenizer.ggml.model", 8, text("llama"));
            w.set("tokenizer.ggml.scores", 9, [list(6, 1), vec![0; 4]].concat());
            w.entries.retain(|(key, ..)| key != "tokenizer.ggml.merges");
        },
        "264 tokens and 1 scores",
    ),
    ("a long piece", |w| scored(w, (1..400).map(|i| "x".repeat(i))), "has 257 bytes, at most 256 are read"),
    (
        "pieces of pieces",
        |w| {
            scored(
                w,
                ('a'..='z').chain('\u{100}'..='\u{24f}').flat_map(|c| (1..=128).map(move |i| c.to_string().repeat(i))),
            )
        },
        "can be put together in more than",
    ),
    (
        "other cuts",
        |w| w.set("tokenizer.ggml.pre", 8, text("poro-chat")),
        "tokenizer.ggml.pre is not supported: it is 'poro-chat'",
    ),
    (
        "tokens of numbers",
        |w| w.set("tokenizer.ggml.tokens", 9, [list(0, 3), vec![1, 2, 3]].concat()),
        "is not a list of texts",
    ),
    ("types of floats", |w| w.set("tokenizer.ggml.token_type", 9, list(6, 0)), "is not a list of whole numbers"),
    (
        "too few types",
        |w| w.set("tokenizer.ggml.token_type", 9, [list(0, 3), vec![1, 2, 3]].concat()),
        "264 tokens and 3 token types",
    ),
    (
        "merge of one",
        |w| w.set("tokenizer.ggml.merges", 9, [list(8, 1), text("ab")].concat()),
        "merge 0 ('ab') is not two tokens",
    ),
    (
        "merge of unknown",
        |w| w.set("tokenizer.ggml.merges", 9, [list(8, 1), text("qqqqqqq zzzzzzzzzzzzz")].concat()),
        "makes no token",
    ),
    (
        "eos outside",
        |w| w.set("tokenizer.ggml.eos_token_id", 4, 264u32.to_le_bytes().into()),
        "is 264 where there are 264 tokens",
    ),
    ("eos -1", |w| w.set("tokenizer.ggml.eos_token_id", 5, (-1i32).to_le_bytes().into()), "out of range"),
];

#[test]
fn broken_tokenizers_are_refused_with_their_place() {
    for (name, change, words) in BROKEN_TOKENIZERS {
        let mut writer = small_model();
        change(&mut writer);
        let bytes = writer.bytes();
        let opened = memory::within(name, bytes.len(), || open(bytes).and_then(|model| model.tokenizer()));
        let error = opened.err().unwrap_or_else(|| panic!("{name}: it was read"));
        assert!(error.to_string().starts_with("models/small.gguf: "), "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

/// As many items as are read: what they take, whatever little they take in the file.
#[test]
fn the_longest_lists_are_read() {
    let n = (2u64 << 20) - 1000;
    let mut writer = small_model();
    writer.set("a", 9, [list(8, n), vec![0; 8 * n as usize]].concat());
    let bytes = writer.bytes();
    memory::within("empty texts", bytes.len(), || open(bytes).map(drop)).unwrap();
}

/// Tokens of type "byte" that name none: `<0x-1>` threw in llama.cpp.
#[test]
fn tokens_that_look_like_bytes_are_read() {
    let mut writer = small_model();
    let odd = ["<unk>", "<s>", "</s>", "<0x-1>", "<0xZZ>", "<0x", "<0x100>", "<0xé>", "<0x41>", "\u{2581}", "a"];
    scored(&mut writer, odd.iter().map(|token| token.to_string()));
    let kinds: Vec<u8> =
        odd.iter().flat_map(|token| if token.starts_with("<0x") { 6u32 } else { 1 }.to_le_bytes()).collect();
    writer.set("tokenizer.ggml.token_type", 9, [list(4, odd.len() as u64), kinds].concat());
    writer.entries.retain(|(key, ..)| key != "tokenizer.ggml.eos_token_id");
    let tokenizer = open(writer.bytes()).and_then(|model| model.tokenizer()).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("aAa").unwrap(), true).unwrap(), "aAa");
    for id in 0..odd.len() as u32 {
        tokenizer.decode(&[id, id], false).unwrap();
    }
}

#[test]
fn the_small_tokenizer_works() {
    let model = open(small_model().bytes()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    for text in ["the theft", "  é🙂 123", "<|im_start|>hi<|im_end|>\n", "", "\0\u{1}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), false).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("<|im_end|>").unwrap(), [tokenizer.token_id("<|im_end|>").unwrap()]);
    assert_eq!(tokenizer.encode("the").unwrap().len(), 1);
    // Long runs that no regular expression cuts: quadratic or recursive code would not come back.
    for text in ["^".repeat(1 << 20), "a".repeat(1 << 20), "\u{fe0f}".repeat(1 << 18)] {
        assert!(!tokenizer.encode(&text).unwrap().is_empty());
    }
    assert_eq!(tokenizer.decode(&[u32::MAX, 1 << 20], false).unwrap(), "");
}

/// A file that says it is a terabyte: what is fetched of it is counted.
struct HugeSource {
    head: Vec<u8>,
    fetched: Cell<usize>,
}

impl ByteSource for HugeSource {
    fn name(&self) -> &str {
        "huge.gguf"
    }

    fn size_bytes(&self) -> u64 {
        1 << 40
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        assert_eq!(offset, 0);
        self.fetched.set(self.fetched.get() + size);
        let mut bytes = self.head.clone();
        bytes.resize(size, 0);
        Box::pin(std::future::ready(Ok(bytes)))
    }
}

/// A connection that gives up half-way.
struct ShortSource(MemorySource);

impl ByteSource for ShortSource {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        self.0.read(offset, size / 2)
    }
}

#[test]
fn a_source_that_gives_too_little_is_an_error() {
    for name in ["a.gguf", "config.json"] {
        let source: Rc<dyn ByteSource> = Rc::new(ShortSource(MemorySource::new(name, small_model().bytes())));
        let error = pollster::block_on(Checkpoint::open(&[source])).err().unwrap().to_string();
        assert!(error.contains("bytes came where"), "{error}");
    }
}

#[test]
fn claims_of_a_huge_file_cost_little() {
    type Claim = (fn(&mut Writer), usize);
    let claims: [Claim; 6] = [
        (|w| w.n_entries = Some(1 << 36), 1),
        (|w| w.n_tensors = Some(1 << 34), 1),
        (|w| w.set("a", 8, (1u64 << 39).to_le_bytes().into()), 1),
        (|w| w.set("a", 9, list(0, 1 << 39)), 1),
        (|w| w.set("a", 9, list(10, 1 << 36)), 1),
        // Empty strings to the end: read until the header is longer than any.
        (
            |w| {
                w.tensors.clear();
                w.set("a", 9, list(8, 1 << 36));
            },
            53,
        ),
    ];
    for (i, (change, mebibytes)) in claims.into_iter().enumerate() {
        let mut writer = small_model();
        change(&mut writer);
        let source = Rc::new(HugeSource { head: writer.header(), fetched: Cell::new(0) });
        let opened = pollster::block_on(Checkpoint::open(&[source.clone() as Rc<dyn ByteSource>]));
        assert!(matches!(opened, Err(Error::BadFile { .. })), "claim {i}");
        assert!(source.fetched.get() <= mebibytes << 20, "claim {i} fetched {} bytes", source.fetched.get());
    }
}
