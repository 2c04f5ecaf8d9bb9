//! Chat templates give what transformers' Jinja gives, and hostile ones come to an end.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;

use crate::fuzz::memory;
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
    let chain = format!("{{{{ a{} }}}}", "~a".repeat(50_000));
    let filters = format!("{{{{ a{} }}}}", "|trim".repeat(20_000));
    let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(15_000));
    let raw = format!("{{% set x %}}{{% for i in range(100000) %}}{}{{% endfor %}}{{% endset %}}", "x".repeat(100_000));
    let too_much = "too much text";
    let grown = |step: &str| {
        let grow = "{% set ns = namespace(x='0123456789abcdef') %}{% for i in range(100000) %}STEP{% endfor %}";
        grow.replace("STEP", step)
    };
    let [tilde, plus, times, set_block, joined, replaced, listed] = [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 9 %}",
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
        "{% set ns.x = [ns.x, ns.x, ns.x]|join(ns.x) %}",
        "{% set ns.x = ns.x|replace('0', ns.x) %}",
        "{% set ns.x = [ns.x, ns.x] %}",
    ]
    .map(grown);
    let nested_lists = grown("{% set ns.x = [ns.x] %}");
    let [lists, repeated, kept, compared, searched, counted, iterated, sliced, sorted] = [
        "{% set ns.l = (ns.l or [1]) + (ns.l or [1]) %}",
        "{% set ns.l = (ns.l or [1]) * 1000 %}",
        "{% set ns.l = (ns.l or []) + [ns.x ~ i * 1000000] %}",
        "{% set ns.x = ns.x[:1000000] ~ ns.x[:1000000] %}{% if ns.x == ns.x ~ '' %}{% endif %}",
        "{% set ns.x = ns.x[:1000000] ~ ns.x[:1000000] %}{% if ('b' * 9999) in ns.x %}{% endif %}",
        "{% set ns.x = ns.x[:1000000] ~ ns.x[:1000000] %}{% if ns.x.count('') == i %}{% endif %}",
        "{% set ns.x = ns.x[:1000000] ~ ns.x[:1000000] %}{% for c in ns.x %}{% break %}{% endfor %}",
        "{% set ns.x = ns.x[:1000000] ~ ns.x[:1000000] %}{% set y = ns.x[::-1] %}",
        "{% set ns.x = ns.x[:1000000] ~ ns.x[:1000000] %}{% set y = ns.x|sort %}",
    ]
    .map(grown);
    let cases = [
        (nested, "takes more than 500000 steps"),
        ("{% for a in range(1000000000) %}{% endfor %}", "range"),
        (macros, "recursion limit"),
        (output, too_much),
        ("{{ 'x' * 10000000000 }}", too_much),
        ("{{ 10000000000 * 'x' }}", too_much),
        ("{{ [1] * 10000000000 }}", too_much),
        ("{% set x = [1] * 1000000000000000000 %}{{ x|map('upper')|list }}", too_much),
        ("{{ ('x' * 10000000)|list }}", too_much),
        ("{{ 'x'|indent(10000000000) }}", "indents by more than 999"),
        ("{{ 'x'|indent(width=10000000000) }}", "indents by more than 999"),
        ("{{ '%09999999999d'|format(1) }}", "formats to more than 999 places"),
        ("{{ '%*d'|format(999999999, 1) }}", "formats to more than 999 places"),
        ("{{ '{:9999999999}'.format(1) }}", "formats to more than 999 places"),
        ("{{ '{:{}}'.format(1, 999999999) }}", "formats to more than 999 places"),
        ("{{ [1, 2]|batch(10000000000000000000) }}", "fails"),
        ("{{ [1, 2]|slice(1000000000000000000) }}", "fails"),
        ("{{ debug() }}", "fails"),
        ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "can be kept in a namespace"),
        ("{% set ns = namespace() %}{% set ns.a = [[ns]] %}{{ ns }}", "can be kept in a namespace"),
        ("{% macro m() %}{% endmacro %}{% set ns = namespace(m=m) %}", "can be kept in a namespace"),
        ("{{ f(*[1]) }}", "'*' before an argument is not supported"),
        ("{% autoescape true %}{% endautoescape %}", "'autoescape' is not supported"),
        (&tilde, too_much),
        (&plus, too_much),
        (&times, too_much),
        (&set_block, too_much),
        (&joined, too_much),
        (&replaced, too_much),
        (&listed, too_much),
        (&nested_lists, "lists in lists more than 32 deep"),
        (&lists, too_much),
        (&repeated, too_much),
        (&kept, too_much),
        (&compared, too_much),
        (&searched, too_much),
        (&counted, too_much),
        (&iterated, too_much),
        (&sliced, too_much),
        (&sorted, too_much),
        (&raw, too_much),
        (&chain, "more than 500 words between"),
        (&filters, "more than 500 words between"),
        (&branches, "more than 200 branches"),
        (deep.as_str(), "cannot be read"),
        (brackets.as_str(), "cannot be read"),
        (long.as_str(), "at most 262144 are read"),
        ("{{ messages[0]['content'", "cannot be read"),
        ("{% include 'other' %}", "'include' is not supported (its line 1)"),
        ("{% extends 'other' %}", "'extends' is not supported"),
        ("{% import 'os' as os %}{{ os.system('true') }}", "'import' is not supported"),
        ("{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}", "fails"),
        ("{{ 1 // 0 }}", "fails"),
        ("{{ 9223372036854775807 * 9223372036854775807 * 9223372036854775807 }}", "fails"),
        ("{{ 'é'[0].foo.bar }}", "fails"),
        ("{{ 'a'[::0] }}", "the step 0"),
        ("{{ strftime_now('%Q') }}", "does not know '%Q'"),
        ("a\n{{ raise_exception('roles must alternate') }}", "roles must alternate (its line 2)"),
    ];
    for (source, words) in cases {
        let start = std::time::Instant::now();
        let shown: String = source.chars().take(100).collect();
        let error = memory::within(&shown, source.len(), || render(source)).err();
        let error = error.unwrap_or_else(|| panic!("{shown}: it was rendered")).to_string();
        assert!(error.starts_with("model.gguf: its chat template "), "{shown}: {error}");
        assert!(error.contains(words), "{shown}: {error}");
        // A tenth of a second on a machine of its own.
        assert!(start.elapsed().as_secs() < 20, "{shown}: {:?}", start.elapsed());
    }
}

