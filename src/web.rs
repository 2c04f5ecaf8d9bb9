//! The JavaScript face: converts arguments, results and errors, and nothing else. `www/src/worker.ts` is its caller.

#[cfg(feature = "bench")]
pub mod bench;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use js_sys::{Array, Float32Array, Function, Object, Promise, Reflect, Uint8Array};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::data::{DataFile, Format, inspect};
use crate::engine::{
    AdapterSource, DataOptions, EvaluateOptions, LoadOptions, LoraOptions, OptimOptions, PlanOptions, Progress, Prompt,
    ShelvedAdapter,
};
use crate::generate::GenerateOptions;
use crate::gpu::{DeviceOptions, Patience, Sleep, Variant};
use crate::io::{AdapterFile, ByteSource, LocalBoxFuture, Message};
use crate::kernels::probe::Choice;
use crate::low_rank::{CombineOptions, CompressOptions, Rebuilt};
use crate::merge::{MergeOptions, MergedFile};
use crate::train::TrainOptions;
use crate::{Error, Result};

type JsResult<T> = std::result::Result<T, JsValue>;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(ring: &Function, milliseconds: f64) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);
}

/// Ends after a while; forgotten, it is called off.
fn sleep(time: Duration) -> Sleep {
    let mut timer = JsValue::UNDEFINED;
    let rings = Promise::new(&mut |ring, _| timer = set_timeout(&ring, time.as_secs_f64() * 1e3));
    Box::pin(Alarm { timer, rings: JsFuture::from(rings) })
}

struct Alarm {
    timer: JsValue,
    rings: JsFuture,
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<()> {
        Pin::new(&mut self.rings).poll(context).map(drop)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        clear_timeout(&self.timer);
    }
}

/// Runs once, when the module is instantiated.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// A GPU and the model, examples, adapter and run on it. Methods that return promises must not overlap.
#[wasm_bindgen]
pub struct Engine {
    engine: crate::engine::Engine,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct CreateOptions {
    default_limits: bool,
    variant: Option<Variant>,
    products: Option<Choice>,
    /// Seconds.
    patience: Option<f64>,
}

/// Until a GPU that answers nothing counts as lost: longer than any sound one needs for a submit or to compile a kernel, be
/// it software on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct GenerateCall {
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    max_new_tokens: usize,
    temperature: f32,
    top_p: f32,
    seed: u64,
    strength: f32,
    top_logprobs: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct LogitsCall {
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    strength: Option<f32>,
}

impl Default for GenerateCall {
    fn default() -> Self {
        let GenerateOptions { max_new_tokens, temperature, top_p, seed, strength, top_logprobs } =
            GenerateOptions::default();
        Self { messages: None, prompt: None, max_new_tokens, temperature, top_p, seed, strength, top_logprobs }
    }
}

#[wasm_bindgen]
impl Engine {
    /// Opens the GPU. Options: `defaultLimits`, `variant`, `products` (what `products()` said before), `patience`.
    pub async fn create(options: JsValue) -> JsResult<Engine> {
        let options: CreateOptions = from_js("options", options)?;
        let limit = match options.patience {
            None => PATIENCE,
            Some(seconds) if seconds > 0.0 && seconds <= 1e6 => Duration::from_secs_f64(seconds),
            Some(seconds) => {
                let (value, allowed) = (seconds.to_string(), "seconds above 0, at most 1000000".to_owned());
                return Err(to_js_error(Error::BadSetting { name: "patience".into(), value, allowed }));
            }
        };
        let patience = Some(Patience { limit, sleep });
        let device = DeviceOptions { default_limits: options.default_limits, variant: options.variant, patience };
        let engine = crate::engine::Engine::remembering(device, options.products).await.map_err(to_js_error)?;
        Ok(Self { engine })
    }

    /// The GPU found.
    pub fn device(&self) -> JsResult<JsValue> {
        to_js(self.engine.device())
    }

    /// How it computes products, and why so.
    pub fn products(&self) -> JsResult<JsValue> {
        to_js(self.engine.products())
    }

    /// Loads `files`, each `{name, size, read(offset, length)}`. Options: `contextLength`, `quantize`. `on_progress` may
    /// return false to stop.
    #[wasm_bindgen(js_name = loadModel)]
    pub async fn load_model(
        &mut self,
        files: Vec<JsValue>,
        options: JsValue,
        on_progress: Function,
    ) -> JsResult<JsValue> {
        let options: LoadOptions = from_js("options", options)?;
        let sources = sources(&files)?;
        let mut progress = |progress| goes_on(&on_progress, to_js(&progress));
        let info = self.engine.load_model(&sources, options, &mut progress).await;
        to_js(&info.map_err(to_js_error)?)
    }

