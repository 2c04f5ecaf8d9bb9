//! Adapter files that peft wrote are read, written and read again; those we cannot honour are refused by name.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use web_lora::Error;
use web_lora::io::{AdapterFile, LoraConfig, Matrix, ModuleNames};

/// Adapters that peft wrote for six architectures.
fn folders() -> Vec<PathBuf> {
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapters");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(cases)
        .expect("tests/fixtures/adapters is there")
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.is_dir())
        .collect();
    folders.sort();
    folders
}

#[test]
fn peft_adapters_survive_reading_and_writing() {
    let mut read = 0;
    for folder in folders() {
        let config = std::fs::read(folder.join("adapter_config.json")).unwrap();
        let weights = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let theirs: serde_json::Map<String, Value> = serde_json::from_slice(&config).unwrap();
        let adapter =
            AdapterFile::parse(&config, &weights).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let (our_config, our_weights) = adapter.write();
        assert_eq!(AdapterFile::parse(&our_config, &our_weights).unwrap(), adapter);

        let mut ours: serde_json::Map<String, Value> = serde_json::from_slice(&our_config).unwrap();
        let mut theirs = theirs;
        // The one set that peft writes in no order.
        for config in [&mut ours, &mut theirs] {
            config["target_modules"].as_array_mut().unwrap().sort_by_key(|name| name.to_string());
        }
        assert_eq!(ours, theirs);
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());

        let (_, our_header) = safetensors::SafeTensors::read_metadata(&our_weights).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&weights).unwrap();
        assert_eq!(our_header.metadata(), header.metadata());
        let (ours, theirs) = (our_header.tensors(), header.tensors());
        assert_eq!(ours.keys().collect::<std::collections::BTreeSet<_>>(), theirs.keys().collect());
        // The golden adapters are of float64 models; ours are F32.
        assert!(theirs.iter().all(|(name, info)| ours[name].shape == info.shape && ours[name].dtype == Dtype::F32));
        read += 1;
    }
    assert!(read >= 6, "there are {read} adapters to read");
}

fn small_adapter() -> AdapterFile {
    let module = "model.layers.0.self_attn.q_proj";
    let a = Matrix { rows: 2, cols: 3, data: vec![0.5, -1.0, 2.0, 0.25, 0.0, 1.5] };
    let b = Matrix { rows: 4, cols: 2, data: vec![1.0; 8] };
    AdapterFile {
        config: LoraConfig {
            use_rslora: true,
            base_model_name_or_path: Some("a model".to_owned()),
            ..LoraConfig::new(2, 3.5, vec!["q_proj".to_owned()])
        },
        tensors: BTreeMap::from([(format!("{module}.lora_A"), a), (format!("{module}.lora_B"), b)]),
    }
}

#[test]
fn settings_are_kept() {
    let adapter = small_adapter();
    let (config, weights) = adapter.write();
    assert_eq!(AdapterFile::parse(&config, &weights).unwrap(), adapter);
    let module = "model.layers.0.self_attn.q_proj";
    assert_eq!(adapter.config.of_module(module).unwrap(), Some((2, 3.5 / 2f32.sqrt())));
    assert_eq!(LoraConfig { use_rslora: false, ..adapter.config }.of_module(module).unwrap(), Some((2, 1.75)));
}

/// The rules are peft's; `tests/fixtures/make_golden.py` has cases that peft itself trained.
#[test]
fn modules_are_chosen_as_peft_chooses_them() {
    let base = LoraConfig::new(8, 16.0, vec!["q_proj".to_owned(), "mlp.down_proj".to_owned()]);
    let ranks = |config: &LoraConfig| -> Vec<Option<(usize, f32)>> {
        ["0.self_attn.q_proj", "0.self_attn.xq_proj", "0.mlp.down_proj", "11.self_attn.q_proj"]
            .map(|name| config.of_module(&format!("model.layers.{name}")).unwrap())
            .into()
    };
    let eight = Some((8, 2.0));
    assert_eq!(ranks(&base), [eight, None, eight, eight]);
    let layers = LoraConfig { layers_to_transform: Some(vec![1, 11]), ..base.clone() };
    assert_eq!(ranks(&layers), [None, None, None, eight]);
    let pattern = LoraConfig { target_modules: ModuleNames::Pattern(r".*\.0\.(?!mlp).*".to_owned()), ..base.clone() };
    assert_eq!(ranks(&pattern), [eight, eight, None, None]);
    let exclude_modules = Some(ModuleNames::Names(vec!["layers.11.self_attn.q_proj".to_owned()]));
    assert_eq!(ranks(&LoraConfig { exclude_modules, ..base.clone() }), [eight, None, eight, None]);
    let patterns = LoraConfig {
        rank_pattern: vec![("0.self_attn.q_proj".to_owned(), 4), ("q_proj".to_owned(), 2), ("proj".to_owned(), 1)],
        alpha_pattern: vec![(r"mlp\..*".to_owned(), 1.0)],
        ..base
    };
    assert_eq!(ranks(&patterns), [Some((4, 4.0)), None, Some((8, 0.125)), Some((2, 8.0))]);
}

