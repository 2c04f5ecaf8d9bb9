//! What large models need of the GPU's memory: planned on paper, then taken. The weights are zeros, which take as much
//! room as any, so no file is needed; nothing is run.
#![cfg(not(target_arch = "wasm32"))]

use std::cell::Cell;
use std::rc::Rc;

use crate::fuzz::memory as heap;
use crate::writer::{Item, small_model};
use web_lora::gpu::{DeviceOptions, Gpu};
use web_lora::io::{ByteSource, Checkpoint, LocalBoxFuture, LoraConfig, Quantization};
use web_lora::lora::Adapter;
use web_lora::train::{MemoryPlan, Recorded, Trainer};
use web_lora::{Error, Result, model};

const MIB: u64 = 1 << 20;
const F16: u32 = 1;
const Q4_0: u32 = 2;
const Q4_1: u32 = 3;

/// A header, then zeros.
struct Zeros {
    header: Vec<u8>,
    size_bytes: u64,
    /// The most bytes asked for at once.
    largest_read: Cell<usize>,
}

impl ByteSource for Zeros {
    fn name(&self) -> &str {
        "zeros.gguf"
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        self.largest_read.set(self.largest_read.get().max(size));
        let header = self.header.iter().skip(offset as usize).take(size).copied();
        let mut bytes: Vec<u8> = header.collect();
        bytes.resize(size, 0);
        Box::pin(async { Ok(bytes) })
    }
}

/// Sizes of a llama with a tied head.
#[derive(Clone, Copy)]
struct Shape {
    layers: u64,
    hidden: u64,
    intermediate: u64,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    kind: u32,
}

const SMOLLM2_135M: Shape =
    Shape { layers: 30, hidden: 576, intermediate: 1536, heads: 9, kv_heads: 3, vocab: 49152, kind: Q4_1 };
const LLAMA_3_2_1B: Shape =
    Shape { layers: 16, hidden: 2048, intermediate: 8192, heads: 32, kv_heads: 8, vocab: 128_256, kind: Q4_0 };

fn file(shape: &Shape) -> Zeros {
    let mut writer = small_model();
    for (key, value) in [
        ("block_count", shape.layers),
        ("context_length", 2048),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.intermediate),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
    ] {
        writer.set(&format!("llama.{key}"), 4, (value as u32).to_le_bytes().into());
    }
    writer.tensors.clear();
    let (block_len, block_bytes) = match shape.kind {
        F16 => (1, 2),
        Q4_0 => (32, 18),
        _ => (32, 20),
    };
    let mut end = 0;
    let mut add = |name: String, dims: &[u64]| {
        let n: u64 = dims.iter().product();
        let (kind, bytes) = if dims.len() == 1 { (0, n * 4) } else { (shape.kind, n / block_len * block_bytes) };
        writer.tensors.push(Item { offset: Some(end), ..Item::new(&name, dims, kind, vec![]) });
        end = (end + bytes).next_multiple_of(32);
    };
    let (hidden, kv) = (shape.hidden, shape.hidden / shape.heads * shape.kv_heads);
    add("token_embd.weight".into(), &[hidden, shape.vocab]);
    for layer in 0..shape.layers {
        let mut add = |name: &str, dims: &[u64]| add(format!("blk.{layer}.{name}.weight"), dims);
        add("attn_norm", &[hidden]);
        add("attn_q", &[hidden, hidden]);
        add("attn_k", &[hidden, kv]);
        add("attn_v", &[hidden, kv]);
        add("attn_output", &[hidden, hidden]);
        add("ffn_norm", &[hidden]);
        add("ffn_gate", &[hidden, shape.intermediate]);
        add("ffn_up", &[hidden, shape.intermediate]);
        add("ffn_down", &[shape.intermediate, hidden]);
    }
    add("output_norm.weight".into(), &[hidden]);
    let header = writer.header();
    let size_bytes = header.len().next_multiple_of(32) as u64 + end;
    Zeros { header, size_bytes, largest_read: Cell::new(0) }
}

