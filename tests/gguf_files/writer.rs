//! Writes GGUF files, sound or not.

/// A tensor of the file.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
    /// Instead of the place where the data is.
    pub(crate) offset: Option<u64>,
}

impl Item {
    pub(crate) fn new(name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), dims: dims.to_vec(), kind, data, offset: None }
    }
}

/// A file in parts, each open to tampering.
pub(crate) struct Writer {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Key, type, value.
    pub(crate) entries: Vec<(String, u32, Vec<u8>)>,
    /// Bytes after the entries, counted as one more.
    pub(crate) raw: Option<Vec<u8>>,
    pub(crate) tensors: Vec<Item>,
    /// Instead of the true counts.
    pub(crate) n_entries: Option<u64>,
    pub(crate) n_tensors: Option<u64>,
    /// Bytes left out at the end.
    pub(crate) cut: usize,
}

/// A string as a value.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    /// Sets an entry, or adds it.
    pub(crate) fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.entries.retain(|(name, ..)| name != key);
        self.entries.push((key.to_owned(), kind, value));
    }

    /// All but the data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let n_entries = (self.entries.len() + usize::from(self.raw.is_some())) as u64;
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_entries.unwrap_or(n_entries).to_le_bytes());
        for (key, kind, value) in &self.entries {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        bytes.extend(self.raw.iter().flatten());
        let mut offset = 0;
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(32) as u64;
        }
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(&tensor.data);
        }
        bytes.truncate(bytes.len() - self.cut);
        bytes
    }
}

/// A llama of one layer, two heads and 264 byte-level tokens.
pub(crate) fn small_model() -> Writer {
    let mut writer = Writer {
        magic: *b"GGUF",
        version: 3,
        entries: Vec::new(),
        raw: None,
        tensors: Vec::new(),
        n_entries: None,
        n_tensors: None,
        cut: 0,
    };
    writer.set("general.architecture", 8, text("llama"));
    for (key, value) in [
        ("block_count", 1u32),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        writer.set(&format!("llama.{key}"), 4, value.to_le_bytes().into());
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", 6, 1e-6f32.to_le_bytes().into());
    writer.set("tokenizer.ggml.model", 8, text("gpt2"));
    writer.set("tokenizer.ggml.pre", 8, text("smollm"));
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_name(byte).to_string()).collect();
    tokens.extend(["he", "the", "<|im_start|>", "<|im_end|>", "un", "used", "user", "x y"].map(str::to_owned));
    let kinds: Vec<u32> = (0..tokens.len()).map(|id| if id == 258 || id == 259 { 3 } else { 1 }).collect();
    let strings = |strings: &[String]| {
        let mut bytes = [&8u32.to_le_bytes()[..], &(strings.len() as u64).to_le_bytes()].concat();
        bytes.extend(strings.iter().flat_map(|string| text(string)));
        bytes
    };
    writer.set("tokenizer.ggml.tokens", 9, strings(&tokens));
    writer.set("tokenizer.ggml.merges", 9, strings(&["h e".to_owned(), "t he".to_owned()]));
    let mut kind_bytes = [&4u32.to_le_bytes()[..], &(kinds.len() as u64).to_le_bytes()].concat();
    kind_bytes.extend(kinds.iter().flat_map(|kind| kind.to_le_bytes()));
    writer.set("tokenizer.ggml.token_type", 9, kind_bytes);
    writer.set("tokenizer.ggml.eos_token_id", 4, 259u32.to_le_bytes().into());

    // Q8_0 blocks with the scale 1, else F32.
    let q8 = |rows: u64, cols: u64| {
        let block = |i: u64| [&[0, 0x3c][..], &(0..32).map(|j| (i * 5 + j) as u8).collect::<Vec<_>>()].concat();
        (0..rows * cols / 32).flat_map(block).collect::<Vec<u8>>()
    };
    let ones = |len: usize| 1f32.to_le_bytes().repeat(len);
    let permuted = |heads: usize| {
        let rows = (0..heads * 16).map(|stored| {
            let (head, within) = (stored / 16, stored % 16);
            (head * 16 + within % 2 * 8 + within / 2) as f32
        });
        rows.flat_map(|row| row.to_le_bytes().repeat(32)).collect::<Vec<u8>>()
    };
    writer.tensors = vec![
        Item::new("token_embd.weight", &[32, 264], 8, q8(264, 32)),
        Item::new("blk.0.attn_norm.weight", &[32], 0, ones(32)),
        Item::new("blk.0.attn_q.weight", &[32, 32], 0, permuted(2)),
        Item::new("blk.0.attn_k.weight", &[32, 16], 0, permuted(1)),
        Item::new("blk.0.attn_v.weight", &[32, 16], 0, ones(32 * 16)),
        Item::new("blk.0.attn_output.weight", &[32, 32], 8, q8(32, 32)),
        Item::new("blk.0.ffn_norm.weight", &[32], 0, ones(32)),
        Item::new("blk.0.ffn_gate.weight", &[32, 64], 8, q8(64, 32)),
        Item::new("blk.0.ffn_up.weight", &[32, 64], 8, q8(64, 32)),
        Item::new("blk.0.ffn_down.weight", &[64, 32], 8, q8(32, 64)),
        Item::new("output_norm.weight", &[32], 0, ones(32)),
    ];
    writer
}

/// The same model in `n` files as llama.cpp's `gguf-split` writes them: metadata in the first, tensors dealt out in order.
pub(crate) fn split(whole: Writer, n: usize) -> Vec<Writer> {
    let each = whole.tensors.len().div_ceil(n);
    let total = whole.tensors.len() as i32;
    let mut parts: Vec<Writer> = whole
        .tensors
        .chunks(each)
        .map(|tensors| Writer { entries: vec![], tensors: tensors.to_vec(), ..small_model() })
        .collect();
    parts[0].entries = whole.entries;
    for (number, part) in parts.iter_mut().enumerate() {
        part.set("split.no", 2, (number as u16).to_le_bytes().into());
        part.set("split.count", 2, (n as u16).to_le_bytes().into());
        part.set("split.tensors.count", 5, total.to_le_bytes().into());
    }
    parts
}

/// GPT-2's printable name of a byte.
fn byte_name(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(256 + before).expect("256 to 323 are letters")
}
