//! Files of examples: each broken line is named, and what is learned of each sound one is what should be.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use web_lora::Error;
use web_lora::data::{DataFile, DataMapping, Dataset, Example, Record, Shape, parse_jsonl, tokenize};
use web_lora::io::{ByteSource, ChatTemplate, Checkpoint, MemorySource, Message, Tokenizer};

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

#[test]
fn records_are_read() {
    let file = concat!(
        "\u{feff}{\"text\": \"a\"}\r\n",
        "\n  \t\r\n",
        " {\"prompt\": \"p\", \"completion\": \"\", \"source\": 7} \n",
        "{\"text\": \"ignored\", \"messages\": [{\"role\": \"user\", \"content\": \"é\", \"name\": \"x\"}]}\n",
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"p\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"c\"}]}",
    );
    let (records, errors) = parse_jsonl("a.jsonl", file.as_bytes()).unwrap();
    assert_eq!(errors, []);
    let more = serde_json::Map::from_iter([("name".to_owned(), "x".into())]);
    let named = Message { more, ..message("user", "é") };
    let expected = vec![
        (1, Record::Text("a".to_owned())),
        (4, Record::PromptCompletion { prompt: "p".to_owned(), completion: String::new() }),
        (5, Record::Messages { messages: vec![named], given: 0, tools: vec![] }),
        (
            6,
            Record::Messages {
                messages: vec![message("user", "p"), message("assistant", "c")],
                given: 1,
                tools: vec![],
            },
        ),
    ];
    assert_eq!(records, expected);
}

#[test]
fn broken_lines_are_named() {
    let deep = "[".repeat(100_000);
    let cases: &[(&[u8], &str)] = &[
        (b"{\"text\": \"a\"", "it is not JSON: EOF while parsing an object at column 12"),
        (b"{\"text\": \"a\"} x", "it is not JSON: trailing characters"),
        (b"{\"text\": \"\\ud800\"}", "it is not JSON"),
        (b"{\"text\": \"\xff\"}", "byte 11 of the line is not UTF-8"),
        (deep.as_bytes(), "it is not JSON: recursion limit exceeded"),
        (b"\"text\"", "it is not a JSON object"),
        (b"{}", "it has no fields; needed is 'messages', or"),
        (b"{\"instruction\": 1, \"output\": 2}", "it has 'instruction', 'output'; needed is"),
        (b"{\"text\": 3}", "'text' is not a text"),
        (b"{\"prompt\": \"a\"}", "it has 'prompt' but no 'completion'"),
        (b"{\"completion\": \"a\"}", "it has 'completion' but no 'prompt'"),
        (b"{\"prompt\": \"a\", \"completion\": []}", "neither both texts nor both lists"),
        (b"{\"prompt\": 1, \"completion\": 2}", "neither both texts nor both lists"),
        (b"{\"chosen\": \"a\"}", "it has 'chosen' but no 'rejected'"),
        (b"{\"prompt\": \"p\", \"rejected\": \"a\"}", "it has 'rejected' but no 'chosen'"),
        (b"{\"chosen\": \"a\", \"rejected\": [{}]}", "neither all texts nor all lists of messages"),
        (b"{\"prompt\": [], \"chosen\": \"a\", \"rejected\": \"b\"}", "neither all texts nor all lists of messages"),
        (b"{\"chosen\": [], \"rejected\": [{}]}", "'chosen' is empty"),
        (b"{\"chosen\": [{\"role\": \"a\"}], \"rejected\": []}", "'chosen', message 1: 'content' is missing"),
        (b"{\"messages\": \"a\"}", "'messages' is not a list of messages"),
        (b"{\"messages\": []}", "'messages' is empty"),
        (b"{\"messages\": [1]}", "'messages', message 1: it is not an object"),
        (b"{\"messages\": [{\"role\": \"user\"}]}", "'messages', message 1: 'content' is missing"),
        (b"{\"messages\": [{\"role\": 1, \"content\": \"a\"}]}", "'messages', message 1: 'role' is not a text"),
        (b"{\"messages\": [{\"role\": \"a\", \"content\": null}]}", "message 1: 'content' is not a text"),
    ];
    for (line, words) in cases {
        let file = [b"{\"text\": \"good\"}\n\n", *line, b"\n{\"text\": \"good\"}"].concat();
        let (records, errors) = parse_jsonl("a.jsonl", &file).unwrap();
        assert_eq!((records.len(), errors.len(), errors[0].line), (2, 1, 3));
        assert!(errors[0].message.contains(words), "{words}: {}", errors[0].message);
    }
    let many = [b"{\"text\": \"good\"}\n".to_vec(), b"x\n".repeat(5000)].concat();
    let (_, errors) = parse_jsonl("a.jsonl", &many).unwrap();
    assert_eq!((errors.len(), errors[1000].message.as_str()), (1001, "further errors are not listed"));
    let long = [b"{\"text\": \"", vec![b'x'; 17 << 20].as_slice(), b"\"}\n{\"text\": \"good\"}"].concat();
    assert!(parse_jsonl("a.jsonl", &long).unwrap().1[0].message.contains("at most 16777216 are read"));
    let turns = format!("{{\"messages\": [{}{{}}]}}\n{{\"text\": \"good\"}}", "{},".repeat(400));
    assert!(parse_jsonl("a.jsonl", turns.as_bytes()).unwrap().1[0].message.contains("has 401 messages"));
}