    /// The GPU memory that training would take, from the headers of `files`. Options: `contextLength`,
    /// `quantize`, `r`, `targetModules`, `tokensPerPass`, `memoryBudget`.
    #[wasm_bindgen(js_name = planMemory)]
    pub async fn plan_memory(&self, files: Vec<JsValue>, options: JsValue) -> JsResult<JsValue> {
        let options: PlanOptions = from_js("options", options)?;
        to_js(&self.engine.plan_memory(&sources(&files)?, options).await.map_err(to_js_error)?)
    }

    /// Reads examples and reports on them. `files` and `eval_files`: each `{name, bytes, format?}`. Options: `maxLength`,
    /// `format`, `mapping`, `evalShare`, `seed`.
    #[wasm_bindgen(js_name = loadDataset)]
    pub fn load_dataset(
        &mut self,
        files: Vec<JsValue>,
        eval_files: Vec<JsValue>,
        options: JsValue,
    ) -> JsResult<JsValue> {
        let options: DataOptions = from_js("options", options)?;
        let files: Vec<JsFile> = files.iter().map(JsFile::new).collect::<JsResult<_>>()?;
        let eval_files: Vec<JsFile> = eval_files.iter().map(JsFile::new).collect::<JsResult<_>>()?;
        let [files, eval_files] = [&files, &eval_files].map(|files| files.iter().map(JsFile::file).collect::<Vec<_>>());
        to_js(&self.engine.load_data(&files, &eval_files, &options).map_err(to_js_error)?)
    }

    /// Says what a file `{name, bytes, format?}` is. Needs no model.
    #[wasm_bindgen(js_name = inspectData)]
    pub fn inspect_data(&self, file: JsValue) -> JsResult<JsValue> {
        to_js(&inspect(JsFile::new(&file)?.file()).map_err(to_js_error)?)
    }

    /// Forgets the examples.
    #[wasm_bindgen(js_name = clearDataset)]
    pub fn clear_dataset(&mut self) {
        self.engine.clear_dataset();
    }

    /// A fresh adapter. Options: `r`, `loraAlpha`, `useRslora`, `useDora`, `initLoraWeights`, `loraDropout`,
    /// `targetModules`, `excludeModules`, `layersToTransform`, `rankPattern`, `alphaPattern`, `seed`.
    #[wasm_bindgen(js_name = newAdapter)]
    pub async fn new_adapter(&mut self, options: JsValue) -> JsResult<JsValue> {
        let options: LoraOptions = from_js("options", options)?;
        to_js(&self.engine.new_adapter(options).await.map_err(to_js_error)?)
    }

    /// An adapter from the bytes of its two files.
    #[wasm_bindgen(js_name = loadAdapter)]
    pub fn load_adapter(&mut self, config: &[u8], weights: &[u8]) -> JsResult<JsValue> {
        to_js(&self.engine.load_adapter(config, weights).map_err(to_js_error)?)
    }

    /// The two files `{config, weights}` of a GGUF adapter, `{name, size, read(offset, length)}`, for the loaded model.
    #[wasm_bindgen(js_name = readAdapterGguf)]
    pub async fn read_adapter_gguf(&self, file: JsValue) -> JsResult<JsValue> {
        let file = Rc::new(JsSource::new(&file)?) as Rc<dyn ByteSource>;
        files(self.engine.read_adapter_gguf(&file).await.map_err(to_js_error)?)
    }

    /// What the adapter is, or undefined.
    #[wasm_bindgen(js_name = adapterInfo)]
    pub fn adapter_info(&self) -> JsResult<JsValue> {
        self.engine.adapter_info().map_or(Ok(JsValue::UNDEFINED), |info| to_js(&info))
    }

    /// The adapter's two files, `{config, weights}`.
    #[wasm_bindgen(js_name = saveAdapter)]
    pub async fn save_adapter(&self) -> JsResult<JsValue> {
        files(self.engine.save_adapter().await.map_err(to_js_error)?)
    }

