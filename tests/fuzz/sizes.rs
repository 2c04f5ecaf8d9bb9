//! Numbers of bytes, rows and columns near where 32 and 64 bits end: `usize` has 32 of them in a tab. All are refused with
//! the file's name, there as here.

use std::cell::Cell;
use std::rc::Rc;

use web_lora::Result;
use web_lora::io::{ByteSource, Checkpoint, LocalBoxFuture};

use super::bodies::ready;
use crate::writer::{self, Item, small_model};

/// A header, and as many zeros after it as there are said to be.
struct Claimed {
    name: &'static str,
    header: Vec<u8>,
    size_bytes: u64,
}

impl ByteSource for Claimed {
    fn name(&self) -> &str {
        self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        assert!(size <= 40 << 20, "{size} bytes are asked for at once");
        let mut bytes: Vec<u8> = self.header.iter().skip(offset as usize).take(size).copied().collect();
        bytes.resize(size, 0);
        Box::pin(std::future::ready(Ok(bytes)))
    }
}

/// Files that are as large as any can be said to be, or no larger than their header.
fn open(name: &'static str, header: Vec<u8>, size_bytes: u64) -> Result<Checkpoint> {
    let mut files: Vec<Rc<dyn ByteSource>> = vec![Rc::new(Claimed { name, header, size_bytes })];
    if name.ends_with(".safetensors") {
        files.push(Rc::new(Claimed { name: "config.json", header: b"{}".to_vec(), size_bytes: 2 }));
    }
    ready(Checkpoint::open(&files))
}

fn refused(what: &str, name: &'static str, header: Vec<u8>, size_bytes: u64) {
    match open(name, header, size_bytes) {
        Ok(_) => panic!("{what} was read, of {size_bytes} bytes"),
        Err(error) => assert!(error.to_string().starts_with(name), "{what}: {error}"),
    }
}

pub(crate) fn check() {
    let powers = [29, 30, 31, 32, 33, 61, 62, 63].map(|power| 1u64 << power);
    let mut numbers: Vec<u64> = powers.iter().flat_map(|power| [power - 1, *power, power + 1]).collect();
    numbers.extend([u64::MAX - 31, u64::MAX - 1, u64::MAX]);
    let n_refused = Cell::new(0);
    let count = || n_refused.set(n_refused.get() + 1);
    let both = |what: &str, name: &'static str, header: &[u8]| {
        for size_bytes in [header.len() as u64, u64::MAX >> 1, u64::MAX] {
            refused(what, name, header.to_vec(), size_bytes);
            count();
        }
    };
    for &n in &numbers {
        type Change = fn(&mut writer::Writer, u64);
        let changes: [(&str, Change); 12] = [
            ("columns", |w, n| w.tensors[1].dims = vec![n.next_multiple_of(8)]),
            ("columns of blocks", |w, n| w.tensors[0].dims = vec![n & !31, 1]),
            ("columns and rows", |w, n| w.tensors[1].dims = vec![n, n]),
            ("rows", |w, n| w.tensors[1].dims = vec![1, n, 4]),
            ("rows and planes", |w, n| w.tensors[1].dims = vec![1, n, 1 << 31]),
            ("wrapping to little", |w, n| w.tensors[1].dims = vec![n, 4, u64::MAX / n]),
            ("place", |w, n| w.tensors[1].offset = Some(n | 1)),
            ("name", |w, n| w.raw = Some([n.to_le_bytes().as_slice(), b"a"].concat())),
            ("text", |w, n| w.set("a", 8, n.to_le_bytes().into())),
            ("list of bytes", |w, n| w.set("a", 9, [&0u32.to_le_bytes()[..], &n.to_le_bytes()].concat())),
            ("tensors", |w, n| w.n_tensors = Some(n)),
            ("entries", |w, n| w.n_entries = Some(n)),
        ];
        for (what, change) in changes {
            let mut writer = small_model();
            change(&mut writer, n);
            both(&format!("{what} {n}"), "m.gguf", &writer.header());
        }
        if let Ok(alignment) = u32::try_from(n) {
            let mut writer = small_model();
            writer.set("general.alignment", 4, alignment.to_le_bytes().into());
            both(&format!("alignment {n}"), "m.gguf", &writer.header());
        }
        for (dtype, shape, to) in [
            ("F32", format!("[{n}]"), n.saturating_mul(4)),
            ("F16", format!("[{n},2]"), n.saturating_mul(4)),
            ("F32", format!("[{n},{n}]"), n),
            ("BF16", format!("[{n},0]"), 0),
            ("F32", format!("[0,{n},{n}]"), 0),
            ("F32", format!("[2147483648,{n},2147483648]"), n),
        ] {
            let info = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{to}]}}}}"#);
            let header = [&(info.len() as u64).to_le_bytes(), info.as_bytes()].concat();
            // Where its bytes are not said to be there, and where they are.
            for size_bytes in [header.len() as u64, (header.len() as u64).saturating_add(to)] {
                if n < 1 << 31 && size_bytes > header.len() as u64 {
                    continue;
                }
                if n < 1 << 31 && to == 0 {
                    continue;
                }
                refused(&format!("{dtype} {shape}"), "model.safetensors", header.clone(), size_bytes);
                count();
            }
        }
        let length = n.to_le_bytes().to_vec();
        refused(&format!("a header of {n}"), "model.safetensors", length, 8 + (1 << 20));
        count();
    }
    assert!(n_refused.get() > 1000, "{} sizes", n_refused.get());

    // The largest that is read, as far as there is room.
    let mut writer = small_model();
    writer.tensors = vec![Item { offset: Some(0), ..Item::new("token_embd.weight", &[1 << 20, 1 << 20], 0, vec![]) }];
    let header = writer.header();
    let model = open("m.gguf", header, 1 << 50).unwrap();
    let tensor = model.tensors().next().unwrap();
    assert_eq!((tensor.rows(), tensor.cols(), tensor.size_bytes()), (1 << 20, 1 << 20, 1 << 42));
    let row = ready(model.read_rows(tensor, (1 << 20) - 1..1 << 20)).unwrap();
    assert_eq!(row.len(), 4 << 20);
    assert!(ready(model.read_rows(tensor, 0..(1 << 20) + 1)).is_err());
}