/// Plans a run on all seven matrices, takes its memory, and returns the plan.
async fn plan_and_take(shape: &Shape, r: usize, max_tokens: usize, budget: u64) -> MemoryPlan {
    let checkpoint = Checkpoint::open(&[Rc::new(file(shape)) as Rc<dyn ByteSource>]).await.unwrap();
    let gpu = Rc::new(Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap());
    let plan = {
        let paper = Rc::new(Gpu::paper(gpu.info().clone()));
        let (model, adapter) = model_and_adapter(&paper, &checkpoint, r, max_tokens).await;
        let weights = paper.allocated_bytes() - adapter.params().size_bytes();
        let recorded = Recorded::default();
        let plan =
            |budget| MemoryPlan::new(&paper, &model, weights, &adapter, max_tokens, recorded, false, Some(budget));
        let refused = plan(weights).await;
        assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "{refused:?}");
        plan(budget).await.unwrap()
    };
    assert_eq!(gpu.allocated_bytes(), 0, "a plan takes nothing");

    let peak = heap::Peak::new();
    let (model, adapter) = model_and_adapter(&gpu, &checkpoint, r, max_tokens).await;
    // Of the tab itself, which has 4 GiB at most: weights pass through it in pieces, however many there are.
    assert!(peak.bytes() < 64 << 20, "loading took {} MiB of memory", peak.bytes() >> 20);
    let (recompute, recorded) = (plan.recompute, Recorded::default());
    let trainer = Trainer::new(gpu.clone(), &model, &adapter, max_tokens, recompute, recorded, &mut |_, _| ()).await;
    let _trainer = trainer.unwrap();
    gpu.settle().await.unwrap();
    println!("{max_tokens} tokens in {} MiB: {plan:?}, allocated {}", budget / MIB, gpu.allocated_bytes());
    assert!(plan.total <= budget, "{} bytes planned of {budget}", plan.total);
    assert_eq!(plan.total, gpu.allocated_bytes(), "planned and allocated");
    plan
}

async fn model_and_adapter(
    gpu: &Gpu,
    checkpoint: &Checkpoint,
    r: usize,
    context_length: usize,
) -> (model::Decoder, Adapter) {
    let model = model::load(gpu, checkpoint, context_length, &mut |_, _| true).await.unwrap();
    let target_modules =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(str::to_owned).into();
    let adapter = Adapter::new(gpu, LoraConfig::new(r, 16.0, target_modules), &model.modules(), 0).unwrap();
    (model, adapter)
}

#[test]
fn smollm2_trains_1024_tokens_in_450_mib() {
    let plan = pollster::block_on(plan_and_take(&SMOLLM2_135M, 8, 1024, 450 * MIB));
    // Something had to give, but not everything.
    assert!((1..60).contains(&plan.recompute) && plan.recompute_cost > 0.0 && plan.recompute_cost < 0.5, "{plan:?}");
}

#[test]
fn a_llama_of_1b_trains_512_tokens_in_1600_mib() {
    // 1.6 GiB.
    pollster::block_on(plan_and_take(&LLAMA_3_2_1B, 16, 512, 1638 * MIB));
}

/// Quantised while it is loaded, a model takes what its quantised file would: on paper, on the GPU, and of the tab.
#[test]
fn a_model_quantised_while_loaded_takes_what_its_file_would() {
    pollster::block_on(async {
        let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() }).await.unwrap();
        let paper = || Gpu::paper(gpu.info().clone());
        let shape = |kind| Shape { layers: 2, kind, ..SMOLLM2_135M };
        let [plain, quantised] = [F16, Q4_0].map(|kind| Rc::new(file(&shape(kind))));
        let planned = paper();
        let checkpoint = Checkpoint::open(&[quantised as Rc<dyn ByteSource>]).await.unwrap();
        let _model = model::load(&planned, &checkpoint, 512, &mut |_, _| true).await.unwrap();

        let checkpoint = Checkpoint::open(&[plain.clone() as Rc<dyn ByteSource>]).await.unwrap();
        let checkpoint = checkpoint.quantized(Quantization::Q4_0);
        for gpu in [&paper(), &gpu] {
            let _model = model::load(gpu, &checkpoint, 512, &mut |_, _| true).await.unwrap();
            assert_eq!(gpu.allocated_bytes(), planned.allocated_bytes());
        }
        assert!(plain.largest_read.get() <= 4 << 20, "{} bytes of the file at a time", plain.largest_read.get());
    });
}