/// What would end in a panic, or never, in minijinja; Python's own results.
#[test]
fn edges_are_pythons() {
    for (source, text) in [
        ("{{ ''[::-1] }}|{{ messages[5:][::-1]|length }}", "|0"),
        ("{{ 'abc'[::-1] }}{{ 'abcdef'[4:1:-2] }}{{ 'abc'[-2:] }}{{ 'abc'[9:] }}{{ 'abc'[:-9] }}", "cbaecbc"),
        ("{{ [1, 2, 3][::-1] }}{{ [1, 2, 3][-9:2] }}{{ ('é🙂')[1] }}", "[3, 2, 1][1, 2]🙂"),
        ("{{ 'abc'.count('') }}{{ 'aaa'.count('a') }}", "43"),
        ("{{ 'abc'[-9223372036854775808:9223372036854775807:9223372036854775807] }}", "a"),
        ("{{ 'abc'[::-9223372036854775807] }}", "c"),
        (
            "{{ 1 + 2 }} {{ 1.5 + 2 }} {{ 2 * 3 }} {{ true + 1 }} {{ [1] + [2] }} {{ 'a' ~ 1 ~ none }}",
            "3 3.5 6 2 [1, 2] a1None",
        ),
        ("{{ ['a'] * 2 }}{{ 2 * 'ab' }}", "[\"a\", \"a\"]abab"),
        ("{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }}{% endfor %}", "37"),
        ("{% set a, b = [1, 2] %}{% set ns = namespace(x=1) %}{% set ns.x = ns.x + a %}{{ ns.x }}{{ b }}", "22"),
        ("{% filter upper %}a{{ 'b' }}{% endfilter %}{% set x | trim %} c {% endset %}{{ x }}", "ABc"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(text), "{source}");
    }
}

/// A conversation as long as any takes its share of the budget, also where it is put together piece by piece.
#[test]
fn long_conversations_are_written() {
    let messages: Vec<Message> =
        (0..400).map(|i| Message::new(["user", "assistant"][i % 2], &"word ".repeat(500))).collect();
    let source = "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.role ~ (m.content | trim) %}{% if messages|length > loop.index and messages[loop.index].role in ['user', 'x'] %}{% endif %}{% endfor %}{{ ns.text }}";
    let text = ChatTemplate::new("t", source, "<s>", "</s>").unwrap().render(&messages, false).unwrap();
    assert!(text.len() > 400 * 2499);
}

#[test]
fn today_is_always_the_same_day() {
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "26 Jul 2024");
    assert_eq!(render("{{ strftime_now('%Y-%m-%d %A 100%%') }}").unwrap(), "2024-07-26 Friday 100%");
}
