//! Numbers that are none: in the model's weights, in its activations, and as a training makes them. A step that is not
//! finite leaves the adapter alone, and after ten in a row the run ends in an error that says so.

use std::collections::HashMap;
use std::rc::Rc;

use crate::tiny;
use crate::tiny::{DATA, engine, options, tiny_model};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use web_lora::Error;
use web_lora::engine::{Engine, LoadOptions, LoraOptions};
use web_lora::gpu::{DeviceOptions, Variant};
use web_lora::io::{ByteSource, MemorySource};
use web_lora::train::TrainOptions;

const WEIGHTS: &[u8] = include_bytes!("fixtures/golden/llama-gqa-tied/model.safetensors");

/// The tiny model as F16 or F32, with one number put in.
fn model_with(dtype: Dtype, tensor: &str, at: usize, value: f32) -> Vec<Rc<dyn ByteSource>> {
    let read = SafeTensors::deserialize(WEIGHTS).unwrap();
    let mut written: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
    for (name, view) in read.tensors() {
        let mut values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        if name == tensor {
            values[at] = value;
        }
        let bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        written.insert(name, (view.shape().to_vec(), bytes));
    }
    assert!(written.contains_key(tensor), "{tensor}");
    let views =
        written.iter().map(|(name, (shape, bytes))| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    let mut files = tiny_model();
    files[1] = Rc::new(MemorySource::new("model.safetensors", bytes));
    files
}

async fn load(engine: &mut Engine, files: &[Rc<dyn ByteSource>]) -> Result<(), Error> {
    engine.load_model(files, LoadOptions::default(), &mut |_| true).await?;
    engine.load_dataset("data.jsonl", DATA.as_bytes(), None)?;
    engine.new_adapter(LoraOptions { r: 4, ..Default::default() }).await?;
    Ok(())
}

/// Trains until it ends; the steps that were skipped, and what it ended with.
async fn skipped(engine: &mut Engine, options: TrainOptions) -> (Vec<bool>, Result<(), Error>) {
    engine.start_training(options, &mut |_| ()).await.unwrap();
    let mut skipped = vec![];
    loop {
        match engine.train_step().await {
            Ok(progress) => {
                skipped.extend(progress.report.map(|report| report.skipped));
                if progress.done {
                    return (skipped, Ok(()));
                }
            }
            Err(error) => return (skipped, Err(error)),
        }
    }
}

engine_test!(a_weight_that_is_no_number_is_refused_by_its_name, async {
    let mut engine = engine().await;
    let tensors = ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"];
    let values = [(Dtype::F32, f32::NAN), (Dtype::F32, f32::NEG_INFINITY), (Dtype::F16, -f32::NAN)];
    for (tensor, (dtype, value)) in tensors.into_iter().zip(values) {
        let error = load(&mut engine, &model_with(dtype, tensor, 41, value)).await.unwrap_err();
        assert!(matches!(error, Error::BadFile { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{tensor} holds a number that is not finite, at 41")), "{error}");
    }
    // The largest there are in F16 are numbers.
    load(&mut engine, &model_with(Dtype::F16, tensors[0], 41, 65504.0)).await.unwrap();
});

engine_test!(an_activation_of_60_000_in_f16_is_a_number_like_any_other, async {
    let mut engine = engine().await;
    // A row of the embedding that every example has: it is an activation as it is, and weighs in every logit.
    load(&mut engine, &model_with(Dtype::F16, "model.embed_tokens.weight", 72 + 5, 6e4)).await.unwrap();
    let (skipped, end) = skipped(&mut engine, options(4)).await;
    assert_eq!((skipped, end), (vec![false; 4], Ok(())));
});

// Ten steps that cannot be taken end the run; what there was before them stays, bit for bit.
engine_test!(a_run_that_diverges_ends_and_leaves_the_adapter_as_it_was, async {
    let mut engine = engine().await;
    load(&mut engine, &tiny_model()).await.unwrap();
    // B moves by a million a step, and what it gives counts 250 million times: the products of three such are no
    // longer numbers.
    engine.new_adapter(LoraOptions { r: 4, lora_alpha: 1e9, ..Default::default() }).await.unwrap();
    let wild = TrainOptions { learning_rate: 1.0, loraplus_lr_ratio: 1e6, max_grad_norm: 0.0, ..options(40) };
    let (skipped, end) = skipped(&mut engine, wild).await;
    let first = skipped.iter().position(|skipped| *skipped).expect("it diverges");
    assert_eq!(end, Err(Error::Diverged { steps: 10 }), "{skipped:?}");
    assert!(skipped.len() < 40 && skipped.ends_with(&[true; 10]), "{skipped:?}");
    assert!(first > 0, "the first step is sound");
    assert!(end.unwrap_err().to_string().contains("lower the learning rate"));
    engine.end_training();
    // Its numbers are numbers, as those of the last step that was taken.
    let (config, weights) = engine.save_adapter().await.unwrap();
    engine.load_adapter(&config, &weights).unwrap();
});

// In f16 the same model overflows where f32 does not: by its own words, and not in silence.
many_engines_test!(what_f16_cannot_hold_is_skipped_and_ends_the_run, async {
    let options = DeviceOptions { variant: Some(Variant::TiledF16), ..Default::default() };
    let mut engine = match Engine::new(options).await {
        Ok(engine) => engine,
        Err(error @ Error::BadSetting { .. }) => return eprintln!("no f16 here: {error}"),
        Err(error) => panic!("{error}"),
    };
    load(&mut engine, &model_with(Dtype::F32, "model.layers.0.input_layernorm.weight", 3, 1e6)).await.unwrap();
    let before = engine.save_adapter().await.unwrap();
    let (skipped, end) = skipped(&mut engine, tiny::options(40)).await;
    assert_eq!((skipped, end), (vec![true; 10], Err(Error::Diverged { steps: 10 })));
    engine.end_training();
    assert_eq!(engine.save_adapter().await.unwrap(), before);
});
