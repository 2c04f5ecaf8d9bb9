//! What is fuzzed. Each function takes any bytes, and uses what comes of them in every way there is: an error or something
//! usable comes back, never a panic. `make fuzz` gives them to libFuzzer, `tests/fuzz.rs` gives them its findings and a
//! bounded number of damages, natively and in a browser.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use safetensors::{Dtype, SafeTensors};
use web_lora::data::{DataFile, Dataset, Format, inspect, parse_jsonl};
use web_lora::gpu::{DeviceInfo, Gpu};
use web_lora::io::{AdapterFile, ByteSource, ChatTemplate, Checkpoint, DType, MemorySource, Message, Tokenizer};
use web_lora::{Error, model, train};

/// Takes any bytes.
pub type Body = fn(&[u8]);

/// By the names of their corpora.
pub const ALL: [(&str, Body); 9] = [
    ("adapter", adapter),
    ("chat_template", chat_template),
    ("checkpoint", checkpoint),
    ("config", config),
    ("data", data),
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("shards", shards),
    ("tokenizer_json", tokenizer_json),
];

/// What comes of something that waits for nobody: bytes in memory are there at once.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("bytes in memory are there at once"),
    }
}

/// The parts of an input: before each but the last stands its length, two bytes, as far as there are so many.
pub fn parts<const N: usize>(mut bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = [&[][..]; N];
    for (i, part) in parts.iter_mut().enumerate() {
        *part = match bytes {
            [low, high, rest @ ..] if i + 1 < N => {
                let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
                bytes = rest;
                part
            }
            rest => std::mem::take(&mut bytes).get(..rest.len()).unwrap_or_default(),
        };
    }
    parts
}

/// The reverse.
pub fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let (last, others) = parts.split_last().expect("there is a part");
    let mut bytes = vec![];
    for part in others {
        bytes.extend(u16::try_from(part.len()).expect("parts are short").to_le_bytes());
        bytes.extend(*part);
    }
    bytes.extend(*last);
    bytes
}

fn open(files: &[(&str, &[u8])]) -> Result<Checkpoint, Error> {
    let source =
        |(name, bytes): &(&str, &[u8])| Rc::new(MemorySource::new(*name, bytes.to_vec())) as Rc<dyn ByteSource>;
    let sources: Vec<_> = files.iter().map(source).collect();
    ready(Checkpoint::open(&sources))
}

/// Reads all of a model, and loads it on paper.
pub fn use_checkpoint(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors() {
        let values = ready(checkpoint.read_f32(&tensor.name)).expect("its bytes were checked when it was opened");
        assert_eq!(values.len(), tensor.rows() * tensor.cols());
        assert_eq!(tensor.size_bytes(), tensor.rows() as u64 * tensor.row_bytes() as u64);
    }
    if let Ok(tokenizer) = checkpoint.tokenizer() {
        use_tokenizer(&tokenizer);
    }
    if let Ok(Some(template)) = checkpoint.chat_template() {
        let _ = template.render(&[Message::new("user", "hi")], true);
    }
    load_on_paper(checkpoint);
}

fn load_on_paper(checkpoint: &Checkpoint) {
    let limits =
        DeviceInfo { max_buffer_size: 1 << 28, max_storage_buffer_binding_size: 1 << 27, ..Default::default() };
    let gpu = Gpu::paper(limits);
    if let Ok(model) = ready(model::load(&gpu, checkpoint, 64, &mut |_, _| true)) {
        assert!(!model.modules().is_empty());
    }
}

/// Tokenizes what tokenizers stumble over, and writes ids that there are and are not.
pub fn use_tokenizer(tokenizer: &Tokenizer) {
    for text in
        ["", "the <s>user used\n\n a theft: é🙂 123  \t<table> ", "▁<0x41>\0 é", "\u{fe0f}\u{200d}aaaaaaaaaaaaaaaa"]
    {
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids, false);
        }
        if let Ok(tokens) = tokenizer.encode_with_offsets(text) {
            assert!(tokens.iter().all(|(_, bytes)| bytes.start <= bytes.end && bytes.end <= text.len()));
        }
    }
    let _ = tokenizer.decode(&(0..300).collect::<Vec<_>>(), true);
    let mut stream = tokenizer.decode_stream(false);
    for id in [0, 1, 2, 0, u32::MAX] {
        let _ = stream.push(id);
    }
    let _ = stream.finish();
}

