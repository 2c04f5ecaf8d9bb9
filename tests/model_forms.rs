//! One small model in all forms that its files can have: the same bits come out, and quantised while it is loaded it is
//! the model whose file was quantised.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;

use crate::golden::logits::logits;
use crate::writer::{Item, Writer, small_model, split};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use web_lora::engine::{Engine, LoadOptions, PlanOptions};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{ByteSource, Checkpoint, DType, MemorySource, Quantization, dequantize, quantize};
use web_lora::train::Pass;
use web_lora::{Result, model};

const GOLDEN: &[u8] = include_bytes!("fixtures/golden/llama3-ropescaled-untied/model.safetensors");
const HEAD_DIM: usize = 16;

type Sources = Vec<Rc<dyn ByteSource>>;

fn sources(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Sources {
    let source = |(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>;
    files.into_iter().map(source).collect()
}

/// The golden model without its rotary scaling, which GGUF has as numbers rather than words.
fn config() -> (String, Vec<u8>) {
    let text = include_bytes!("fixtures/golden/llama3-ropescaled-untied/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(text).unwrap();
    config["rope_parameters"] = serde_json::json!({"rope_theta": 500000.0, "rope_type": "default"});
    ("config.json".to_owned(), serde_json::to_vec(&config).unwrap())
}

/// Its tensors, by name: name, shape, values.
fn tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors = tensors.into_iter();
    tensors.map(|(name, view)| (name, view.shape().to_vec(), dequantize(DType::F32, view.data()))).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Safetensors of the tensors whose number `belongs`, in `dtype`.
fn safetensors(dtype: Dtype, belongs: impl Fn(usize) -> bool) -> Vec<u8> {
    let half = |value: &f32| half::f16::from_f32(*value).to_le_bytes();
    let tensors = tensors().into_iter().enumerate().filter(|(at, _)| belongs(*at)).map(|(_, tensor)| tensor);
    let tensors = tensors.map(|(name, shape, values)| match dtype {
        Dtype::F16 => (name, shape, values.iter().flat_map(half).collect()),
        _ => (name, shape, bytes(&values)),
    });
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors.collect();
    let view = |(name, shape, data)| (name, TensorView::new(dtype, shape, data).unwrap());
    let views = tensors.iter().map(|(name, shape, data)| view((name, shape.clone(), data)));
    safetensors::serialize(views, None).unwrap()
}

/// The same as GGUF: matrices whose rows are whole blocks in `dtype`, all else in F32.
fn gguf(quantization: Option<Quantization>) -> Writer {
    let mut writer = small_model();
    for (key, value) in [
        ("block_count", 2u32),
        ("context_length", 2048),
        ("embedding_length", 64),
        ("feed_forward_length", 176),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 4),
    ] {
        writer.set(&format!("llama.{key}"), 4, value.to_le_bytes().into());
    }
    writer.set("llama.rope.freq_base", 6, 500_000f32.to_le_bytes().into());
    writer.tensors = tensors()
        .into_iter()
        .map(|(name, shape, mut values)| {
            let cols = *shape.last().unwrap();
            if name.contains("q_proj") || name.contains("k_proj") {
                values = permuted(&values, cols);
            }
            let dims: Vec<u64> = shape.iter().rev().map(|&dim| dim as u64).collect();
            let (kind, data) = match quantization.filter(|_| shape.len() == 2 && cols % 32 == 0) {
                Some(to) => (if to == Quantization::Q8_0 { 8 } else { 2 }, quantize(to, &values)),
                None => (0, bytes(&values)),
            };
            Item::new(&gguf_name(&name), &dims, kind, data)
        })
        .collect();
    writer
}

/// Rows of q and k as llama.cpp's converter orders them.
fn permuted(values: &[f32], cols: usize) -> Vec<f32> {
    let row = |stored: usize| {
        let (head, within) = (stored / HEAD_DIM, stored % HEAD_DIM);
        head * HEAD_DIM + within % 2 * (HEAD_DIM / 2) + within / 2
    };
    (0..values.len() / cols).flat_map(|stored| values[row(stored) * cols..][..cols].to_vec()).collect()
}

fn gguf_name(name: &str) -> String {
    let names = [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    names.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn folder(dtype: Dtype) -> Sources {
    sources([config(), ("model.safetensors".to_owned(), safetensors(dtype, |_| true))])
}

fn gguf_file(quantization: Option<Quantization>) -> Sources {
    sources([("small.gguf".to_owned(), gguf(quantization).bytes())])
}

/// The bits of the logits of a few tokens.
async fn bits(gpu: &Gpu, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
    let model = model::load(gpu, checkpoint, 64, &mut |_, _| true).await?;
    let mut pass = Pass::default();
    pass.push(&[1, 5, 260, 7, 30], &[true; 5]);
    Ok(logits(gpu, &model, None, &pass).await?.into_iter().map(f32::to_bits).collect())
}

#[test]
fn one_file_or_many_give_the_same_bits() {
    pollster::block_on(async {
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        let whole = bits(&gpu, &Checkpoint::open(&folder(Dtype::F32)).await.unwrap()).await.unwrap();
        assert!(whole.iter().all(|&bits| f32::from_bits(bits).is_finite()) && whole.iter().any(|&bits| bits != 0));
        let shard = |number: usize, belongs: fn(usize) -> bool| {
            (format!("model-{number:05}-of-00002.safetensors"), safetensors(Dtype::F32, belongs))
        };
        let shards = sources([shard(2, |at| at % 3 == 0), config(), shard(1, |at| at % 3 != 0)]);
        let parts = split(gguf(None), 4).into_iter().enumerate().rev();
        let parts = sources(parts.map(|(at, part)| (format!("m-{:05}-of-00004.gguf", at + 1), part.bytes())));
        for (form, files) in [("shards", shards), ("GGUF", gguf_file(None)), ("parts", parts)] {
            assert!(bits(&gpu, &Checkpoint::open(&files).await.unwrap()).await.unwrap() == whole, "{form}");
        }
    });
}

#[test]
fn quantised_while_loaded_is_the_quantised_file() {
    pollster::block_on(async {
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        // Root mean squares of a rounding error: a step of 1/127 of a block's largest number, of 1/8 of it.
        for (to, least, most) in [(Quantization::Q8_0, 0.003, 0.01), (Quantization::Q4_0, 0.05, 0.15)] {
            let file = Checkpoint::open(&gguf_file(Some(to))).await.unwrap();
            let expected = bits(&gpu, &file).await.unwrap();
            assert_eq!(file.quantization_error(), None);
            for files in [folder(Dtype::F32), gguf_file(None)] {
                let plain = Checkpoint::open(&files).await.unwrap();
                let ours = Checkpoint::open(&files).await.unwrap().quantized(to);
                assert!(bits(&gpu, &ours).await.unwrap() == expected, "{to:?}");
                assert!(bits(&gpu, &plain).await.unwrap() != expected, "{to:?} changes something");

                let mut sums = [0.0; 2];
                let (mut worst, mut n) = (0f64, 0);
                for tensor in ours.tensors() {
                    assert_eq!(tensor.dtype, file.tensor(&tensor.name).unwrap().dtype, "{}", tensor.name);
                    if tensor.dtype == DType::F32 {
                        continue;
                    }
                    let pairs = [&plain, &file].map(|model| pollster::block_on(model.read_f32(&tensor.name)).unwrap());
                    let square = |value: f32| f64::from(value).powi(2);
                    let all: f64 = pairs[0].iter().map(|&a| square(a)).sum();
                    let moved: f64 = pairs[0].iter().zip(&pairs[1]).map(|(a, b)| square(a - b)).sum();
                    sums = [sums[0] + all, sums[1] + moved];
                    (worst, n) = (worst.max((moved / all).sqrt()), n + 1);
                }
                let error = ours.quantization_error().unwrap();
                println!("{to:?}: {error:?}");
                assert_eq!((error.dtype.as_str(), error.tensors), (to.dtype().to_string().as_str(), n));
                assert!((error.relative / (sums[1] / sums[0]).sqrt() - 1.0).abs() < 1e-4, "{error:?}");
                assert!((error.worst / worst - 1.0).abs() < 1e-4, "{error:?} {worst}");
                assert!(least < error.relative && error.relative <= error.worst && error.worst < most, "{error:?}");
            }
        }
    });
}

#[test]
fn halves_are_quantised_as_their_values() {
    let model = pollster::block_on(Checkpoint::open(&folder(Dtype::F16))).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let values = pollster::block_on(model.read_f32(name)).unwrap();
    let model = model.quantized(Quantization::Q4_0);
    let tensor = model.tensor(name).unwrap();
    assert_eq!((tensor.row_bytes(), tensor.size_bytes()), (2 * 18, 176 * 2 * 18));
    let rows = pollster::block_on(model.read_rows(tensor, 3..100)).unwrap();
    assert_eq!(rows, quantize(Quantization::Q4_0, &values[3 * 64..100 * 64]));
    // 176 columns are no whole blocks; a vector is no matrix.
    for name in ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"] {
        assert_eq!(model.tensor(name).unwrap().dtype, DType::F16);
    }
}

/// GPT-2's files have `[in, out]`: blocks lie along a linear's inputs all the same.
#[test]
fn transposed_weights_are_quantised_along_their_inputs() {
    let (inputs, outputs) = (64, 6);
    let value = |row: usize, column: usize| (row * 7 + column * 13) as f32 % 17.0 - 8.0;
    let stored: Vec<f32> = (0..inputs * outputs).map(|at| value(at % outputs, at / outputs)).collect();
    let weight: Vec<f32> = (0..inputs * outputs).map(|at| value(at / inputs, at % inputs)).collect();
    let data = bytes(&stored);
    let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.into(), &data).unwrap();
    let views = [("h.0.mlp.c_fc.weight", view([inputs, outputs])), ("wpe.weight", view([outputs, inputs]))];
    let config = ("config.json".to_owned(), br#"{"model_type": "gpt2"}"#.to_vec());
    let files = sources([config, ("model.safetensors".to_owned(), safetensors::serialize(views, None).unwrap())]);
    let model = pollster::block_on(Checkpoint::open(&files)).unwrap().quantized(Quantization::Q4_0);
    let tensor = model.tensor("transformer.h.0.mlp.c_fc.weight").unwrap();
    assert_eq!((tensor.shape.as_slice(), tensor.dtype), ([outputs, inputs].as_slice(), DType::Q4_0));
    let rows = pollster::block_on(model.read_rows(tensor, 1..5)).unwrap();
    assert_eq!(rows, quantize(Quantization::Q4_0, &weight[inputs..5 * inputs]));
    assert_eq!(model.tensor("transformer.wpe.weight").unwrap().dtype, DType::F32, "as in llama.cpp");
}

#[test]
fn numbers_that_blocks_cannot_hold_are_refused() {
    for (number, to) in [
        (f32::NAN, Quantization::Q8_0),
        (f32::INFINITY, Quantization::Q4_0),
        (f32::NEG_INFINITY, Quantization::Q8_0),
        (f32::MAX, Quantization::Q8_0),
        (1e6, Quantization::Q4_0),
    ] {
        let weights = |dims: &[usize]| {
            let data = bytes(&vec![number; dims.iter().product()]);
            let view = TensorView::new(Dtype::F32, dims.to_vec(), &data).unwrap();
            safetensors::serialize([("a", view)], None).unwrap()
        };
        let open = |dims: &[usize]| {
            let files = sources([config(), ("model.safetensors".to_owned(), weights(dims))]);
            pollster::block_on(Checkpoint::open(&files)).unwrap().quantized(to)
        };
        let error = pollster::block_on(open(&[2, 32]).read_f32("a")).unwrap_err().to_string();
        let words = format!("model.safetensors: tensor 'a' has numbers that {} cannot hold", to.dtype());
        assert_eq!(error, words);
        assert_eq!(pollster::block_on(open(&[32]).read_f32("a")).unwrap().len(), 32);
    }
}

#[test]
fn an_engine_says_what_quantising_cost() {
    pollster::block_on(async {
        let options = DeviceOptions { default_limits: true, ..Default::default() };
        let mut engine = Engine::new(options).await.unwrap();
        let files = folder(Dtype::F16);
        let quantize = Some(Quantization::Q8_0);
        let info =
            engine.load_model(&files, LoadOptions { quantize, ..Default::default() }, &mut |_| true).await.unwrap();
        let quantization = info.quantization.unwrap();
        assert_eq!((info.dtype.as_str(), quantization.dtype.as_str(), quantization.tensors), ("Q8_0", "Q8_0", 14));
        assert!(quantization.relative > 0.0 && quantization.worst_tensor.ends_with(".weight"));
        let plan = engine.plan_memory(&files, PlanOptions { quantize, ..Default::default() }).await.unwrap();
        assert_eq!(plan.memory.weights, engine.allocated_bytes());

        let info = engine.load_model(&files, LoadOptions::default(), &mut |_| true).await.unwrap();
        assert_eq!((info.dtype.as_str(), info.quantization), ("F16", None));
    });
}