    /// The adapter as files of another format, each `{name, bytes}`: `gguf` for llama.cpp, `mlx` for mlx-lm.
    #[wasm_bindgen(js_name = exportAdapter)]
    pub async fn export_adapter(&self, format: &str) -> JsResult<Vec<JsValue>> {
        let files = match format {
            "gguf" => vec![("adapter.gguf", self.engine.save_adapter_gguf().await.map_err(to_js_error)?)],
            "mlx" => {
                let (config, weights) = self.engine.save_adapter_mlx().await.map_err(to_js_error)?;
                vec![("adapter_config.json", config), ("adapters.safetensors", weights)]
            }
            _ => {
                let allowed = "'peft', 'gguf' or 'mlx'".to_owned();
                return Err(to_js_error(Error::BadSetting { name: "format".into(), value: format.into(), allowed }));
            }
        };
        let named = |(name, bytes): (&str, Vec<u8>)| {
            object([("name", name.into()), ("bytes", Uint8Array::from(&bytes[..]).into())])
        };
        files.into_iter().map(named).collect()
    }

    /// The model with its adapter as one model's files. Options: `dtype`, `maxShardBytes`.
    pub async fn merge(&self, options: JsValue) -> JsResult<Merged> {
        let options: MergeOptions = from_js("options", options)?;
        Ok(Merged { merged: self.engine.merge(&options).await.map_err(to_js_error)? })
    }

    /// Keeps an adapter under a new name: `{config, weights}`, the name of another, or the one in use where undefined.
    #[wasm_bindgen(js_name = addAdapter)]
    pub async fn add_adapter(&mut self, name: &str, from: JsValue) -> JsResult<JsValue> {
        let from = adapter_source(&from)?;
        to_js(&self.engine.add_adapter(name, &from).await.map_err(to_js_error)?)
    }

    /// Puts the adapter of this name in use, or the one without a name; what it is, or undefined.
    #[wasm_bindgen(js_name = useAdapter)]
    pub async fn use_adapter(&mut self, name: Option<String>) -> JsResult<JsValue> {
        let info = self.engine.use_adapter(name.as_deref()).await.map_err(to_js_error)?;
        info.map_or(Ok(JsValue::UNDEFINED), |info| to_js(&info))
    }

    /// All adapters there are.
    #[wasm_bindgen(js_name = listAdapters)]
    pub fn list_adapters(&self) -> JsResult<JsValue> {
        to_js(&self.engine.list_adapters())
    }

    /// Forgets an adapter.
    #[wasm_bindgen(js_name = removeAdapter)]
    pub async fn remove_adapter(&mut self, name: &str) -> JsResult<()> {
        self.engine.remove_adapter(name).await.map_err(to_js_error)
    }

    /// What a training leaves as it was: `{inUse, adapters}`, a name and all other adapters, each `{name, trainedSteps, files}`.
    pub fn shelf(&self) -> JsResult<JsValue> {
        let (in_use, shelved) = self.engine.shelf();
        let adapters = Array::new();
        for ShelvedAdapter { name, trained_steps, file } in shelved {
            let files = files(file.write())?;
            adapters.push(&object([("name", name.into()), ("trainedSteps", trained_steps.into()), ("files", files)])?);
        }
        object([("inUse", in_use.into()), ("adapters", adapters.into())])
    }

    /// Has what was the shelf of another engine on the same model.
    #[wasm_bindgen(js_name = restoreShelf)]
    pub fn restore_shelf(&mut self, shelf: JsValue) -> JsResult<()> {
        let shelved = |value: JsValue| {
            let trained_steps = get(&value, "trainedSteps")?.as_f64().unwrap_or(0.0) as usize;
            let AdapterSource::Files { config, weights } = adapter_source(&get(&value, "files")?)? else {
                return Err(JsValue::from_str("an adapter without files"));
            };
            let file = AdapterFile::parse(&config, &weights).map_err(to_js_error)?;
            Ok(ShelvedAdapter { name: get(&value, "name")?.as_string(), trained_steps, file })
        };
        let shelved: JsResult<Vec<ShelvedAdapter>> =
            Array::from(&get(&shelf, "adapters")?).iter().map(shelved).collect();
        self.engine.restore_shelf(get(&shelf, "inUse")?.as_string(), shelved?).map_err(to_js_error)
    }

    /// The singular values of an adapter, `from` as `addAdapter` has it.
    #[wasm_bindgen(js_name = inspectAdapter)]
    pub async fn inspect_adapter(&self, from: JsValue) -> JsResult<JsValue> {
        let from = adapter_source(&from)?;
        to_js(&self.engine.inspect_adapter(&from).await.map_err(to_js_error)?)
    }

