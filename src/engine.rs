//! The one object users drive: a device, a model on it, examples, an adapter, a run. Platform independent; `web.rs` is
//! its JavaScript face.

mod adapters;
mod logprobs;
mod options;
mod reports;
mod run;
mod training;

pub use adapters::{AdapterSource, ShelvedAdapter};
pub use options::{
    DataOptions, EvaluateOn, EvaluateOptions, LoadOptions, LoraOptions, OptimOptions, PlanOptions, Prompt,
};
pub use reports::{
    AdapterEntry, AdapterInfo, BatchReport, EvalReport, Forecast, Generated, ModelInfo, OptimReport, Progress,
    StepReport, TokenLogprob, TokenLogprobs, TrainPlan, TrainProgress,
};

use std::cell::Cell;
use std::rc::Rc;

use run::Run;

use crate::data::{DataFile, Dataset, DatasetReport};
use crate::generate::{GenerateOptions, Generator, Logprobs, Stopped};
use crate::gpu::{Counts, DeviceInfo, DeviceOptions, Gpu};
use crate::init;
use crate::io::{AdapterFile, ByteSource, ChatTemplate, Checkpoint, Quantization, Tensor, Tokenizer};
use crate::kernels::probe;
use crate::lora::{Adapter, ModuleGroup};
use crate::low_rank::{AdapterCost, ModuleCost};
use crate::merge::{MergeOptions, Merged, merge};
use crate::model::{self, Decoder};
use crate::train::{Evaluator, MAX_TOKENS, MemoryPlan};
use crate::{Error, Result};

/// Positions a model is loaded for where the caller does not say.
const DEFAULT_CONTEXT: usize = 2048;
/// Tokens of a training pass where the caller does not say and the examples are short.
const DEFAULT_PASS: usize = 512;

/// A step's rate over that of the products alone, as `make bench` measures both.
const STEP_EFFICIENCY: f64 = 0.6;

struct Loaded {
    decoder: Decoder,
    name: String,
    /// On the GPU.
    weight_bytes: u64,
    /// What it was opened from, and what its matrices were made into.
    files: Vec<Rc<dyn ByteSource>>,
    quantize: Option<Quantization>,
    tokenizer: Result<Tokenizer>,
    template: Option<ChatTemplate>,
}

impl Loaded {
    /// The tokens of a prompt, with what the model's template or tokenizer puts before it.
    fn ids(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer.as_ref().map_err(Error::clone)?;
        let ids = match (prompt, &self.template) {
            (Prompt::Messages(messages), Some(template)) => tokenizer.encode(&template.render(messages, true)?)?,
            (Prompt::Messages(_), None) => return not_ready("the model has no chat template; give a plain prompt"),
            (Prompt::Text(text), _) => {
                let bos = tokenizer.bos().filter(|_| tokenizer.add_bos);
                bos.into_iter().chain(tokenizer.encode(text)?).collect()
            }
        };
        self.check_ids(&ids)?;
        Ok(ids)
    }

    /// Refuses tokens that the model has no embedding for. Tokenizers may name more than the model has: Gemma's has one
    /// for pictures.
    fn check_ids<'a>(&self, ids: impl IntoIterator<Item = &'a u32>) -> Result<()> {
        let vocab_size = self.decoder.config().vocab_size;
        match ids.into_iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(id) => Err(Error::BadFile {
                file: self.name.clone(),
                message: format!(
                    "its tokenizer makes token {id} of this text, and the model has {vocab_size}: leave out what is \
                     not text, or choose the tokenizer that belongs to the model"
                ),
            }),
        }
    }
}

/// A device and what is on it.
pub struct Engine {
    gpu: Rc<Gpu>,
    products: probe::Choice,
    /// Of its products, once that has been measured.
    flops_per_second: Cell<Option<f64>>,
    model: Option<Loaded>,
    dataset: Option<Dataset>,
    /// The one in use, and how many steps it was trained here.
    adapter: Option<(Adapter, usize)>,
    shelf: adapters::Shelf,
    run: Option<Run>,
    /// Outside a run.
    evaluator: Option<Evaluator>,
    generator: Option<Generator>,
}