#[test]
fn files_without_a_record_say_why() {
    let utf16: Vec<u8> = "{\"text\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: &[(&[u8], &str)] = &[
        (b"", "a.jsonl: it is empty"),
        (b"\n \r\n", "a.jsonl: it is empty"),
        (b"\xef\xbb\xbf", "a.jsonl: it is empty"),
        (b"\xff\xfe{\0", "a.jsonl: it is UTF-16 or no text at all"),
        (b"\xfe\xff\0{", "a.jsonl: it is UTF-16 or no text at all"),
        (&utf16, "a.jsonl: it is UTF-16 or no text at all"),
        (b"PK\x03\x04\0\0\0\0", "a.jsonl: it is UTF-16 or no text at all"),
        (b"[\n{\"text\": \"a\"},\n{\"text\": \"b\"}\n]", "a.jsonl: it is one JSON list"),
        (b"\nid,text\n1,=1+1\n", "a.jsonl, line 2: it is not JSON"),
    ];
    for (file, words) in cases {
        let error = parse_jsonl("a.jsonl", file).unwrap_err();
        assert!(matches!(error, Error::BadData { .. }));
        assert!(error.to_string().starts_with(words), "{words}: {error}");
    }
}

/// A tokenizer of single bytes, with the special tokens `<s>` and `<end>`.
fn byte_tokenizer(add_bos: bool) -> Tokenizer {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>/|:.,!?'éĠĊÃ©".chars();
    let mut vocab: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
    for letter in letters {
        let id = vocab.len();
        vocab.entry(letter.to_string()).or_insert(id.into());
    }
    let token = |id: usize, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false});
    let tokenizer = serde_json::json!({
        "added_tokens": [token(vocab.len(), "<s>"), token(vocab.len() + 1, "<end>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    let settings = serde_json::json!({"bos_token": "<s>", "eos_token": "<end>", "add_bos_token": add_bos});
    let files = [
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", [&2u64.to_le_bytes()[..], b"{}"].concat()),
        ("tokenizer.json", serde_json::to_vec(&tokenizer).unwrap()),
        ("tokenizer_config.json", serde_json::to_vec(&settings).unwrap()),
    ];
    let files = files.map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>);
    pollster::block_on(Checkpoint::open(&files)).unwrap().tokenizer().unwrap()
}

/// The example's text with what is learned in brackets.
fn shown(example: &Example, tokenizer: &Tokenizer) -> String {
    let mut text = String::new();
    let mut inside = false;
    for (&id, &supervised) in example.ids.iter().zip(&example.supervised) {
        if supervised != inside {
            text.push(if supervised { '[' } else { ']' });
            inside = supervised;
        }
        text += &tokenizer.decode(&[id], false).unwrap();
    }
    if inside { text + "]" } else { text }
}

const PLAIN: &str = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}";

#[test]
fn what_is_learned_is_the_answer_and_its_end() {
    let tokenizer = byte_tokenizer(false);
    let template = ChatTemplate::new("t", PLAIN, "<s>", "<end>").unwrap();
    let show = |record: &Record, max_length: usize| {
        tokenize(record, &tokenizer, Some(&template), max_length).map(|example| shown(&example, &tokenizer))
    };
    let messages = vec![
        message("system", "s"),
        message("user", "q"),
        message("assistant", "one <end> two"),
        message("user", "r"),
        message("assistant", ""),
        message("assistant", "x"),
    ];
    let all = Record::Messages { messages: messages.clone(), given: 0, tools: vec![] };
    assert_eq!(
        show(&all, 1000).unwrap(),
        "<s>system:s<end>\n<s>user:q<end>\n<s>assistant:[one <end> two<end>]\n<s>user:r<end>\n\
         <s>assistant:[<end>]\n<s>assistant:[x<end>]\n"
    );
    let last = Record::Messages { messages, given: 4, tools: vec![] };
    assert!(
        show(&last, 1000).unwrap().contains("<s>assistant:one <end> two<end>\n<s>user:r<end>\n<s>assistant:[<end>]")
    );
    assert_eq!(show(&all, 18).unwrap(), "<s>system:s<end>\n<s>user:q");
    assert_eq!(show(&all, 0).unwrap(), "");

    let pair = Record::PromptCompletion { prompt: "ab".to_owned(), completion: " cd".to_owned() };
    assert_eq!(show(&pair, 1000).unwrap(), "ab[ cd<end>]");
    let no_prompt = Record::PromptCompletion { prompt: String::new(), completion: "cd<end>".to_owned() };
    assert_eq!(show(&no_prompt, 1000).unwrap(), "c[d<end>]");
    assert_eq!(show(&Record::Text("abc".to_owned()), 1000).unwrap(), "a[bc<end>]");
    assert_eq!(show(&Record::Text(String::new()), 1000).unwrap(), "<end>");

    let with_bos = byte_tokenizer(true);
    let example = tokenize(&Record::Text("abc".to_owned()), &with_bos, None, 1000).unwrap();
    assert_eq!(shown(&example, &with_bos), "<s>[abc<end>]");
    let example = tokenize(&pair, &with_bos, None, 1000).unwrap();
    assert_eq!(shown(&example, &with_bos), "<s>ab[ cd<end>]");
}

#[test]
fn pairs_are_an_answer_to_prefer_and_one_to_avoid() {
    let tokenizer = byte_tokenizer(false);
    let template = ChatTemplate::new("t", PLAIN, "<s>", "<end>").unwrap();
    let dataset =
        |line: &str, max_length| Dataset::new("a.jsonl", line.as_bytes(), &tokenizer, Some(&template), max_length);
    let (user, assistant) = ("{\"role\": \"user\", \"content\": \"q\"}", "{\"role\": \"assistant\", \"content\": ");
    let conversation = "<s>user:q<end>\n<s>assistant:[one<end>]\n | <s>user:q<end>\n<s>assistant:[two<end>]\n";
    for (line, expected) in [
        ("{\"prompt\": \"ab\", \"chosen\": \" c\", \"rejected\": \" de\"}".to_owned(), "ab[ c<end>] | ab[ de<end>]"),
        // What both have in common is the prompt, but for a space before what differs.
        (
            "{\"chosen\": \"ab cd\", \"rejected\": \"ab de\", \"prompt\": null}".to_owned(),
            "ab[ cd<end>] | ab[ de<end>]",
        ),
        ("{\"chosen\": \"abc\", \"rejected\": \"abd\"}".to_owned(), "ab[c<end>] | ab[d<end>]"),
        ("{\"chosen\": \"ab\", \"rejected\": \"abc\"}".to_owned(), "a[b<end>] | a[bc<end>]"),
        ("{\"chosen\": \"x\", \"rejected\": \"yz\"}".to_owned(), "x[<end>] | y[z<end>]"),
        (
            format!(
                "{{\"prompt\": [{user}], \"chosen\": [{assistant}\"one\"}}], \"rejected\": [{assistant}\"two\"}}]}}"
            ),
            conversation,
        ),
        (
            format!("{{\"chosen\": [{user}, {assistant}\"one\"}}], \"rejected\": [{user}, {assistant}\"two\"}}]}}"),
            conversation,
        ),
        // As published: the prompt as a text beside whole conversations, or beside the answers alone.
        (
            format!(
                "{{\"prompt\": \"q\", \"chosen\": [{user}, {assistant}\"one\"}}], \"rejected\": [{user}, {assistant}\"two\"}}]}}"
            ),
            conversation,
        ),
        (
            format!("{{\"prompt\": \"q\", \"chosen\": [{assistant}\"one\"}}], \"rejected\": [{assistant}\"two\"}}]}}"),
            conversation,
        ),
    ] {
        let pairs = dataset(&line, 1000).unwrap().pairs;
        let text = [&pairs[0].chosen, &pairs[0].rejected].map(|example| shown(example, &tokenizer)).join(" | ");
        assert_eq!(text, expected, "{line}");
    }

    let pair = "{\"prompt\": \"abc\", \"chosen\": \" defg\", \"rejected\": \" defh\"}\n";
    let cut = dataset(pair, 8).unwrap();
    let report = cut.report();
    assert_eq!((report.preference_pairs, report.truncated, report.longest, report.tokens), (1, 1, 8, 16));
    assert_eq!((report.supervised_tokens, report.preview.len(), report.preview[1].line), (10, 2, 1));
    for (line, max_length, words) in [
        (pair, 7, "the chosen and the rejected answer are the same within 7 tokens"),
        (pair, 3, "nothing of the chosen answer is left within 3 tokens"),
        ("{\"chosen\": \"a\", \"rejected\": \"a\"}\n", 100, "the chosen and the rejected answer are the same"),
        (
            "{\"prompt\": [{\"role\": \"user\", \"content\": \"q\"}], \"chosen\": [{\"role\": \"assistant\", \"content\": \"a\"}], \"rejected\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
            100,
            "there is nothing to learn in it: no rejected answer",
        ),
    ] {
        let error = dataset(line, max_length).unwrap_err().to_string();
        assert_eq!(error, format!("a.jsonl, line 1: no example can be used: {words}"));
    }
}

#[test]
fn templates_that_cannot_be_taken_apart_are_refused() {
    let tokenizer = byte_tokenizer(false);
    let record = Record::Messages {
        messages: vec![message("user", "q"), message("assistant", "a"), message("user", "r")],
        given: 0,
        tools: vec![],
    };
    // Answers before the last question are written differently.
    let forgetful = "{% for m in messages %}{{ m.content if loop.last else '.' }}{% endfor %}";
    let template = ChatTemplate::new("t", forgetful, "<s>", "<end>").unwrap();
    let error = tokenize(&record, &tokenizer, Some(&template), 1000).unwrap_err().to_string();
    assert!(error.contains("message 2: the chat template writes a conversation differently"), "{error}");
    let error = tokenize(&record, &tokenizer, None, 1000).unwrap_err().to_string();
    assert!(error.contains("the model has no chat template"), "{error}");
}

#[test]
fn examples_with_nothing_to_learn_are_line_errors() {
    let tokenizer = byte_tokenizer(false);
    let template = ChatTemplate::new("t", PLAIN, "<s>", "<end>").unwrap();
    let dataset =
        |file: &str, max_length| Dataset::new("a.jsonl", file.as_bytes(), &tokenizer, Some(&template), max_length);
    let question = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}";
    let long = "{\"prompt\": \"abcdefgh\", \"completion\": \"i\"}";
    let unknown = "{\"text\": \"\"}";
    let good = "{\"text\": \"abcdef\"}";

    let mixed = dataset(&format!("{question}\n{long}\n{unknown}\n{good}\nx"), 4).unwrap();
    assert_eq!((mixed.examples.len(), mixed.examples[1].line, mixed.examples[1].truncated), (2, 4, false));
    let errors: Vec<(usize, &str)> = mixed.errors.iter().map(|error| (error.line, error.message.as_str())).collect();
    assert_eq!(errors[0], (1, "nothing to learn is left of it within 4 tokens"));
    assert_eq!(errors[1], (2, "nothing to learn is left of it within 4 tokens"));
    assert_eq!(errors[2], (3, "there is nothing to learn in it: no answer"));
    assert_eq!(errors[3].0, 5);
    let report = serde_json::to_value(mixed.report()).unwrap();
    assert_eq!(report["supervisedTokens"], 5);
    assert_eq!((&report["tokens"], &report["longest"], &report["truncated"]), (&7.into(), &4.into(), &0.into()));
    assert_eq!(report["preview"][0]["pieces"][1], serde_json::json!({"text": "bcd", "supervised": true}));

    let error = dataset(&format!("{question}\n{question}"), 100).unwrap_err();
    assert_eq!(error.code(), "bad_data");
    assert_eq!(
        error.to_string(),
        "a.jsonl, line 1: no example can be used: there is nothing to learn in it: no answer"
    );
}

