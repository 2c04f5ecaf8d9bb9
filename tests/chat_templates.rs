//! Chat templates give what transformers' Jinja gives, and hostile ones come to an end.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use web_lora::io::{ChatTemplate, Message};

#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: String,
}

#[test]
fn templates_give_jinjas_text() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/templates/templates.json")).unwrap();
    assert!(cases.len() > 15);
    for case in cases {
        let template = ChatTemplate::new("t", &case.source, "<s>", "</s>").unwrap();
        let text = template.render(&case.messages, case.add_generation_prompt);
        assert_eq!(text.as_ref(), Ok(&case.text), "{}", case.name);
    }
}

/// Conversations, and what transformers makes of each by the template of that name, without and with the prompt for an
/// answer.
#[derive(Deserialize)]
struct Published {
    cases: Vec<Conversation>,
    templates: BTreeMap<String, Vec<[Reference; 2]>>,
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Reference {
    text: Option<String>,
    error: Option<String>,
    /// Where generation blocks wrote, in characters.
    answers: Option<Vec<[usize; 2]>>,
}

#[test]
fn published_templates_give_transformers_text() {
    let published: Published = serde_json::from_str(include_str!("fixtures/templates/published.json")).unwrap();
    assert!(published.cases.len() >= 30 && published.templates.len() >= 9);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/templates/published");
    for (name, references) in &published.templates {
        let source = std::fs::read_to_string(format!("{folder}/{name}.jinja")).unwrap();
        check(name, &source, &published.cases, references);
    }
}

/// The templates that packages carry beside the real vocabularies, in the folder named by `TOKENIZERS_DIR`.
#[test]
#[ignore = "needs real vocabularies: make test-tokenizers fetches them"]
fn real_vocabularies_templates_give_transformers_text() {
    let folder = std::env::var("TOKENIZERS_DIR").expect("TOKENIZERS_DIR must name what make test-tokenizers fetches");
    let references = std::fs::read(format!("{folder}/templates/published.json")).unwrap();
    let published: Published = serde_json::from_slice(&references).unwrap();
    assert!(published.templates.len() >= 5);
    for (name, references) in &published.templates {
        let source = std::fs::read_to_string(format!("{folder}/templates/{name}.jinja")).unwrap();
        check(name, &source, &published.cases, references);
        println!("{name}: {} conversations", references.len());
    }
}

fn check(name: &str, source: &str, cases: &[Conversation], references: &[[Reference; 2]]) {
    let template = ChatTemplate::new("t", source, "<s>", "</s>").unwrap();
    assert_eq!(references.len(), cases.len());
    for (i, (case, both)) in cases.iter().zip(references).enumerate() {
        let tools = case.tools.as_deref().unwrap_or_default();
        for (reference, prompt) in both.iter().zip([false, true]) {
            let place = format!("{name}, conversation {i}, prompt {prompt}");
            match (template.render_with_tools(&case.messages, tools, prompt), &reference.text, &reference.error) {
                (Ok(text), Some(expected), _) => {
                    assert_eq!(&text, expected, "{place}");
                    let Some(answers) = &reference.answers else { continue };
                    let in_chars = |at: usize| text[..at].chars().count();
                    let got = template.answers(&case.messages, tools, &text).unwrap().expect("it has blocks");
                    let got: Vec<[usize; 2]> = got.iter().map(|at| [in_chars(at.start), in_chars(at.end)]).collect();
                    assert_eq!(&got, answers, "{place}");
                }
                (Err(error), None, Some(expected)) => assert!(error.to_string().contains(expected), "{place}: {error}"),
                (got, ..) => panic!("{place}: {got:?} where {:?} or {:?}", reference.text, reference.error),
            }
        }
    }
}

fn render(source: &str) -> web_lora::Result<String> {
    let messages = [Message::new("user", "Hi")];
    ChatTemplate::new("model.gguf", source, "<s>", "</s>")?.render(&messages, true)
}

#[test]
fn hostile_templates_come_to_an_end() {
    let nested = "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% endfor %}";
    let macros = "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    let output = "{% for a in range(1000) %}{% for b in range(100) %}{{ 'xxxxxxxxxx' * 100 }}{% endfor %}{% endfor %}";
    let deep = format!("{}x{}", "{% if true %}".repeat(2000), "{% endif %}".repeat(2000));
    let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000));
    let long = format!("{{# {} #}}", "x".repeat(2 << 20));
    let cases = [
        (nested, "takes more than 2000000 steps"),
        ("{% for a in range(1000000000) %}{% endfor %}", "range"),
        (macros, "recursion limit"),
        (output, "writes more than 16777216 bytes"),
        ("{{ 'x' * 10000000000 }}", "fails"),
        (deep.as_str(), "cannot be read"),
        (brackets.as_str(), "cannot be read"),
        (long.as_str(), "at most 1048576 are read"),
        ("{{ messages[0]['content'", "cannot be read"),
        ("{% include 'other' %}", "fails"),
        ("{% extends 'other' %}", "fails"),
        ("{% import 'os' as os %}{{ os.system('true') }}", "fails"),
        ("{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}", "fails"),
        ("{{ 1 // 0 }}", "fails"),
        ("{{ 9223372036854775807 * 9223372036854775807 * 9223372036854775807 }}", "fails"),
        ("{{ 'é'[0].foo.bar }}", "fails"),
        ("{{ strftime_now('%Q') }}", "does not know '%Q'"),
        ("a\n{{ raise_exception('roles must alternate') }}", "roles must alternate (its line 2)"),
    ];
    for (source, words) in cases {
        let start = std::time::Instant::now();
        let shown: String = source.chars().take(60).collect();
        let error = render(source).err().unwrap_or_else(|| panic!("{shown}: it was rendered")).to_string();
        assert!(error.starts_with("model.gguf: its chat template "), "{shown}: {error}");
        assert!(error.contains(words), "{shown}: {error}");
        assert!(start.elapsed().as_secs() < 5, "{shown}: {:?}", start.elapsed());
    }
}

#[test]
fn today_is_always_the_same_day() {
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "26 Jul 2024");
    assert_eq!(render("{{ strftime_now('%Y-%m-%d %A 100%%') }}").unwrap(), "2024-07-26 Friday 100%");
}
