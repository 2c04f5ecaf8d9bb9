//! What is learned of a conversation, for the template of each family: the assistant's words and the token that ends the
//! turn, whatever the template does with the rest.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use serde_json::{Value, json};
use web_lora::data::Dataset;
use web_lora::io::{ByteSource, ChatTemplate, Checkpoint, FileSource, MemorySource, Tokenizer};

/// The small GPT-2 with the special tokens of all families.
fn tokenizer() -> Tokenizer {
    let specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "[/INST]"];
    let mut file: Value = serde_json::from_str(include_str!("fixtures/tokenizers/small/gpt-2/tokenizer.json")).unwrap();
    let added = file["added_tokens"].as_array_mut().unwrap();
    for special in specials {
        if added.iter().all(|token| token["content"] != special) {
            let mut token = added[0].clone();
            token["content"] = special.into();
            token["id"] = (added[0]["id"].as_u64().unwrap() + added.len() as u64).into();
            added.push(token);
        }
    }
    let files = [
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", [&2u64.to_le_bytes()[..], b"{}"].concat()),
        ("tokenizer.json", serde_json::to_vec(&file).unwrap()),
    ];
    let files = files.map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>);
    pollster::block_on(Checkpoint::open(&files)).unwrap().tokenizer().unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let path = format!("{}/tests/fixtures/templates/published/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
    ChatTemplate::new(name, &std::fs::read_to_string(path).unwrap(), "<s>", "</s>").unwrap()
}

/// The stretches that are learned of a line of a file, with the template of that name.
fn learned(name: &str, line: &Value) -> Result<Vec<String>, String> {
    learned_by(&tokenizer(), &template(name), line)
}

fn learned_by(tokenizer: &Tokenizer, template: &ChatTemplate, line: &Value) -> Result<Vec<String>, String> {
    let dataset = Dataset::new("a.jsonl", line.to_string().as_bytes(), tokenizer, Some(template), 100_000);
    let report = dataset.map_err(|error| error.to_string())?.report();
    let pieces = report.preview.into_iter().flat_map(|preview| preview.pieces);
    Ok(pieces.filter(|piece| piece.supervised).map(|piece| piece.text).collect())
}

fn say(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn turns_end_with_each_familys_token() {
    let chat = [say("user", "q1"), say("assistant", "a1"), say("user", "q2"), say("assistant", "a2 ")];
    let cases: [(&str, [&str; 2]); 9] = [
        ("smollm2", ["a1<|im_end|>", "a2 <|im_end|>"]),
        ("qwen2.5", ["a1<|im_end|>", "a2 <|im_end|>"]),
        // Only the last answer is written with thoughts, and the model begins with them.
        ("qwen3", ["a1<|im_end|>", "<think>\n\n</think>\n\na2 <|im_end|>"]),
        ("llama-3.2", ["a1<|eot_id|>", "a2<|eot_id|>"]),
        ("gemma-2", ["a1<end_of_turn>", "a2<end_of_turn>"]),
        ("tinyllama", ["a1</s>", "a2 </s>"]),
        ("mistral-nemo", ["a1</s>", "a2 </s>"]),
        // The end-of-text token that it writes after the last turn is not the model's.
        ("phi-3.5", ["a1<|end|>", "a2 <|end|>"]),
        // What its generation blocks write, to the letter.
        ("generation", ["a1<|im_end|>\n", "a2 <|im_end|>\n"]),
    ];
    for (name, answers) in cases {
        assert_eq!(learned(name, &json!({"messages": chat})).as_deref(), Ok(&answers.map(str::to_owned)[..]), "{name}");
        let split = json!({"prompt": chat[..3], "completion": chat[3..]});
        assert_eq!(learned(name, &split).as_deref(), Ok(&[answers[1].to_owned()][..]), "{name}, the completion");
    }
}

#[test]
fn a_system_turn_changes_nothing_where_there_is_one() {
    let chat =
        [say("system", "s"), say("user", "q1"), say("assistant", "a1"), say("user", "q2"), say("assistant", "a2")];
    for (name, end) in [
        ("smollm2", "<|im_end|>"),
        ("llama-3.2", "<|eot_id|>"),
        ("tinyllama", "</s>"),
        ("phi-3.5", "<|end|>"),
        // It writes the system's words before the last question only, so that no earlier prompt is part of the text.
        ("mistral-nemo", "</s>"),
    ] {
        let answers = [format!("a1{end}"), format!("a2{end}")];
        assert_eq!(learned(name, &json!({"messages": chat})).as_deref(), Ok(&answers[..]), "{name}");
    }
    let error = learned("gemma-2", &json!({"messages": chat})).unwrap_err();
    assert!(error.contains("System role not supported (its line 1)"), "{error}");
    let error = learned("mistral-nemo", &json!({"messages": [say("assistant", "a"), say("user", "q")]})).unwrap_err();
    assert!(error.contains("conversation roles must alternate") && error.contains("(its line "), "{error}");
}

#[test]
fn thoughts_are_learned_where_the_template_keeps_them() {
    let thought = |answer: &str| say("assistant", &format!("<think>\nhm\n</think>\n\n{answer}"));
    let chat = json!({"messages": [say("user", "q1"), thought("a1"), say("user", "q2"), thought("a2")]});
    let answers = ["a1<|im_end|>", "<think>\nhm\n</think>\n\na2<|im_end|>"].map(str::to_owned);
    assert_eq!(learned("qwen3", &chat).as_deref(), Ok(&answers[..]));
    let reasoning = json!({"role": "assistant", "content": "a", "reasoning_content": "hm"});
    let chat = json!({"messages": [say("user", "q"), reasoning]});
    assert_eq!(learned("qwen3", &chat).unwrap(), ["<think>\nhm\n</think>\n\na<|im_end|>"]);
}

#[test]
fn calls_are_learned_and_their_results_are_not() {
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}
    ]});
    let result = json!({"role": "tool", "content": "2", "tool_call_id": "abcdefghi"});
    let tools = json!([{"type": "function", "function": {"name": "sum", "description": "Adds", "parameters": {}}}]);
    let chat = json!({"messages": [say("user", "q"), call, result, say("assistant", "It is 2.")], "tools": tools});
    let cases: [(&str, [&str; 2]); 4] = [
        (
            "qwen2.5",
            [
                "<tool_call>\n{\"name\": \"sum\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>",
                "It is 2.<|im_end|>",
            ],
        ),
        (
            "qwen3",
            [
                "<tool_call>\n{\"name\": \"sum\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>",
                "<think>\n\n</think>\n\nIt is 2.<|im_end|>",
            ],
        ),
        ("llama-3.2", ["{\"name\": \"sum\", \"parameters\": {\"a\": 1}}<|eot_id|>", "It is 2.<|eot_id|>"]),
        (
            "mistral-nemo",
            ["[TOOL_CALLS][{\"name\": \"sum\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}]</s>", "It is 2.</s>"],
        ),
    ];
    for (name, answers) in cases {
        assert_eq!(learned(name, &chat).as_deref(), Ok(&answers.map(str::to_owned)[..]), "{name}");
    }
    let error = learned("qwen2.5", &json!({"messages": [say("user", "q")], "tools": "sum"})).unwrap_err();
    assert!(error.contains("'tools' is not a list"), "{error}");
}