/// A GGUF file: model, tokenizer and template.
pub fn gguf(bytes: &[u8]) {
    if let Ok(checkpoint) = open(&[("m.gguf", bytes)]) {
        use_checkpoint(&checkpoint);
    }
    let source: Rc<dyn ByteSource> = Rc::new(MemorySource::new("m.gguf", bytes.to_vec()));
    if let Ok(tokenizer) = ready(Tokenizer::from_gguf(&source)) {
        use_tokenizer(&tokenizer);
    }
}

/// A safetensors file, of which the reference crate says the same.
pub fn safetensors(bytes: &[u8]) {
    let ours = open(&[("config.json", b"{}"), ("model.safetensors", bytes)]);
    let theirs = SafeTensors::read_metadata(bytes);
    let is_read = |dtype: Dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    match (&ours, theirs) {
        (Ok(ours), Ok((header_bytes, theirs))) => {
            let theirs = theirs.tensors();
            assert_eq!(ours.tensors().count(), theirs.len());
            for tensor in ours.tensors() {
                let info = theirs[&tensor.name];
                let dtype = match info.dtype {
                    Dtype::F32 => DType::F32,
                    Dtype::F16 => DType::F16,
                    Dtype::BF16 => DType::BF16,
                    other => panic!("{other} is not read"),
                };
                assert_eq!((&tensor.shape, tensor.dtype), (&info.shape, dtype), "{}", tensor.name);
                let data = &bytes[8 + header_bytes..][info.data_offsets.0..info.data_offsets.1];
                assert_eq!(ready(ours.read_rows(tensor, 0..tensor.rows())).expect("it was checked"), data);
            }
        }
        (Err(Error::Unsupported { .. }), Ok((_, theirs))) => {
            assert!(theirs.tensors().values().any(|info| !is_read(info.dtype)), "{}", ours.err().expect("it is one"));
        }
        (Err(error), Ok(_)) => {
            // What the format's description refuses and the crate does not: white space before the header, and names that
            // are there twice. And tensors of no bytes with more rows than a tab can count.
            let header = bytes.get(8..).unwrap_or_default();
            let words = ["there twice", "is too large"];
            let stricter = header.first() != Some(&b'{') || words.iter().any(|word| error.to_string().contains(word));
            assert!(stricter, "ours refuses what the crate reads: {error}");
        }
        (Ok(_), Err(error)) => panic!("ours reads what the crate refuses: {error}"),
        (Err(_), Err(_)) => {}
    }
}

/// An index, and the two shards that it may speak of.
pub fn shards(bytes: &[u8]) {
    let [index, first, second] = parts(bytes);
    let [one, other] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for files in [
        &[("config.json", &b"{}"[..]), (one, first), (other, second), ("model.safetensors.index.json", index)][..],
        &[("config.json", b"{}"), (one, first), (other, second)],
    ] {
        if let Ok(checkpoint) = open(files) {
            use_checkpoint(&checkpoint);
        }
    }
}

/// `config.json`, of a model without weights: what is no model is refused before anything is taken for it.
pub fn config(bytes: &[u8]) {
    let weights = joined_header("{}");
    if let Ok(checkpoint) = open(&[("config.json", bytes), ("model.safetensors", &weights)]) {
        let gpu = Gpu::paper(DeviceInfo { max_buffer_size: 1 << 28, ..Default::default() });
        let loaded = ready(model::load(&gpu, &checkpoint, 64, &mut |_, _| true));
        assert!(loaded.is_err(), "it has no weights");
        assert_eq!(gpu.allocated_bytes(), 0);
        let _ = (checkpoint.name(), checkpoint.chat_template());
    }
}

