//! Adapters merged into their bases: the weights that peft's `merge_and_unload` leaves (`tests/fixtures/merged`), the
//! logits of base and adapter, torch's rounding, and files that are read in any pieces and come in any number. From a GGUF
//! the same, with a tokenizer written of its metadata. With `MERGED_OUT`, folders are written there, which
//! `tests/fixtures/exports/check_merged.py` loads with transformers.
#![cfg(not(target_arch = "wasm32"))]

use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::golden::logits::logits;
use safetensors::SafeTensors;
use serde_json::Value;
use web_lora::Error;
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{
    AdapterFile, ByteSource, Checkpoint, DType, FileSource, LoraConfig, Matrix, Tokenizer, TokenizerFiles, dequantize,
    encode,
};
use web_lora::lora::Adapter;
use web_lora::merge::{MergeDType, MergeOptions, Merged, merge};
use web_lora::model;
use web_lora::train::Pass;

const CASES: [&str; 6] = ["gemma3", "gpt2", "llama", "phi3", "qwen2", "qwen3"];
/// Of `‖ours − theirs‖ / ‖theirs‖` in f32: peft sums the product of the factors in f32, we in f64.
const WEIGHT_TOLERANCE: f64 = 1e-6;
/// Of logits in f32, which both sum differently: the products of a merged weight are other numbers.
const LOGIT_TOLERANCE: f64 = 1e-5;