/// A number of tokens that kernels can work on.
fn within(name: &str, value: Option<usize>, default: usize) -> Result<usize> {
    match value.unwrap_or(default) {
        value if (16..=MAX_TOKENS).contains(&value) => Ok(value),
        value => {
            let allowed = format!("16 to {MAX_TOKENS}");
            Err(Error::BadSetting { name: name.into(), value: value.to_string(), allowed })
        }
    }
}

async fn open(files: &[Rc<dyn ByteSource>], quantize: Option<Quantization>) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(files).await?;
    Ok(match quantize {
        Some(to) => checkpoint.quantized(to),
        None => checkpoint,
    })
}

fn not_ready<T>(message: &str) -> Result<T> {
    Err(Error::NotReady { message: message.into() })
}

impl Engine {
    /// Opens the strongest GPU there is.
    pub async fn new(options: DeviceOptions) -> Result<Self> {
        Self::remembering(options, None).await
    }

    /// [`Engine::new`], given how products were computed here before: saves the time to find out.
    pub async fn remembering(options: DeviceOptions, products: Option<probe::Choice>) -> Result<Self> {
        let gpu = Rc::new(Gpu::request(options).await?);
        let products = probe::choose(&gpu, products).await?;
        let flops_per_second = Cell::new(None);
        Ok(Self {
            gpu,
            products,
            flops_per_second,
            model: None,
            dataset: None,
            adapter: None,
            shelf: Default::default(),
            run: None,
            evaluator: None,
            generator: None,
        })
    }

    /// The GPU found.
    pub fn device(&self) -> &DeviceInfo {
        self.gpu.info()
    }

    /// How products are computed on it, and why so.
    pub fn products(&self) -> &probe::Choice {
        &self.products
    }

    /// Bytes of GPU memory in use.
    pub fn allocated_bytes(&self) -> u64 {
        self.gpu.allocated_bytes()
    }

    /// What has been asked of the GPU so far.
    pub fn counts(&self) -> Counts {
        self.gpu.counts()
    }

    /// Bytes written to the GPU so far.
    pub fn written_bytes(&self) -> u64 {
        self.gpu.written_bytes()
    }