/// Each example of a file as [`shown`] shows it, for a model with a chat template or without.
fn read(
    name: &str,
    file: &str,
    mapping: Option<&DataMapping>,
    chat: bool,
    max_length: usize,
) -> (Option<Shape>, Vec<String>) {
    let tokenizer = byte_tokenizer(false);
    let template = ChatTemplate::new("t", PLAIN, "<s>", "<end>").unwrap();
    let file = DataFile { name, bytes: file.as_bytes(), format: None };
    let dataset = Dataset::read(file, mapping, &tokenizer, chat.then_some(&template), max_length).unwrap();
    assert_eq!(dataset.errors, []);
    (dataset.files[0].shape, dataset.examples.iter().map(|example| shown(example, &tokenizer)).collect())
}

#[test]
fn shapes_become_conversations_or_texts() {
    let turns = r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    let alpaca = r#"[{"instruction": "do", "input": "it", "output": "done"}, {"instruction": "do", "input": "", "output": "x"}]"#;
    let csv = "question,answer\nq,\"a,\nb\"\n";
    let cases = [
        ("a.jsonl", turns, Shape::Sharegpt, vec!["<s>system:s<end>\n<s>user:q<end>\n<s>assistant:[a<end>]\n"]),
        (
            "a.json",
            alpaca,
            Shape::Alpaca,
            vec!["<s>user:do\n\nit<end>\n<s>assistant:[done<end>]\n", "<s>user:do<end>\n<s>assistant:[x<end>]\n"],
        ),
        ("a.csv", csv, Shape::QuestionAnswer, vec!["<s>user:q<end>\n<s>assistant:[a,\nb<end>]\n"]),
        ("a.csv", "prompt,completion\nab,cd\n", Shape::PromptCompletion, vec!["ab[cd<end>]"]),
        ("a.txt", "ab\ncd", Shape::Text, vec!["a[b\ncd<end>]"]),
    ];
    for (name, file, shape, examples) in cases {
        let examples = examples.into_iter().map(str::to_owned).collect();
        assert_eq!(read(name, file, None, true, 1000), (Some(shape), examples), "{name}");
    }
    let (_, plain) = read("a.json", alpaca, None, false, 1000);
    assert!(plain[0].ends_with(" Instruction:\ndo\n\n Input:\nit\n\n Response:\n[done<end>]"), "{}", plain[0]);
    assert!(
        plain[0].starts_with("Below is an instruction that describes a task, paired with an input"),
        "{}",
        plain[0]
    );
    assert_eq!(read("a.csv", csv, None, false, 1000).1, ["q\n[a,\nb<end>]"]);
}