    /// An adapter of smaller rank, `{files, …report}`. Options: `r` or `keep`.
    #[wasm_bindgen(js_name = compressAdapter)]
    pub async fn compress_adapter(&self, options: JsValue, from: JsValue) -> JsResult<JsValue> {
        let (options, from): (CompressOptions, _) = (from_js("options", options)?, adapter_source(&from)?);
        rebuilt(self.engine.compress_adapter(&from, options).await.map_err(to_js_error)?)
    }

    /// The sum of adapters, each `{from, weight}`, as `{files, …report}`. Options: `how`, `r`.
    #[wasm_bindgen(js_name = combineAdapters)]
    pub async fn combine_adapters(&self, parts: Vec<JsValue>, options: JsValue) -> JsResult<JsValue> {
        let options: CombineOptions = from_js("options", options)?;
        let part = |part: &JsValue| {
            let weight = get(part, "weight")?.as_f64().unwrap_or(f64::NAN);
            Ok((adapter_source(&get(part, "from")?)?, weight))
        };
        let parts = parts.iter().map(part).collect::<JsResult<Vec<_>>>()?;
        rebuilt(self.engine.combine_adapters(&parts, options).await.map_err(to_js_error)?)
    }

    /// Compiles a run; options as `TrainOptions` has them.
    #[wasm_bindgen(js_name = startTraining)]
    pub async fn start_training(&mut self, options: JsValue, on_progress: Function) -> JsResult<JsValue> {
        let options: TrainOptions = from_js("options", options)?;
        let mut progress = |progress: Progress| {
            goes_on(&on_progress, to_js(&progress));
        };
        to_js(&self.engine.start_training(options, &mut progress).await.map_err(to_js_error)?)
    }

    /// Runs one step, or one pass of an evaluation that is due: `{done, stoppedEarly, report?, evaluation?}`.
    #[wasm_bindgen(js_name = trainStep)]
    pub async fn train_step(&mut self) -> JsResult<JsValue> {
        to_js(&self.engine.train_step().await.map_err(to_js_error)?)
    }

    /// The run as bytes.
    #[wasm_bindgen(js_name = saveState)]
    pub async fn save_state(&mut self) -> JsResult<Uint8Array> {
        Ok(Uint8Array::from(&self.engine.save_state().await.map_err(to_js_error)?[..]))
    }

    /// Takes up, in a run just started, where the one with these bytes was.
    #[wasm_bindgen(js_name = loadState)]
    pub async fn load_state(&mut self, state: &[u8]) -> JsResult<()> {
        self.engine.load_state(state).await.map_err(to_js_error)
    }

    /// Scores on examples. Options: `data`, `strength`. `on_progress` may return false to stop.
    pub async fn evaluate(&mut self, options: JsValue, on_progress: Function) -> JsResult<JsValue> {
        let options: EvaluateOptions = from_js("options", options)?;
        let mut progress = |progress| goes_on(&on_progress, to_js(&progress));
        to_js(&self.engine.evaluate(options, &mut progress).await.map_err(to_js_error)?)
    }

    /// Adds gradients of examples, by their place in the data.
    #[wasm_bindgen(js_name = forwardBackward)]
    pub async fn forward_backward(&mut self, examples: Vec<usize>, weight: f32) -> JsResult<JsValue> {
        to_js(&self.engine.forward_backward(&examples, weight).await.map_err(to_js_error)?)
    }

    /// The optimiser's step over them. Options: `learningRate`, `weightDecay`, `maxGradNorm`.
    #[wasm_bindgen(js_name = optimStep)]
    pub async fn optim_step(&mut self, options: JsValue) -> JsResult<JsValue> {
        let options: OptimOptions = from_js("options", options)?;
        to_js(&self.engine.optim_step(options).await.map_err(to_js_error)?)
    }

    /// Times every kernel of the next step, which is not taken.
    pub async fn profile(&self) -> JsResult<JsValue> {
        to_js(&self.engine.profile().await.map_err(to_js_error)?)
    }

    /// Frees what training needs; the adapter stays.
    #[wasm_bindgen(js_name = endTraining)]
    pub fn end_training(&mut self) {
        self.engine.end_training();
    }