    /// Loads GGUF files or those of a Hugging Face folder, in place of what was loaded. `progress` returns false to
    /// stop.
    pub async fn load_model(
        &mut self,
        files: &[Rc<dyn ByteSource>],
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<ModelInfo> {
        let loaded = self.load(files, options, progress).await;
        self.settled(loaded).await
    }

    async fn load(
        &mut self,
        files: &[Rc<dyn ByteSource>],
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<ModelInfo> {
        let context_length = within("contextLength", options.context_length, DEFAULT_CONTEXT)?;
        self.end_training();
        (self.evaluator, self.generator) = (None, None);
        (self.adapter, self.dataset, self.model) = (None, None, None);
        self.shelf = Default::default();
        progress(Progress { phase: "open", loaded: 0, total: 1 });
        let checkpoint = open(files, options.quantize).await?;
        let mut weights = |loaded, total| progress(Progress { phase: "weights", loaded, total });
        let before = self.gpu.allocated_bytes();
        let file_bytes = checkpoint.tensors().map(Tensor::size_bytes).sum();
        let scarce = |error: Error| {
            let less =
                "choose a smaller one, or load it with a shorter contextLength or, in F32, F16 or BF16, quantized";
            error.when_scarce("the model", file_bytes, less)
        };
        let decoder = model::load(&self.gpu, &checkpoint, context_length, &mut weights).await.map_err(scarce)?;
        self.gpu.settle().await.map_err(scarce)?;
        let weight_bytes = self.gpu.allocated_bytes() - before;
        let (tokenizer, template) = (checkpoint.tokenizer(), checkpoint.chat_template()?);
        let config = decoder.config();
        let numbers = |tensor: &Tensor| tensor.rows() as u64 * tensor.cols() as u64;
        let info = ModelInfo {
            name: checkpoint.name().to_owned(),
            model_type: config.model_type.clone(),
            parameters: checkpoint.tensors().map(numbers).sum(),
            weight_bytes: file_bytes,
            hidden_size: config.hidden_size,
            layers: config.num_hidden_layers,
            context_length: decoder.context_length(),
            vocab_size: config.vocab_size,
            dtype: checkpoint.commonest_dtype().map_or_else(String::new, |dtype| dtype.to_string()),
            quantization: checkpoint.quantization_error(),
            target_modules: kinds(&decoder.modules()),
            norm_modules: decoder.modules().norm_kinds().into_iter().map(str::to_owned).collect(),
            has_tokenizer: tokenizer.is_ok(),
            has_chat_template: template.is_some(),
        };
        let name = checkpoint.name().to_owned();
        let (files, quantize) = (files.to_vec(), options.quantize);
        self.model = Some(Loaded { decoder, name, weight_bytes, files, quantize, tokenizer, template });
        Ok(info)
    }

    /// The GPU memory that training on this GPU would need, and how fast it might be, for a model that need not be loaded.
    /// Reads the files' headers and no weights, allocates nothing but, the first time, what it takes to measure how fast
    /// this GPU computes products, and leaves what is loaded alone.
    ///
    /// Errors with `OutOfMemory` where one buffer would be larger than this GPU allows.
    pub async fn plan_memory(&self, files: &[Rc<dyn ByteSource>], options: PlanOptions) -> Result<Forecast> {
        let context_length = within("contextLength", options.context_length, DEFAULT_CONTEXT)?;
        let max_tokens = within("tokensPerPass", options.tokens_per_pass, DEFAULT_PASS)?;
        let checkpoint = open(files, options.quantize).await?;
        let gpu = Rc::new(Gpu::paper(self.device().clone()));
        let model = model::load(&gpu, &checkpoint, context_length, &mut |_, _| true).await?;
        let weights = gpu.allocated_bytes();
        let shapes = model.modules();
        let (recorded, budget) = (options.recorded(), options.memory_budget);
        let evaluates = options.eval_steps.is_some();
        let config = options.lora().config(checkpoint.name(), model.config(), &shapes)?;
        let adapter = Adapter::new(&gpu, config, &shapes, 0)?;
        let memory = MemoryPlan::new(&gpu, &model, weights, &adapter, max_tokens, recorded, evaluates, budget).await?;
        let rate = match self.flops_per_second.get() {
            Some(rate) => rate,
            None => probe::flops_per_second(&self.gpu).await?,
        };
        self.flops_per_second.set(Some(rate));
        let tokens_per_second = max_tokens as f64 * STEP_EFFICIENCY * rate / memory.flops as f64;
        let numbers = checkpoint.tensors().map(|tensor| tensor.rows() as u64 * tensor.cols() as u64).sum();
        let modules = adapter.adapted().map(|(m, r)| ModuleCost::new(&m.name, [m.out_features, m.in_features], r));
        let cost = AdapterCost::new(modules.collect(), adapter.n_vector_parameters() as u64, numbers, weights);
        Ok(Forecast { memory, tokens_per_second, cost })
    }

    /// What came of something, once the GPU has told all that went wrong in it: the next call hears nothing of it.
    async fn settled<T>(&self, result: Result<T>) -> Result<T> {
        if matches!(&result, Err(error) if !matches!(error, Error::DeviceLost { .. })) {
            let lost = self.gpu.settle().await.err().filter(|error| matches!(error, Error::DeviceLost { .. }));
            return Err(lost.or(result.err()).expect("it is an error"));
        }
        result
    }

    fn model(&self) -> Result<&Loaded> {
        self.model.as_ref().map_or_else(|| not_ready("load a model first"), Ok)
    }

    /// Reads a file of examples, each cut at `max_length` tokens, in place of those there were.
    pub fn load_dataset(&mut self, file: &str, bytes: &[u8], max_length: Option<usize>) -> Result<DatasetReport> {
        let files = [DataFile { name: file, bytes, format: None }];
        self.load_data(&files, &[], &DataOptions { max_length, ..Default::default() })
    }

    /// Reads files of examples in place of those there were, and of `eval` those to evaluate on.
    pub fn load_data(&mut self, files: &[DataFile], eval: &[DataFile], options: &DataOptions) -> Result<DatasetReport> {
        let model = self.model()?;
        let context_length = model.decoder.context_length();
        let max_length = options.max_length.unwrap_or(context_length);
        if !(2..=context_length).contains(&max_length) {
            let (value, allowed) = (max_length.to_string(), format!("2 to {context_length}"));
            return Err(Error::BadSetting { name: "maxLength".into(), value, allowed });
        }
        let tokenizer = model.tokenizer.as_ref().map_err(Error::clone)?;
        let read = |files: &[DataFile]| -> Result<Option<Dataset>> {
            let mut all: Option<Dataset> = None;
            for &file in files {
                let file = DataFile { format: file.format.or(options.format), ..file };
                let mapping = options.mapping.as_ref();
                let dataset = Dataset::read(file, mapping, tokenizer, model.template.as_ref(), max_length)?;
                model.check_ids(dataset.sequences().flat_map(|example| &example.ids))?;
                match &mut all {
                    None => all = Some(dataset),
                    Some(all) => all.append(dataset)?,
                }
            }
            Ok(all)
        };
        let Some(mut dataset) = read(files)? else { return not_ready("give a file of examples") };
        match (read(eval)?, options.eval_share) {
            (None, 0.0) => {}
            (None, share) => hold_out(&mut dataset, share, options.seed)?,
            (Some(eval), 0.0) => {
                dataset.evaluate_on(eval)?;
                if dataset.n_eval() == 0 {
                    return not_ready("every example to evaluate on is also trained on: give others");
                }
            }
            (Some(_), share) => {
                let allowed = "0 where examples to evaluate on have a file of their own".to_owned();
                return Err(Error::BadSetting { name: "evalShare".into(), value: share.to_string(), allowed });
            }
        }
        let report = dataset.report();
        self.end_training();
        self.dataset = Some(dataset);
        Ok(report)
    }

    /// Holds a share of the examples out to evaluate on: above 0, at most a half, chosen by `seed`. At least one example
    /// each is held out and left.
    pub fn hold_out(&mut self, share: f64, seed: u64) -> Result<DatasetReport> {
        let Some(dataset) = &mut self.dataset else { return not_ready("give examples first") };
        hold_out(dataset, share, seed)?;
        let report = dataset.report();
        self.end_training();
        Ok(report)
    }

    /// Forgets the examples.
    pub fn clear_dataset(&mut self) {
        self.end_training();
        self.dataset = None;
    }

    /// A fresh adapter in place of the one there was.
    pub async fn new_adapter(&mut self, options: LoraOptions) -> Result<AdapterInfo> {
        let model = self.model()?;
        let seed = options.seed;
        let config = options.config(&model.name, model.decoder.config(), &model.decoder.modules())?;
        let adapter = match init::adapter(&self.gpu, &model.decoder, config, seed).await {
            Ok(adapter) => self.gpu.settle().await.map(|()| adapter),
            error => error,
        };
        let scarce = |error: Error| {
            let less = "take a smaller r or fewer targetModules, or load the model quantized";
            error.when_scarce("the adapter", 0, less)
        };
        let adapter = self.settled(adapter.map_err(scarce)).await?;
        self.set_adapter(adapter)
    }

    /// An adapter from its two files, in place of the one there was.
    pub fn load_adapter(&mut self, config: &[u8], weights: &[u8]) -> Result<AdapterInfo> {
        let shapes = self.model()?.decoder.modules();
        let file = AdapterFile::parse(config, weights)?;
        let adapter = Adapter::from_file(&self.gpu, &file, &shapes)?;
        self.set_adapter(adapter)
    }

    /// An adapter in llama.cpp's format as PEFT's `(adapter_config.json, adapter_model.safetensors)`, for the loaded model.
    pub async fn read_adapter_gguf(&self, file: &Rc<dyn ByteSource>) -> Result<(Vec<u8>, Vec<u8>)> {
        let base = self.model()?.decoder.config();
        let heads = [base.num_attention_heads, base.num_key_value_heads];
        Ok(AdapterFile::parse_gguf(file, &base.model_type, heads).await?.write())
    }

    fn set_adapter(&mut self, adapter: Adapter) -> Result<AdapterInfo> {
        self.gpu.check()?;
        self.end_training();
        (self.evaluator, self.generator) = (None, None);
        let (adapter, steps) = self.adapter.insert((adapter, 0));
        Ok(adapter_info(adapter, *steps))
    }

    /// The adapter there is.
    pub fn adapter_info(&self) -> Option<AdapterInfo> {
        self.adapter.as_ref().map(|(adapter, steps)| adapter_info(adapter, *steps))
    }

    /// The adapter as PEFT's `(adapter_config.json, adapter_model.safetensors)`.
    pub async fn save_adapter(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        Ok(self.adapter_file().await?.write())
    }

    /// The adapter as one GGUF file, for llama.cpp.
    pub async fn save_adapter_gguf(&self) -> Result<Vec<u8>> {
        let base = self.model()?.decoder.config();
        let heads = [base.num_attention_heads, base.num_key_value_heads];
        self.adapter_file().await?.write_gguf(&base.model_type, heads)
    }

    /// The adapter as mlx-lm's `(adapter_config.json, adapters.safetensors)`.
    pub async fn save_adapter_mlx(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let base = self.model()?.decoder.config();
        self.adapter_file().await?.write_mlx(base.num_hidden_layers)
    }

    /// The model with its adapter as one model's files, whose weights are read again from where the model was loaded from
    /// when the files are read. What is done with this engine later changes nothing in them.
    pub async fn merge(&self, options: &MergeOptions) -> Result<Merged> {
        let Loaded { files, quantize, .. } = self.model()?;
        let adapter = self.adapter_file().await?;
        merge(open(files, *quantize).await?, files, &adapter, options)
    }

    async fn adapter_file(&self) -> Result<AdapterFile> {
        match &self.adapter {
            None => not_ready("make or load an adapter first"),
            Some((adapter, _)) => adapter.to_file(&self.gpu).await,
        }
    }

    /// The logits `[vocab_size]` of the token after `prompt`, with so much of the adapter as `strength` says.
    pub async fn logits(&mut self, prompt: &Prompt, strength: f32) -> Result<Vec<f32>> {
        let logits = self.next_logits(prompt, strength).await;
        self.settled(logits).await
    }

    async fn next_logits(&mut self, prompt: &Prompt, strength: f32) -> Result<Vec<f32>> {
        GenerateOptions { strength, ..Default::default() }.validate()?;
        self.make_generator().await?;
        let (Some(model), Some(generator)) = (&self.model, &self.generator) else { unreachable!("made above") };
        generator.prompt(&model.ids(prompt)?, strength).await
    }

    async fn make_generator(&mut self) -> Result<()> {
        let model = self.model.as_ref().map_or_else(|| not_ready("load a model first"), Ok)?;
        if self.generator.is_none() {
            let adapter = self.adapter.as_ref().map(|(adapter, _)| adapter);
            let n_positions = model.decoder.context_length();
            let generator = Generator::new(self.gpu.clone(), &model.decoder, adapter, n_positions).await;
            self.generator = Some(generator.map_err(|error| {
                let less = "load the model with a shorter contextLength or quantized";
                error.when_scarce("answers", 0, less)
            })?);
        }
        Ok(())
    }

    /// Answers `prompt`. `on_text` is told text as it comes and returns false to stop.
    pub async fn generate(
        &mut self,
        prompt: &Prompt,
        options: GenerateOptions,
        mut on_text: impl FnMut(&str) -> bool,
    ) -> Result<Generated> {
        let generated = self.answer(prompt, options, &mut on_text).await;
        // The token that was begun ahead of the last: Dawn in Node does not let a process end while work is under way.
        self.gpu.idle().await;
        self.settled(generated).await
    }

    async fn answer(
        &mut self,
        prompt: &Prompt,
        options: GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generated> {
        options.validate()?;
        self.make_generator().await?;
        let (Some(model), Some(generator)) = (&self.model, &self.generator) else { unreachable!("made above") };
        let ids = model.ids(prompt)?;
        let tokenizer = model.tokenizer.as_ref().map_err(Error::clone)?;
        let mut stream = tokenizer.decode_stream(true);
        let mut text = String::new();
        let mut failed = None;
        let mut told = options.top_logprobs.map(|_| logprobs::Told::new(tokenizer, &ids));
        let mut push = |id, logprobs: Option<Logprobs>| {
            if let (Some(told), Some(logprobs)) = (&mut told, &logprobs) {
                told.push(id, logprobs)?;
            }
            stream.push(id)
        };
        let on_token = |id, logprobs| match push(id, logprobs) {
            Ok(piece) => {
                text.push_str(&piece);
                piece.is_empty() || on_text(&piece)
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        let (generated, stopped) =
            generator.generate_with_logprobs(&ids, options, tokenizer.end_of_turn(), on_token).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let rest = stream.finish()?;
        if !rest.is_empty() {
            text.push_str(&rest);
            on_text(&rest);
        }
        let stopped = match stopped {
            Stopped::End => "end",
            Stopped::Length => "length",
            Stopped::Cancelled => "cancelled",
        };
        let (tokens, prompt_tokens) = (generated.len(), ids.len());
        Ok(Generated { text, tokens, prompt_tokens, stopped, logprobs: told.map(|told| told.tokens) })
    }
}

fn hold_out(dataset: &mut Dataset, share: f64, seed: u64) -> Result<()> {
    if !(share > 0.0 && share <= 0.5) {
        let (value, allowed) = (share.to_string(), "above 0, at most 0.5".to_owned());
        return Err(Error::BadSetting { name: "evalShare".into(), value, allowed });
    }
    if dataset.n_examples() < 2 {
        return not_ready("one example is too few to hold any out");
    }
    dataset.hold_out(share, seed);
    Ok(())
}

fn adapter_info(adapter: &Adapter, trained_steps: usize) -> AdapterInfo {
    AdapterInfo {
        r: adapter.config.r,
        lora_alpha: adapter.config.lora_alpha,
        use_rslora: adapter.config.use_rslora,
        use_dora: adapter.config.use_dora,
        target_modules: adapter.config.target_modules.to_list(),
        bias: adapter.config.bias,
        modules_to_save: adapter.config.modules_to_save.clone(),
        parameters: adapter.n_parameters(),
        base_parameters: adapter.n_base_parameters(),
        trained_steps,
    }
}

/// What `target_modules` may name, in the order of the model.
fn kinds(groups: &[ModuleGroup]) -> Vec<String> {
    let mut kinds: Vec<String> = vec![];
    for shape in groups.iter().flat_map(|group| &group.modules) {
        if !kinds.iter().any(|kind| kind == shape.kind()) {
            kinds.push(shape.kind().to_owned());
        }
    }
    kinds
}