#[test]
fn mappings_name_columns_or_write_texts_of_them() {
    let name = |text: &str| Some(text.to_owned());
    let file = "{\"q\": \"x\", \"n\": 7, \"a\": \"y\", \"none\": null}";
    let pair = DataMapping { prompt: name("Q: {q} {n}{none} {{a}}"), completion: name("a"), ..Default::default() };
    // The tokenizer of these tests has no brackets.
    let (shape, chat) = read("a.jsonl", file, Some(&pair), true, 1000);
    assert_eq!((shape, chat), (Some(Shape::Mapped), vec!["<s>user:Q: x 7 a<end>\n<s>assistant:[y<end>]\n".to_owned()]));
    let plain = DataMapping { chat: Some(false), ..pair.clone() };
    assert_eq!(read("a.jsonl", file, Some(&plain), true, 1000).1, ["Q: x 7 a[y<end>]"]);
    assert_eq!(read("a.jsonl", file, Some(&pair), false, 1000).1, ["Q: x 7 a[y<end>]"]);
    let system = DataMapping { system: name("q"), ..pair };
    assert!(read("a.jsonl", file, Some(&system), true, 1000).1[0].starts_with("<s>system:x<end>\n<s>user:Q: x 7"));
    let text = DataMapping { text: name("a"), ..Default::default() };
    assert_eq!(read("a.jsonl", "{\"a\": \"abc\"}", Some(&text), true, 1000).1, ["a[bc<end>]"]);
    let turns = DataMapping { messages: name("talk"), ..Default::default() };
    let talk = r#"{"talk": [{"from": "user", "value": "q"}, {"role": "assistant", "content": "a"}]}"#;
    assert_eq!(read("a.jsonl", talk, Some(&turns), true, 1000).1, ["<s>user:q<end>\n<s>assistant:[a<end>]\n"]);

    let tokenizer = byte_tokenizer(false);
    for (from, words) in
        [("z", "the mapping names 'z', and it has 'q', 'n'"), ("{q", "has a bracket without its other")]
    {
        let mapping = DataMapping { text: name(from), ..Default::default() };
        let file = DataFile { name: "a.jsonl", bytes: file.as_bytes(), format: None };
        let error = Dataset::read(file, Some(&mapping), &tokenizer, None, 100).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn long_texts_go_on_in_the_next_example() {
    let tokenizer = byte_tokenizer(true);
    let text = "one two\n\nthree é ".repeat(9000);
    let read = |max_length| Dataset::new("a.txt", text.as_bytes(), &tokenizer, None, max_length).unwrap().examples;
    let whole = tokenize(&Record::Text(text.clone()), &tokenizer, None, usize::MAX).unwrap().ids;
    let bos = whole[0];
    for max_length in [2, 7, 1000] {
        let examples = read(max_length);
        assert!(examples.iter().all(|example| example.ids.len() <= max_length && !example.truncated));
        assert!(examples.iter().all(|example| example.ids[0] == bos && example.supervised[1..].iter().all(|&on| on)));
        let all: Vec<u32> = examples.iter().flat_map(|example| example.ids[1..].to_vec()).collect();
        assert_eq!(all, whole[1..]);
    }
}

#[test]
fn what_is_held_out_depends_on_content_and_seed_alone() {
    let tokenizer = byte_tokenizer(false);
    let line = |i: usize| format!("{{\"text\": \"example {}\"}}\n", i % 80);
    let (forward, backward): (String, String) = ((0..100).map(line).collect(), (0..100).rev().map(line).collect());
    let split = |text: &str, seed| {
        let mut dataset = Dataset::new("a.jsonl", text.as_bytes(), &tokenizer, None, 100).unwrap();
        assert_eq!(dataset.report().duplicates, 20);
        dataset.hold_out(0.25, seed);
        let ids = |examples: &[Example]| examples.iter().map(|example| example.ids.clone()).collect::<Vec<_>>();
        let (train, mut eval) = (ids(&dataset.examples), ids(&dataset.eval));
        assert_eq!(train.len() + eval.len(), 100);
        assert!(eval.iter().all(|example| !train.contains(example)));
        eval.sort();
        eval.dedup();
        assert_eq!(eval.len(), 20);
        eval
    };
    assert_eq!(split(&forward, 1), split(&backward, 1));
    assert_ne!(split(&forward, 1), split(&forward, 2));

    let dataset = |text: &str| Dataset::new("a.jsonl", text.as_bytes(), &tokenizer, None, 100).unwrap();
    let mut trained = dataset(&forward);
    trained.evaluate_on(dataset("{\"text\": \"new\"}\n{\"text\": \"example 3\"}\n")).unwrap();
    assert_eq!((trained.eval.len(), trained.errors.len(), trained.errors[0].line), (1, 1, 2));
    let report = trained.report();
    assert_eq!(report.histogram.iter().map(|bin| bin.count).sum::<usize>(), 100);
    assert!(report.histogram.len() <= 24 && report.histogram.last().unwrap().to >= report.longest);
}

#[test]
fn broken_rows_are_named_in_every_format() {
    let tokenizer = byte_tokenizer(false);
    let cases = [
        ("a.csv", "text,n\nab,1\n\"c\nd\",2\nef\ngh,3\n", 3, (5, "it has 1 values where the first line names 2")),
        ("a.csv", "text,n\nab,1\n\"cd,2\nef,3\n", 1, (3, "is there a quote that is never closed?")),
        ("a.tsv", "text\nab\n\ncd\tx\n", 1, (4, "it has 2 values where the first line names 1")),
        ("a.json", "[{\"text\": \"ab\"},\n\n{\"text\": nul},\n{\"text\": \"cd\"}]", 2, (3, "it is not JSON: expected")),
        ("a.json", "[{\"text\": \"ab\"},\n{\"text\": \"cd\"]", 1, (2, "it is not JSON: expected")),
        ("a.json", "[{\"text\": \"ab\"},\n{\"text\": \"cd}]", 1, (2, "is never closed")),
        ("a.json", "{\"data\": [{\"text\": \"ab\"},\n3, {\"text\": \"cd\"}]}", 2, (2, "it is not a JSON object")),
        (
            "a.csv",
            "conversations\nx\n\"[{\"\"from\"\": \"\"gpt\"\", \"\"value\"\": \"\"ab\"\"}]\"\n",
            1,
            (2, "not a list of turns"),
        ),
    ];
    let template = ChatTemplate::new("t", PLAIN, "<s>", "<end>").unwrap();
    for (name, file, examples, (line, words)) in cases {
        let dataset = Dataset::new(name, file.as_bytes(), &tokenizer, Some(&template), 100).unwrap();
        assert_eq!((dataset.examples.len(), dataset.errors.len()), (examples, 1), "{file}: {:?}", dataset.errors);
        let error = &dataset.errors[0];
        assert_eq!((error.file.as_str(), error.line), (name, line), "{file}: {}", error.message);
        assert!(error.message.contains(words), "{words}: {}", error.message);
    }
}