    /// Answers `messages` or continues `prompt`. `on_token` is told text and may return false to stop.
    pub async fn generate(&mut self, options: JsValue, on_token: Function) -> JsResult<JsValue> {
        let call: GenerateCall = from_js("options", options)?;
        let prompt = prompt_of(call.messages, call.prompt)?;
        let options = GenerateOptions {
            max_new_tokens: call.max_new_tokens,
            temperature: call.temperature,
            top_p: call.top_p,
            seed: call.seed,
            strength: call.strength,
            top_logprobs: call.top_logprobs,
        };
        let on_text = |text: &str| goes_on(&on_token, Ok(text.into()));
        to_js(&self.engine.generate(&prompt, options, on_text).await.map_err(to_js_error)?)
    }

    /// The logits of the token after `messages` or `prompt`. Options: these, and `strength`.
    pub async fn logits(&mut self, options: JsValue) -> JsResult<Float32Array> {
        let call: LogitsCall = from_js("options", options)?;
        let prompt = prompt_of(call.messages, call.prompt)?;
        let logits = self.engine.logits(&prompt, call.strength.unwrap_or(1.0)).await;
        Ok(Float32Array::from(&logits.map_err(to_js_error)?[..]))
    }
}

/// A merged model, apart from the engine: what happens there changes nothing here.
#[wasm_bindgen]
pub struct Merged {
    merged: crate::merge::Merged,
}

#[wasm_bindgen]
impl Merged {
    /// What it is: `{files: [{name, size}], …report}`.
    pub fn report(&self) -> JsResult<JsValue> {
        let report = to_js(&self.merged.report)?;
        let file = |file: &MergedFile| NamedSize { name: file.name.clone(), size: file.source.size_bytes() };
        let files: Vec<NamedSize> = self.merged.files.iter().map(file).collect();
        Reflect::set(&report, &"files".into(), &to_js(&files)?)?;
        Ok(report)
    }

    /// Bytes of a file, by its place among them.
    pub async fn read(&self, file: usize, offset: f64, length: usize) -> JsResult<Uint8Array> {
        let file = self.merged.files.get(file).ok_or("a merged model has fewer files")?;
        let bytes = file.source.read(offset as u64, length).await.map_err(to_js_error)?;
        Ok(Uint8Array::from(&bytes[..]))
    }
}

#[derive(Serialize)]
struct NamedSize {
    name: String,
    size: u64,
}

fn prompt_of(messages: Option<Vec<Message>>, prompt: Option<String>) -> JsResult<Prompt> {
    match (messages, prompt) {
        (Some(messages), None) => Ok(Prompt::Messages(messages)),
        (None, Some(text)) => Ok(Prompt::Text(text)),
        (messages, _) => {
            let value = if messages.is_some() { "both" } else { "neither" };
            let allowed = "either 'messages' or 'prompt'".to_owned();
            Err(to_js_error(Error::BadSetting { name: "prompt".into(), value: value.into(), allowed }))
        }
    }
}

/// An adapter's two files, `{config, weights}`.
fn files((config, weights): (Vec<u8>, Vec<u8>)) -> JsResult<JsValue> {
    object([("config", Uint8Array::from(&config[..]).into()), ("weights", Uint8Array::from(&weights[..]).into())])
}

fn object<const N: usize>(fields: [(&str, JsValue); N]) -> JsResult<JsValue> {
    let object = Object::new();
    for (name, value) in fields {
        Reflect::set(&object, &name.into(), &value)?;
    }
    Ok(object.into())
}

fn get(object: &JsValue, name: &str) -> JsResult<JsValue> {
    Reflect::get(object, &name.into())
}

fn rebuilt(rebuilt: Rebuilt) -> JsResult<JsValue> {
    let report = to_js(&rebuilt)?;
    Reflect::set(&report, &"files".into(), &files(rebuilt.file.write())?)?;
    Ok(report)
}

/// `{config, weights}`, a name, or undefined for the one in use.
fn adapter_source(from: &JsValue) -> JsResult<AdapterSource> {
    if from.is_undefined() {
        return Ok(AdapterSource::InUse);
    }
    if let Some(name) = from.as_string() {
        return Ok(AdapterSource::Named(name));
    }
    let bytes = |key: &str| Ok::<_, JsValue>(get(from, key)?.dyn_into::<Uint8Array>()?.to_vec());
    Ok(AdapterSource::Files { config: bytes("config")?, weights: bytes("weights")? })
}

/// Calls back; false when JavaScript returned false or threw.
fn goes_on(callback: &Function, argument: JsResult<JsValue>) -> bool {
    let returned = argument.and_then(|argument| callback.call1(&JsValue::NULL, &argument));
    returned.is_ok_and(|returned| returned != JsValue::FALSE)
}

fn to_js(value: &impl Serialize) -> JsResult<JsValue> {
    let serializer = serde_wasm_bindgen::Serializer::json_compatible();
    value.serialize(&serializer).map_err(|error| JsValue::from_str(&error.to_string()))
}

/// Absent options are the defaults.
fn from_js<T: DeserializeOwned + Default>(name: &str, value: JsValue) -> JsResult<T> {
    if value.is_undefined() || value.is_null() {
        return Ok(T::default());
    }
    serde_wasm_bindgen::from_value(value).map_err(|error| {
        let allowed = "the options this method documents".to_owned();
        to_js_error(Error::BadSetting { name: name.into(), value: error.to_string(), allowed })
    })
}

/// `{code, message, …}` with the fields of the variant.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct JsError {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_bytes: Option<u64>,
}