fn fixtures(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn open(paths: &[String]) -> Vec<Rc<dyn ByteSource>> {
    paths.iter().map(|path| Rc::new(FileSource::open(fixtures(path)).unwrap()) as Rc<dyn ByteSource>).collect()
}

fn folder(path: &str) -> Vec<Rc<dyn ByteSource>> {
    open(&["config.json", "model.safetensors"].map(|name| format!("{path}/{name}")))
}

fn gguf(case: &str) -> Vec<Rc<dyn ByteSource>> {
    open(&[format!("gguf/{case}.gguf")])
}

fn adapter(case: &str) -> AdapterFile {
    let read = |name: &str| std::fs::read(fixtures("merged").join(case).join(name)).unwrap();
    AdapterFile::parse(&read("adapter_config.json"), &read("adapter_model.safetensors")).unwrap()
}

fn options(dtype: MergeDType) -> MergeOptions {
    MergeOptions { dtype: Some(dtype), ..Default::default() }
}

async fn merged(files: &[Rc<dyn ByteSource>], adapter: &AdapterFile, options: &MergeOptions) -> Merged {
    merge(Checkpoint::open(files).await.unwrap(), files, adapter, options).unwrap()
}

/// All of a file, in pieces of so many bytes.
async fn read(source: &Rc<dyn ByteSource>, piece: usize) -> Vec<u8> {
    let mut bytes = vec![];
    while (bytes.len() as u64) < source.size_bytes() {
        let left = source.size_bytes() as usize - bytes.len();
        bytes.extend(source.read(bytes.len() as u64, piece.min(left)).await.unwrap());
    }
    bytes
}

fn source(merged: &Merged, name: &str) -> Rc<dyn ByteSource> {
    let found = merged.files.iter().find(|file| file.name == name);
    found.unwrap_or_else(|| panic!("there is no {name}")).source.clone()
}

fn error_of(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let off = square(&mut ours.iter().zip(theirs).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    (off / square(&mut theirs.iter().map(|&value| value.into()))).sqrt()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    dequantize(DType::F32, bytes)
}

#[test]
fn weights_are_those_that_peft_merges() {
    pollster::block_on(async {
        for case in CASES {
            let theirs = std::fs::read(fixtures("merged").join(case).join("merged.safetensors")).unwrap();
            let theirs = SafeTensors::deserialize(&theirs).unwrap();
            for (kind, files) in [("folder", folder(&format!("gguf/{case}"))), ("gguf", gguf(case))] {
                let ours = merged(&files, &adapter(case), &options(MergeDType::F32)).await;
                let ours = read(&source(&ours, "model.safetensors"), 1 << 20).await;
                let ours = SafeTensors::deserialize(&ours).unwrap();
                let mut names = [ours.names(), theirs.names()];
                names.iter_mut().for_each(|names| names.sort_unstable());
                assert_eq!(names[0], names[1], "{case}, {kind}");
                let mut worst = 0f64;
                for (name, tensor) in theirs.tensors() {
                    let mine = ours.tensor(&name).unwrap();
                    assert_eq!(mine.shape(), tensor.shape(), "{case}, {kind}: {name}");
                    worst = worst.max(error_of(&floats(mine.data()), &floats(tensor.data())));
                }
                println!("{case}, {kind}: {} tensors, off by {worst:.1e}", names[0].len());
                assert!(worst < WEIGHT_TOLERANCE, "{case}, {kind}: {worst:e}");
            }
        }
    });
}

/// Mistral's adapter with ranks and alphas by pattern, against peft in float64.
#[test]
fn mistrals_weights_are_those_that_peft_merges() {
    pollster::block_on(async {
        let golden = std::fs::read(fixtures("golden/mistral-patterns/golden.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&golden).unwrap();
        let doubles = |name: &str| -> Vec<f32> {
            let bytes = golden.tensor(name).unwrap().data().as_chunks().0;
            bytes.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect()
        };
        let json = std::fs::read(fixtures("golden/mistral-patterns/golden.json")).unwrap();
        let lora = serde_json::from_slice::<Value>(&json).unwrap()["lora"].take();
        let number = |value: &Value| value.as_f64().unwrap();
        let pairs = |name: &str| lora[name].as_object().into_iter().flatten();
        let targets = lora["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let config = LoraConfig {
            use_rslora: lora["use_rslora"].as_bool().unwrap(),
            rank_pattern: pairs("rank_pattern").map(|(name, r)| (name.clone(), number(r) as usize)).collect(),
            alpha_pattern: pairs("alpha_pattern").map(|(name, alpha)| (name.clone(), number(alpha) as f32)).collect(),
            ..LoraConfig::new(number(&lora["r"]) as usize, number(&lora["alpha"]) as f32, targets.collect())
        };
        let factors = golden.names().into_iter().filter_map(|name| {
            let shape = golden.tensor(name).unwrap().shape().to_vec();
            let factor = name.strip_prefix("final.")?;
            Some((factor.to_owned(), Matrix { rows: shape[0], cols: shape[1], data: doubles(name) }))
        });
        let adapter = AdapterFile { config, tensors: factors.collect() };
        let ours = merged(&folder("golden/mistral-patterns"), &adapter, &options(MergeDType::F32)).await;
        let ours = read(&source(&ours, "model.safetensors"), 1 << 20).await;
        let ours = SafeTensors::deserialize(&ours).unwrap();
        let modules: Vec<&str> = golden.names().into_iter().filter_map(|name| name.strip_prefix("merged.")).collect();
        assert!(!modules.is_empty());
        for module in modules {
            let mine = floats(ours.tensor(&format!("{module}.weight")).unwrap().data());
            let off = error_of(&mine, &doubles(&format!("merged.{module}")));
            assert!(off < WEIGHT_TOLERANCE, "{module}: {off:e}");
        }
    });
}

async fn answer(gpu: &Gpu, files: &[Rc<dyn ByteSource>], adapter: Option<&AdapterFile>) -> Vec<f32> {
    let checkpoint = Checkpoint::open(files).await.unwrap();
    let model = model::load(gpu, &checkpoint, 64, &mut |_, _| true).await.unwrap();
    let adapter = adapter.map(|file| Adapter::from_file(gpu, file, &model.modules()).unwrap());
    let mut pass = Pass::default();
    let ids: Vec<u32> = ids();
    pass.push(&ids, &vec![false; ids.len()]);
    logits(gpu, &model, adapter.as_ref(), &pass).await.unwrap()
}

fn ids() -> Vec<u32> {
    (0..23).map(|at| at * 7 % 40).collect()
}

fn sources(merged: &Merged) -> Vec<Rc<dyn ByteSource>> {
    merged.files.iter().map(|file| file.source.clone()).collect()
}

/// Writes a merged model, what its logits are to be, and of what.
async fn write(merged: &Merged, name: &str, logits: &[f32]) {
    let Some(out) = std::env::var_os("MERGED_OUT") else { return };
    let out = Path::new(&out).join(name);
    std::fs::create_dir_all(&out).unwrap();
    for file in &merged.files {
        std::fs::write(out.join(&file.name), read(&file.source, 1 << 20).await).unwrap();
    }
    std::fs::write(out.join("ids.json"), serde_json::to_vec(&ids()).unwrap()).unwrap();
    std::fs::write(out.join("logits.f32"), bytemuck::cast_slice(logits)).unwrap();
}

#[test]
fn a_merged_model_is_the_base_with_its_adapter() {
    pollster::block_on(async {
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        for case in CASES {
            let adapter = adapter(case);
            let files = [("folder", folder(&format!("gguf/{case}"))), ("gguf", gguf(case))];
            let (base, tuned) =
                (answer(&gpu, &files[0].1, None).await, answer(&gpu, &files[0].1, Some(&adapter)).await);
            let moved = error_of(&base, &tuned);
            for (kind, files) in &files {
                // Loading takes long: where no files are wanted, one model will do for the other types.
                let all = std::env::var_os("MERGED_OUT").is_some() || (case, *kind) == ("llama", "gguf");
                let types = [MergeDType::F32, MergeDType::F16, MergeDType::BF16];
                for dtype in &types[..if all { 3 } else { 1 }] {
                    let merged = merged(files, &adapter, &options(*dtype)).await;
                    let ours = answer(&gpu, &sources(&merged), None).await;
                    let off = error_of(&ours, &tuned);
                    println!("{case}, {kind}, {dtype:?}: off by {off:.1e}; the adapter moves logits by {moved:.1e}");
                    // F16 rounds each weight by up to 2^-11 of it, BF16 by 2^-8; a layer or seven add that up.
                    let tolerance = match dtype {
                        MergeDType::F32 => LOGIT_TOLERANCE,
                        MergeDType::F16 => 4e-3,
                        MergeDType::BF16 => 3e-2,
                    };
                    assert!(off < tolerance && moved > 4.0 * tolerance, "{case}, {kind}, {dtype:?}: {off:e}");
                    write(&merged, &format!("{case}-{kind}-{dtype:?}"), &ours).await;
                }
            }
        }
    });
}

#[test]
fn numbers_are_rounded_as_torch_does() {
    let file = std::fs::read(fixtures("merged/rounding.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let values = floats(file.tensor("f32").unwrap().data());
    assert!(values.len() > 10_000);
    for (dtype, name) in [(DType::F16, "f16"), (DType::BF16, "bf16"), (DType::F32, "f32")] {
        assert!(encode(dtype, &values) == file.tensor(name).unwrap().data(), "{dtype}");
    }
}

#[test]
fn files_come_in_any_pieces_and_any_number() {
    pollster::block_on(async {
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        // Groups of rows, norms less one and turned weights.
        for case in ["llama", "gemma3", "gpt2"] {
            let files = gguf(case);
            let whole = merged(&files, &adapter(case), &options(MergeDType::BF16)).await;
            let weights = source(&whole, "model.safetensors");
            let bytes = read(&weights, usize::MAX).await;
            assert!(read(&weights, 997).await == bytes, "{case}");
            assert!(weights.read(weights.size_bytes(), 1).await.is_err() && weights.read(u64::MAX, 1).await.is_err());

            let limit = 5000;
            let small = MergeOptions { max_shard_bytes: Some(limit), ..options(MergeDType::BF16) };
            let parts = merged(&files, &adapter(case), &small).await;
            let index = read(&source(&parts, "model.safetensors.index.json"), usize::MAX).await;
            let index: Value = serde_json::from_slice(&index).unwrap();
            let (mut data, mut shards) = (0, 0);
            for file in parts.files.iter().filter(|file| file.name.ends_with(".safetensors")) {
                let bytes = read(&file.source, usize::MAX).await;
                let tensors = SafeTensors::deserialize(&bytes).unwrap();
                let size: usize = tensors.iter().map(|(_, tensor)| tensor.data().len()).sum();
                assert!(size as u64 <= limit || tensors.len() == 1, "{case}: {size}");
                for name in tensors.names() {
                    assert_eq!(index["weight_map"][name], file.name.as_str());
                }
                (data, shards) = (data + size, shards + 1);
            }
            assert_eq!(index["metadata"]["total_size"], data);
            assert_eq!(index["weight_map"].as_object().unwrap().len(), SafeTensors::deserialize(&bytes).unwrap().len());
            assert!(shards > 2, "{case}");
            let [one, many] = [answer(&gpu, &sources(&whole), None).await, answer(&gpu, &sources(&parts), None).await];
            assert!(one == many, "{case}");
        }
    });
}

#[test]
fn configs_are_as_they_were_but_for_the_type() {
    pollster::block_on(async {
        let json = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
        let folder = merged(&folder("gguf/gemma3"), &adapter("gemma3"), &options(MergeDType::BF16)).await;
        let mut ours = json(read(&source(&folder, "config.json"), 99).await);
        let base = json(std::fs::read(fixtures("gguf/gemma3/config.json")).unwrap());
        assert_eq!(
            (ours["dtype"].take(), ours.as_object_mut().unwrap().insert("dtype".into(), base["dtype"].clone())),
            ("bfloat16".into(), Some(Value::Null))
        );
        assert_eq!(ours, base);
        assert_eq!((folder.report.tokenizer, folder.report.base_quantized), (TokenizerFiles::None, false));
        // As the base has it where nothing is asked for.
        let plain = merged(&gguf("gemma3"), &adapter("gemma3"), &MergeOptions::default()).await;
        assert_eq!((plain.report.dtype, plain.report.merged), (MergeDType::F32, 3 * 7));
        let config = json(read(&source(&plain, "config.json"), 99).await);
        for field in ["architectures", "layer_types", "rope_parameters", "sliding_window", "tie_word_embeddings"] {
            assert_eq!(config[field], base[field], "{field}");
        }
        assert_eq!((&config["rope_theta"], &config["rope_local_base_freq"]), (&1e6.into(), &1e4.into()));
    });
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    pollster::block_on(async {
        let files = folder("gguf/llama");
        let open = async |files: &[Rc<dyn ByteSource>]| Checkpoint::open(files).await.unwrap();
        let mut more = adapter("llama");
        more.tensors.insert(
            "model.layers.0.self_attn.q_proj.lora_magnitude_vector".into(),
            Matrix { rows: 1, cols: 1, data: vec![1.0] },
        );
        let refused = merge(open(&files).await, &files, &more, &MergeOptions::default()).err().unwrap();
        assert!(refused.to_string().contains("lora_magnitude_vector"), "{refused}");
        let refused = merge(open(&files).await, &files, &adapter("qwen3"), &MergeOptions::default()).err().unwrap();
        assert!(matches!(refused, Error::AdapterMismatch { .. }), "{refused}");
        let none = MergeOptions { max_shard_bytes: Some(0), ..Default::default() };
        let refused = merge(open(&files).await, &files, &adapter("llama"), &none).err().unwrap();
        assert!(matches!(refused, Error::BadSetting { name, .. } if name == "maxShardBytes"));
        // 1e5 is more than F16 has.
        let mut large = adapter("llama");
        let factor = large.tensors.get_mut("model.layers.0.self_attn.q_proj.lora_B").unwrap();
        factor.data.iter_mut().for_each(|value| *value = 1e5);
        let merged = merged(&files, &large, &options(MergeDType::F16)).await;
        let weights = source(&merged, "model.safetensors");
        let refused = weights.read(0, weights.size_bytes() as usize).await.unwrap_err();
        assert!(refused.to_string().contains("q_proj.weight: it has numbers that F16 cannot hold"), "{refused}");
    });
}

/// The tokenizer.json made of a GGUF's metadata, in the crate that reads Hugging Face's.
#[test]
fn a_tokenizer_is_written_of_a_ggufs_metadata() {
    pollster::block_on(async {
        let mut cases = 0;
        for entry in std::fs::read_dir(fixtures("tokenizers/small")).unwrap() {
            let case = entry.unwrap().path();
            if !case.join("vocab.gguf").exists() {
                continue;
            }
            let vocab = Rc::new(FileSource::open(case.join("vocab.gguf")).unwrap()) as Rc<dyn ByteSource>;
            let ours = Tokenizer::from_gguf(&vocab).await.unwrap();
            let json = ours.to_json().unwrap();
            let theirs: tokenizers::Tokenizer = serde_json::from_slice(&json).unwrap();
            let expected: Value = serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
            for text in expected["texts"].as_array().unwrap() {
                let text = text.as_str().unwrap();
                let ids = ours.encode(text).unwrap();
                assert_eq!(theirs.encode(text, false).unwrap().get_ids(), ids, "{}: {text:?}", case.display());
                assert_eq!(theirs.decode(&ids, false).unwrap(), ours.decode(&ids, false).unwrap());
                let with_bos: Vec<u32> = ours.bos().filter(|_| ours.add_bos).into_iter().chain(ids).collect();
                assert_eq!(theirs.encode(text, true).unwrap().get_ids(), with_bos, "{}: {text:?}", case.display());
            }
            cases += 1;
        }
        assert!(cases >= 7, "{cases}");
    });
}
