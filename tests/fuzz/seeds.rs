//! Sound inputs of each target, made of what the other tests have.

use super::bodies::joined;
use crate::writer;

/// Names and bytes.
pub(crate) fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let named = |(name, bytes): (&str, Vec<u8>)| (name.to_owned(), bytes);
    let seeds: Vec<(&str, Vec<u8>)> = match target {
        "adapter" => vec![("small", joined(&[ADAPTER_CONFIG, &safetensors(ADAPTER_WEIGHTS, 64)]))],
        "chat_template" => vec![
            ("small", TEMPLATE.into()),
            ("operators", OPERATORS.into()),
            ("qwen3", include_bytes!("../fixtures/templates/published/qwen3.jinja").to_vec()),
        ],
        "checkpoint" => {
            let run = serde_json::json!({"step": 3, "options": {"seed": 7}});
            vec![("small", web_lora::train::write_state(&run, &[("params", &[1; 40]), ("moments", &[])]).unwrap())]
        }
        "config" => vec![
            ("llama", include_bytes!("../fixtures/golden/llama3-ropescaled-untied/config.json").to_vec()),
            ("gemma3", include_bytes!("../fixtures/golden/gemma3-sliding/config.json").to_vec()),
            ("gpt2", include_bytes!("../fixtures/golden/gpt2/config.json").to_vec()),
            ("phi3", include_bytes!("../fixtures/gguf/phi3/config.json").to_vec()),
        ],
        "data" => {
            let as_format = |format: u8, bytes: &[u8]| [&[format], bytes].concat();
            vec![
                ("jsonl", as_format(0, include_bytes!("../fixtures/data/messages.jsonl"))),
                ("sharegpt", as_format(0, include_bytes!("../fixtures/data/sharegpt.jsonl"))),
                ("preference", as_format(0, include_bytes!("../fixtures/data/preference.jsonl"))),
                ("json", as_format(1, include_bytes!("../fixtures/data/alpaca.json"))),
                ("under", as_format(6, include_bytes!("../fixtures/data/under_data.json"))),
                ("csv", as_format(2, include_bytes!("../fixtures/data/quotes.csv"))),
                ("utf16", as_format(7, include_bytes!("../fixtures/data/utf16.csv"))),
                ("tsv", as_format(3, include_bytes!("../fixtures/data/tabs.tsv"))),
                ("text", as_format(4, include_bytes!("../fixtures/data/plain.txt"))),
            ]
        }
        "gguf" => {
            let mut chat = writer::small_model();
            chat.set("tokenizer.chat_template", 8, writer::text(TEMPLATE));
            let mut part = writer::split(writer::small_model(), 2).remove(0);
            part.set("split.count", 2, vec![1, 0]);
            vec![
                ("small", chat.bytes()),
                ("part", part.bytes()),
                ("llama-2", include_bytes!("../fixtures/tokenizers/small/llama-2/vocab.gguf").to_vec()),
            ]
        }
        "safetensors" => vec![("small", safetensors(WEIGHTS, 20)), ("empty", safetensors("{}", 0))],
        "shards" => {
            let shard = |name: &str| {
                safetensors(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#), 4)
            };
            vec![("two", joined(&[INDEX, &shard("a"), &shard("b")]))]
        }
        "tokenizer_json" => vec![("bpe", joined(&[SETTINGS, TOKENIZER])), ("unigram", joined(&[SETTINGS, UNIGRAM]))],
        other => panic!("{other} is no target"),
    };
    seeds.into_iter().map(named).collect()
}

fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0x3c; data_bytes]].concat()
}

const ADAPTER_CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
"rank_pattern": {"0.self_attn.q_proj": 2}, "alpha_pattern": {}, "lora_dropout": 0.1, "use_rslora": false}"#;
const ADAPTER_WEIGHTS: &str = r#"{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight":{"dtype":"F16","shape":[8,2],"data_offsets":[32,64]}}"#;
const WEIGHTS: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},"c":{"dtype":"BF16","shape":[0,9],"data_offsets":[16,16]},"d":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#;
const INDEX: &[u8] =
    br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
const SETTINGS: &[u8] =
    br#"{"bos_token": {"content": "<s>"}, "eos_token": "<s>", "add_bos_token": true, "chat_template": "{{ bos_token }}"}"#;
const TOKENIZER: &[u8] = br#"{"added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false,
"rstrip": false, "normalized": false, "special": true}],
"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "_"},
{"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
{"type": "Split", "pattern": {"Regex": "\\s+|[a-z]{1,3}(?!x)"}, "behavior": "Isolated", "invert": false},
{"type": "Digits", "individual_digits": true},
{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}]},
"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]},
"decoder": {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0},
{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "ByteLevel"}]},
"model": {"type": "BPE", "unk_token": "a", "fuse_unk": true, "byte_fallback": true,
"vocab": {"a": 0, "b": 1, "ab": 2, "t": 3, "<0x41>": 4}, "merges": [["a", "b"]]}}"#;
const UNIGRAM: &[u8] = br#"{"added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": true,
"rstrip": true, "normalized": true, "special": true}],
"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true},
"decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true},
"model": {"type": "Unigram", "unk_id": 1, "byte_fallback": true,
"vocab": [["<s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0], ["a", -3.5], ["\u2581a", -1.5], ["<0x41>", -9.0]]}}"#;
const TEMPLATE: &str = "{% for m in messages %}{%- if m.role == 'user' -%}[{{ m['content'] | trim | tojson }}]{% endif %}{% generation %}{{ m.content[1:] ~ loop.index }}{% endgeneration %}{% endfor %}{% set ns = namespace(a=1) %}{{ strftime_now('%d') }}";
const OPERATORS: &str = "{% macro m(a, b='x') %}{{ a + b }}{{ caller() if caller else '' }}{% endmacro %}{% call m('y') %}z{% endcall %}{% set ns = namespace(n=0, l=[]) %}{% for k, v in {'a': 1, 'b': [2.5, none]}.items() if k != 'c' %}{% set ns.n = ns.n + 1 %}{% set ns.l = ns.l + [k * 2] %}{{ v|string|replace('1', '22')|upper }}{% else %}{% break %}{% endfor %}{{ ns.l|join(',') }}{{ messages[::-1]|map(attribute='role')|list }}{% set t %}{{ 'a b'.split(' ')[-1] }}{% endset %}{{ t if t is string and 'b' in t and 1 < 2 <= 3 else -1 }}{{ '%03d'|format(7) }}{{ '{:>4}'.format(t) }}{{ [3, 1]|sort|tojson(indent=2) }}{{ 'x'|indent(2) }}{% filter trim %} f {% endfilter %}";