fn to_js_error(error: Error) -> JsValue {
    let shown = JsError { code: error.code(), message: error.to_string(), ..Default::default() };
    let shown = match error {
        Error::BadFile { file, .. } => JsError { file: Some(file), ..shown },
        Error::Unsupported { file, field, .. } => JsError { file: Some(file), field: Some(field), ..shown },
        Error::BadSetting { name, value, allowed } => {
            JsError { name: Some(name), value: Some(value), allowed: Some(allowed), ..shown }
        }
        Error::BadData { file, line, .. } => JsError { file: Some(file), line, ..shown },
        Error::OutOfMemory { needed_bytes, .. } => JsError { needed_bytes: Some(needed_bytes), ..shown },
        _ => shown,
    };
    to_js(&shown).unwrap_or_else(|error| error)
}

/// A file of examples as JavaScript hands it over, `{name, bytes, format?}`.
struct JsFile {
    name: String,
    bytes: Vec<u8>,
    format: Option<Format>,
}

impl JsFile {
    fn new(file: &JsValue) -> JsResult<Self> {
        let name = get(file, "name")?.as_string().ok_or("a file needs a name")?;
        let bytes = get(file, "bytes")?.dyn_into::<Uint8Array>()?.to_vec();
        Ok(Self { name, bytes, format: from_js("format", get(file, "format")?)? })
    }

    fn file(&self) -> DataFile<'_> {
        DataFile { name: &self.name, bytes: &self.bytes, format: self.format }
    }
}

/// Files as JavaScript hands them over, `{name, size, read(offset, length)}`.
fn sources(files: &[JsValue]) -> JsResult<Vec<Rc<dyn ByteSource>>> {
    files.iter().map(|file| Ok(Rc::new(JsSource::new(file)?) as Rc<dyn ByteSource>)).collect()
}

/// Bytes that JavaScript reads for us: a `File`, HTTP ranges.
struct JsSource {
    name: String,
    size_bytes: u64,
    file: JsValue,
    read: Function,
}

impl JsSource {
    fn new(file: &JsValue) -> JsResult<Self> {
        let name = get(file, "name")?.as_string().ok_or("a file needs a name")?;
        let size = get(file, "size")?.as_f64().filter(|size| *size >= 0.0).ok_or("a file needs a size")?;
        let read = get(file, "read")?.dyn_into::<Function>()?;
        Ok(Self { name, size_bytes: size as u64, file: file.clone(), read })
    }

    async fn fetch(&self, offset: u64, size: usize) -> JsResult<Vec<u8>> {
        let promise = self.read.call2(&self.file, &(offset as f64).into(), &(size as f64).into())?;
        let bytes = JsFuture::from(Promise::resolve(&promise)).await?;
        Ok(bytes.dyn_into::<Uint8Array>()?.to_vec())
    }
}

impl ByteSource for JsSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            let bad = |message: String| Error::BadFile { file: self.name.clone(), message };
            let bytes = self.fetch(offset, size).await.map_err(|error| {
                let message = Reflect::get(&error, &"message".into()).ok().and_then(|message| message.as_string());
                bad(format!("cannot be read at byte {offset}: {}", message.unwrap_or_else(|| format!("{error:?}"))))
            })?;
            if bytes.len() != size {
                return Err(bad(format!("{} bytes came at byte {offset} where {size} were asked", bytes.len())));
            }
            Ok(bytes)
        })
    }
}