/// A safetensors file without tensors.
fn joined_header(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

/// `tokenizer.json`, and the settings beside it.
pub fn tokenizer_json(bytes: &[u8]) {
    let [settings, tokenizer] = parts(bytes);
    let weights = joined_header("{}");
    let files = [
        ("config.json", &b"{\"eos_token_id\": [4, 99], \"bos_token_id\": 1}"[..]),
        ("model.safetensors", &weights),
        ("tokenizer_config.json", settings),
        ("tokenizer.json", tokenizer),
    ];
    if let Ok(checkpoint) = open(&files) {
        use_checkpoint(&checkpoint);
    }
}

/// A chat template.
pub fn chat_template(bytes: &[u8]) {
    let source = String::from_utf8_lossy(bytes);
    let Ok(template) = ChatTemplate::new("t", &source, "<s>", "</s>") else { return };
    let call = serde_json::json!([{"type": "function", "function": {"name": "f", "arguments": {"a": [1, null, "é"]}}}]);
    let mut answer = Message::new("assistant", " é🙂\n");
    answer.more.insert("tool_calls".into(), call);
    let messages = [Message::new("system", ""), Message::new("user", "hi"), answer];
    let tools = [serde_json::json!({"type": "function", "function": {"name": "f", "parameters": {}}})];
    let _ = template.render(&[], true);
    let _ = template.render_with_tools(&messages, &tools, true);
    if let Ok(text) = template.render_with_tools(&messages, &tools, false)
        && let Ok(Some(answers)) = template.answers(&messages, &tools, &text)
    {
        assert!(answers.iter().all(|answer| text.get(answer.clone()).is_some()));
    }
}

/// A file of examples: the first byte says what it is said to be.
pub fn data(bytes: &[u8]) {
    let Some((&format, bytes)) = bytes.split_first() else { return };
    let names = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"];
    let formats = [Format::Jsonl, Format::Json, Format::Csv, Format::Tsv, Format::Text, Format::Parquet];
    let name = names[usize::from(format) % names.len()];
    let format = formats.get(usize::from(format) % 8).copied();
    let file = DataFile { name, bytes, format };
    if let Ok(summary) = inspect(file) {
        assert!(summary.sample.len() <= summary.rows);
    }
    let _ = parse_jsonl(name, bytes);
    thread_local! {
        static MODEL: (Tokenizer, ChatTemplate) = small_chat();
    }
    MODEL.with(|(tokenizer, template)| {
        for template in [None, Some(template)] {
            if let Ok(dataset) = Dataset::read(file, None, tokenizer, template, 64) {
                let report = dataset.report();
                assert!(report.longest <= 64 && report.supervised_tokens > 0);
            }
        }
    });
}

fn small_chat() -> (Tokenizer, ChatTemplate) {
    let weights = joined_header("{}");
    let files = [
        ("config.json", &b"{}"[..]),
        ("model.safetensors", &weights),
        ("tokenizer.json", include_bytes!("../fixtures/tiny-chat/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("../fixtures/tiny-chat/tokenizer_config.json")),
    ];
    let checkpoint = open(&files).expect("it is sound");
    let template = checkpoint.chat_template().expect("it is sound").expect("it is there");
    (checkpoint.tokenizer().expect("it is sound"), template)
}

/// The two files of an adapter, out of which come others.
pub fn adapter(bytes: &[u8]) {
    let [config, weights] = parts(bytes);
    let Ok(adapter) = AdapterFile::parse(config, weights) else { return };
    let (config, weights) = adapter.write();
    assert_eq!(AdapterFile::parse(&config, &weights).as_ref(), Ok(&adapter), "what is written is what was read");
    let _ = adapter.write_mlx(2);
    for model_type in ["llama", "gpt2", "gemma3_text"] {
        let _ = adapter.write_gguf(model_type, [2, 1]);
    }
}

/// What a run is kept as.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok((run, parts)) = train::read_state::<serde_json::Value>(bytes) {
        let mut parts: Vec<(&str, &[u8])> = parts.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        parts.sort();
        let again = train::write_state(&run, &parts).expect("what was read can be written");
        let (same, _) = train::read_state::<serde_json::Value>(&again).expect("what was written can be read");
        assert_eq!(same, run);
    }
}