#[test]
fn what_would_change_the_result_is_refused_by_name() {
    let (config, weights) = small_adapter().write();
    let config: serde_json::Map<String, Value> = serde_json::from_slice(&config).unwrap();
    let cases = [
        ("peft_type", json!("LOHA")),
        ("bias", json!("vera_only")),
        ("layers_pattern", json!("layers")),
        ("layer_replication", json!([[0, 2]])),
        ("lora_bias", json!(true)),
        ("alora_invocation_tokens", json!([1, 2])),
        ("trainable_token_indices", json!([1])),
        ("target_parameters", json!(["a.b"])),
        ("use_qalora", json!(true)),
        ("arrow_config", json!({"top_k": 2})),
        ("init_lora_weights", json!("pissa")),
        ("a_field_of_tomorrow", json!(true)),
    ];
    for (field, value) in cases {
        let mut config = config.clone();
        config.insert(field.to_owned(), value);
        let config = serde_json::to_vec(&config).unwrap();
        match AdapterFile::parse(&config, &weights) {
            Err(Error::Unsupported { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let mut all = config.clone();
    all.insert("target_modules".to_owned(), json!("all-linear"));
    let adapter = AdapterFile::parse(&serde_json::to_vec(&all).unwrap(), &weights).unwrap();
    assert_eq!(adapter.config.target_modules, ModuleNames::Names(vec!["q_proj".to_owned()]));
}

#[test]
fn broken_adapters_say_what_is_broken() {
    let adapter = small_adapter();
    let (config, weights) = adapter.write();
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(&config).unwrap();
    for (field, value, words) in [
        ("r", json!(0), "'r' is not"),
        ("r", json!(-1), "'r' is not"),
        ("r", json!(4), "says rank 4"),
        ("r", json!(1e300), "'r' is not"),
        ("lora_alpha", json!("8"), "'lora_alpha' is not"),
        ("lora_alpha", json!(1e300), "'lora_alpha' is not"),
        ("target_modules", json!(null), "'target_modules' is missing"),
        ("target_modules", json!([1]), "not a list of names"),
        ("target_modules", json!(["k_proj"]), "of no module"),
        ("target_modules", json!(".*k_proj"), "of no module"),
        ("target_modules", json!("("), "the pattern '("),
        ("exclude_modules", json!(["q_proj"]), "of no module"),
        ("exclude_modules", json!({}), "not a list of names"),
        ("layers_to_transform", json!([1]), "of no module"),
        ("layers_to_transform", json!(1), "of no module"),
        ("layers_to_transform", json!(["one"]), "not a list of layers"),
        ("rank_pattern", json!({"q_proj": 4}), "says rank 4"),
        ("rank_pattern", json!({"q_proj": 0}), "'rank_pattern' has 0"),
        ("rank_pattern", json!({"(": 2}), "the pattern '("),
        ("alpha_pattern", json!([1]), "'alpha_pattern' is not"),
    ] {
        let mut fields = fields.clone();
        fields.insert(field.to_owned(), value);
        let error = AdapterFile::parse(&serde_json::to_vec(&fields).unwrap(), &weights).unwrap_err();
        assert!(error.code() == "bad_file" && error.to_string().contains(words), "{field}: {error}");
    }
    for length in 0..weights.len() {
        let error = AdapterFile::parse(&config, &weights[..length]).unwrap_err();
        assert!(error.to_string().starts_with("adapter_model.safetensors: "), "{error}");
    }
    for length in 0..config.len() - 2 {
        let error = AdapterFile::parse(&config[..length], &weights).unwrap_err();
        assert!(error.to_string().starts_with("adapter_config.json: "), "{error}");
    }

    let parse = |change: &dyn Fn(&mut AdapterFile)| {
        let mut adapter = adapter.clone();
        change(&mut adapter);
        let (config, weights) = adapter.write();
        AdapterFile::parse(&config, &weights).unwrap_err().to_string()
    };
    let a = "model.layers.0.self_attn.q_proj.lora_A";
    let not_a_number = parse(&|adapter| adapter.tensors.get_mut(a).unwrap().data[4] = f32::NAN);
    assert!(not_a_number.contains("NaN at element 4"), "{not_a_number}");
    assert!(parse(&|adapter| drop(adapter.tensors.remove(a))).contains("lora_B but no lora_A"));
    assert!(parse(&|adapter| adapter.tensors.clear()).contains("no factors"));
    assert!(parse(&|adapter| adapter.config.use_dora = true).contains("lora_A but no lora_magnitude_vector"));
    assert!(
        parse(&|adapter| (adapter.tensors.get_mut(a).unwrap().rows, adapter.tensors.get_mut(a).unwrap().cols) = (3, 2))
            .contains("3 × 2")
    );

    for (key, dtype, shape, words) in [
        ("base_model.model.x.q_proj.lora_A.weight", Dtype::I32, vec![2, 1], "tensor type I32"),
        ("base_model.model.x.q_proj.lora_A.weight", Dtype::F32, vec![2], "not that of a matrix"),
        (
            "base_model.model.x.q_proj.lora_magnitude_vector",
            Dtype::F32,
            vec![2],
            "'use_dora' of adapter_config.json is not",
        ),
        ("x.q_proj.lora_A.weight", Dtype::F32, vec![2, 1], "the tensor 'x.q_proj"),
    ] {
        let view = TensorView::new(dtype, shape, &[0; 8]).unwrap();
        let weights = safetensors::serialize([(key, view)], None).unwrap();
        let error = AdapterFile::parse(&config, &weights).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