/// Ends of turns that someone wrote are words like any others.
#[test]
fn special_tokens_in_what_is_said_end_no_turn() {
    let chat = json!({"messages": [say("user", "a<|im_end|>b"), say("assistant", "c<|im_end|>d"), say("user", "e")]});
    for name in ["smollm2", "qwen2.5", "qwen3"] {
        assert_eq!(learned(name, &chat).unwrap(), ["c<|im_end|>d<|im_end|>"], "{name}");
    }
}

#[test]
fn the_preview_is_the_text_as_rendered() {
    let tokenizer = tokenizer();
    let lines = [
        json!({"messages": [say("user", " q"), say("assistant", " é🙂")]}),
        json!({"prompt": "x", "completion": " y"}),
        json!({"text": " z"}),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let template = template("tinyllama");
    let dataset = Dataset::new("a.jsonl", lines.as_bytes(), &tokenizer, Some(&template), 100).unwrap();
    let shown: Vec<Vec<(String, bool)>> = dataset
        .report()
        .preview
        .into_iter()
        .map(|preview| preview.pieces.into_iter().map(|piece| (piece.text, piece.supervised)).collect())
        .collect();
    let piece = |text: &str, supervised| (text.to_owned(), supervised);
    assert_eq!(
        shown[0],
        [piece("<|user|>\n q</s>\n<|assistant|>\n", false), piece(" é🙂</s>", true), piece("\n", false)]
    );
    assert_eq!(shown[1], [piece("x", false), piece(" y", true)]);
}

/// The same with the real vocabularies, in the folder named by `TOKENIZERS_DIR`, and with the templates beside them.
#[test]
#[ignore = "needs real vocabularies: make test-tokenizers fetches them"]
fn real_vocabularies_end_turns_with_their_own_tokens() {
    let folder = std::env::var("TOKENIZERS_DIR").expect("TOKENIZERS_DIR must name what make test-tokenizers fetches");
    let own = |name: &str| {
        let source = std::fs::read_to_string(format!("{folder}/templates/{name}.jinja")).unwrap();
        ChatTemplate::new(name, &source, "<bos>", "</s>").unwrap()
    };
    let chat = [say("user", "q1"), say("assistant", "a1, é🙂"), say("user", "q2"), say("assistant", " 中 a2")];
    let cases = [
        ("smollm", template("smollm2"), ["a1, é🙂<|im_end|>", " 中 a2<|im_end|>"]),
        ("qwen", template("qwen2.5"), ["a1, é🙂<|im_end|>", " 中 a2<|im_end|>"]),
        ("qwen", own("qwen3"), ["a1, é🙂<|im_end|>", "<think>\n\n</think>\n\n 中 a2<|im_end|>"]),
        ("llama-3", template("llama-3.2"), ["a1, é🙂<|eot_id|>", "中 a2<|eot_id|>"]),
        ("llama-3", own("llama3_1"), ["a1, é🙂<|eot_id|>", "中 a2<|eot_id|>"]),
        ("gemma", own("gemma3"), ["a1, é🙂<end_of_turn>", "中 a2<end_of_turn>"]),
        ("llama-2", template("tinyllama"), ["a1, é🙂</s>", " 中 a2</s>"]),
        ("tekken", template("mistral-nemo"), ["a1, é🙂</s>", " 中 a2</s>"]),
        // Its tokens take in the white space after them.
        ("phi-3", own("phi-3"), ["a1, é🙂<|end|>\n", "中 a2<|end|>\n"]),
        ("phi-3", template("phi-3.5"), ["a1, é🙂<|end|>\n", "中 a2<|end|>\n"]),
    ];
    for (family, template, answers) in cases {
        let file: Rc<dyn ByteSource> =
            Rc::new(FileSource::open(format!("{folder}/parity/{family}/vocab.gguf")).unwrap());
        let tokenizer = pollster::block_on(Tokenizer::from_gguf(&file)).unwrap();
        let learned = learned_by(&tokenizer, &template, &json!({"messages": chat}));
        assert_eq!(learned.as_deref(), Ok(&answers.map(str::to_owned)[..]), "{family}");
    }
}
