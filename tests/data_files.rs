//! Files of examples as people have them: what is read of each format and shape, and what is said of broken ones.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;

use crate::fuzz::memory;
use serde_json::Value;
use web_lora::data::{DataFile, Format, inspect};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)).unwrap()
}

/// Python's csv and json read the same rows: `make_data.py` wrote what they say.
#[test]
fn rows_are_as_python_reads_them() {
    let expected: Value = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 14);
    for (name, expected) in expected {
        let bytes = fixture(name);
        let summary = inspect(DataFile { name, bytes: &bytes, format: None }).unwrap();
        let summary = serde_json::to_value(summary).unwrap();
        assert_eq!(summary["format"], expected["format"], "{name}");
        assert_eq!(summary.get("shape"), expected.get("shape"), "{name}");
        assert_eq!(summary["rows"], expected["sample"].as_array().unwrap().len(), "{name}");
        assert_eq!(summary["sample"], expected["sample"], "{name}");
    }
}

#[test]
fn what_is_no_file_of_examples_says_why() {
    let several = br#"{"train": [{"text": "a"}], "test": [{"text": "b"}]}"#;
    let wide = vec![b','; 5000];
    let cases: &[(&str, &[u8], &str)] = &[
        ("a.json", several, "a.json: it has several lists, train, test"),
        ("a.json", b"{\n\"a\": 1", "a.json, line 1: "),
        ("a.csv", &wide, "a.csv, line 1: it has 5001 columns"),
        ("a.csv", b"name\xff\nx\n", "a.csv, line 1: it is not UTF-8"),
        ("a.txt", b"one\ntwo \xff", "a.txt, line 2: it is not UTF-8"),
        ("a.txt", b"\xff\xfea", "a.txt: it is UTF-16 that ends within a character"),
        ("a.txt", b"\xff\xfe\x00\xd8", "a.txt: it is UTF-16 with half a character"),
        ("a.bin", b"PAR1", "a.bin: Parquet has to be made into JSON lines"),
    ];
    for (name, bytes, words) in cases {
        let file = DataFile { name, bytes, format: None };
        match inspect(file) {
            Err(error) => assert!(error.to_string().starts_with(words), "{words}: {error}"),
            Ok(summary) => assert_eq!((summary.format, summary.sample.len()), (Format::Json, 0), "{words}"),
        }
    }
    let deep = "[".repeat(1_000_000);
    assert_eq!(
        inspect(DataFile { name: "a.json", bytes: deep.as_bytes(), format: Some(Format::Json) }).unwrap().sample,
        []
    );
}

/// 100 MB in one line, one field, one list: an error that names the line, or what it is; at no more than its own size.
#[test]
fn a_line_of_100_megabytes_costs_no_more_than_itself() {
    let long = "x".repeat(100 << 20);
    let object = format!(r#"{{"text": "{long}"}}"#);
    for (name, text) in
        [("a.jsonl", object.clone()), ("a.json", format!("[{object}]")), ("a.csv", format!("a,b\n1,\"{long}\"\n"))]
    {
        let summary =
            memory::within(name, text.len(), || inspect(DataFile { name, bytes: text.as_bytes(), format: None }));
        assert_eq!(summary.map(|summary| (summary.rows, summary.sample.len())).unwrap(), (1, 0), "{name}");
    }
    let text = format!("one\n{long}");
    let summary = memory::within("a.txt", text.len(), || {
        inspect(DataFile { name: "a.txt", bytes: text.as_bytes(), format: Some(Format::Text) })
    });
    assert_eq!(summary.unwrap().rows, 1);
}

/// Formulas are texts, as everything in a table is.
#[test]
fn formulas_stay_texts() {
    let table = b"prompt,completion\n=1+1,\"=HYPERLINK(\"\"http://x\"\")\"\n@SUM(A1),-2\n";
    let summary = inspect(DataFile { name: "a.csv", bytes: table, format: None }).unwrap();
    assert_eq!(summary.sample[0]["prompt"], "=1+1");
    assert_eq!(summary.sample[0]["completion"], "=HYPERLINK(\"http://x\")");
    assert_eq!(summary.sample[1]["completion"], "-2");
}
