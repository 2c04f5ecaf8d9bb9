//! Adapter and device: what was found, which limits hold, and what went wrong since.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::counted::{Counted, Counts};
use super::patience::{Patience, Watch};
use super::shader::Pipeline;
use super::{Shader, Variant};
use crate::{Error, Result};

/// What to ask of the device.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceOptions {
    /// Take WebGPU's default limits and no optional feature, even where the adapter has more.
    pub default_limits: bool,
    /// Compute products this way; else, natively, as the environment variable [`VARIANT_VARIABLE`] says; else as
    /// [`crate::kernels::probe::choose`] finds out.
    pub variant: Option<Variant>,
    /// When a GPU that answers nothing counts as lost; else it is waited for without end, as drivers have watchdogs of
    /// their own outside of browsers.
    pub patience: Option<Patience>,
}

/// Names a [`Variant`] to force, for programs that do not ask for one themselves.
pub const VARIANT_VARIABLE: &str = "WEB_LORA_VARIANT";

/// What is said where no GPU answers.
const NONE_FOUND: &str = if cfg!(target_arch = "wasm32") { "the browser found none" } else { "Vulkan found none" };

/// What was found, in words for people and numbers for plans.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInfo {
    /// The adapter's name, empty where the browser hides it.
    pub name: String,
    /// Driver and version, where known.
    pub driver: String,
    /// True when the "GPU" is a program on the CPU.
    pub software: bool,
    /// Bytes one buffer may have.
    pub max_buffer_size: u64,
    /// Bytes one binding may have.
    pub max_storage_buffer_binding_size: u64,
    /// f16 arithmetic may be used in shaders.
    pub shader_f16: bool,
    /// Shaders may pass values round in subgroups, of eight threads or more.
    #[serde(skip)]
    pub subgroups: bool,
    /// Its own clock can time kernels.
    pub timestamps: bool,
}

impl DeviceInfo {
    /// True if products can be computed this way.
    pub fn has(&self, variant: Variant) -> bool {
        match variant {
            Variant::Direct | Variant::Tiled => true,
            Variant::DirectSubgroups => self.subgroups,
            Variant::TiledF16 => self.shader_f16,
        }
    }
}

/// What went wrong outside any call: the first error wins, as the rest usually follow from it.
type Failure = Arc<Mutex<Option<Error>>>;

/// A device and its queue; or neither, on paper.
pub struct Gpu {
    device: Option<Counted>,
    info: DeviceInfo,
    failure: Failure,
    variant: Cell<Variant>,
    variant_forced: bool,
    pub(super) allocated: Rc<Cell<u64>>,
    pub(super) pipelines: RefCell<HashMap<Rc<str>, Rc<Pipeline>>>,
}

impl Gpu {
    /// Finds the strongest adapter and opens it.
    ///
    /// Errors with `NoAdapter` where no GPU answers, or one that has less than every WebGPU device must.
    pub async fn request(options: DeviceOptions) -> Result<Self> {
        let no_adapter = |message: String| Error::NoAdapter { message };
        let watch = Watch::new(options.patience);
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::BROWSER_WEBGPU;
        let instance = wgpu::Instance::new(descriptor);
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        });
        let adapter = watch.answer(adapter).await.map_err(|error| no_adapter(error.to_string()))?;
        let adapter = adapter.map_err(|error| {
            no_adapter(match error {
                // wgpu's words are of its own back ends.
                wgpu::RequestAdapterError::NotFound { .. } => NONE_FOUND.into(),
                other => other.to_string(),
            })
        })?;
        if let Some(lack) = lacking(&adapter.limits()) {
            return Err(no_adapter(lack));
        }
        let wanted = if options.default_limits {
            wgpu::Features::empty()
        } else {
            wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("web-lora"),
            required_features: adapter.features() & wanted,
            required_limits: if options.default_limits { wgpu::Limits::defaults() } else { adapter.limits() },
            ..Default::default()
        };
        let device = watch.answer(adapter.request_device(&descriptor)).await;
        let device = device.map_err(|error| no_adapter(error.to_string()))?;
        let (device, queue) = device.map_err(|error| no_adapter(error.to_string()))?;

        let failure = Failure::default();
        let lost = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            record(&lost, Error::DeviceLost { message: format!("{reason:?}: {message}") });
        });
        let uncaptured = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            record(
                &uncaptured,
                match error {
                    wgpu::Error::OutOfMemory { source } => {
                        // A browser's error has no words of its own.
                        let text = source.to_string();
                        let message = if text.starts_with('<') { "the GPU has no more".to_owned() } else { text };
                        Error::OutOfMemory { needed_bytes: 0, message }
                    }
                    other => Error::Gpu { message: other.to_string() },
                },
            );
        }));

        let found = adapter.get_info();
        let limits = device.limits();
        let lower = format!("{} {}", found.name, found.driver).to_lowercase();
        let info = DeviceInfo {
            software: found.device_type == wgpu::DeviceType::Cpu
                || ["swiftshader", "llvmpipe", "lavapipe", "basic render"].iter().any(|name| lower.contains(name)),
            name: found.name,
            driver: format!("{} {}", found.driver, found.driver_info).trim().to_owned(),
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            shader_f16: device.features().contains(wgpu::Features::SHADER_F16),
            subgroups: device.features().contains(wgpu::Features::SUBGROUP) && found.subgroup_min_size >= 8,
            timestamps: device.features().contains(wgpu::Features::TIMESTAMP_QUERY),
        };
        let forced = match options.variant {
            Some(variant) => Some(variant),
            None => variant_of_environment()?,
        };
        if let Some(variant) = forced.filter(|variant| !info.has(*variant)) {
            let names: Vec<_> =
                Variant::ALL.into_iter().filter(|variant| info.has(*variant)).map(Variant::name).collect();
            let allowed = format!("{} on this device", names.join(", "));
            return Err(Error::BadSetting { name: "variant".into(), value: variant.to_string(), allowed });
        }
        Ok(Self {
            device: Some(Counted::new(device, queue, watch)),
            info,
            failure,
            variant: Cell::new(forced.unwrap_or_default()),
            variant_forced: forced.is_some(),
            allocated: Rc::default(),
            pipelines: RefCell::default(),
        })
    }

    /// How recordings on this device compute products.
    pub fn variant(&self) -> Variant {
        self.variant.get()
    }

    /// True where the caller or the environment asked for a variant.
    pub fn variant_forced(&self) -> bool {
        self.variant_forced
    }

    /// Computes products of recordings begun from now on as `variant` says.
    pub fn set_variant(&self, variant: Variant) {
        self.variant.set(variant);
    }

    /// A GPU that is none: buffers take no memory and are counted all the same, plans compile nothing. What is made on
    /// it therefore says, before anything is allocated, what the same would need on the device that `info` describes.
    /// What is written to it is lost, and reading or running anything panics.
    pub fn paper(info: DeviceInfo) -> Self {
        let (failure, variant, allocated, pipelines) = Default::default();
        Self { device: None, info, failure, variant, variant_forced: false, allocated, pipelines }
    }

    /// True for [`Gpu::paper`]: reading files for it is in vain.
    pub fn is_paper(&self) -> bool {
        self.device.is_none()
    }

    pub(super) fn device(&self) -> &Counted {
        self.device.as_ref().expect("a GPU on paper runs nothing")
    }

    /// What was found.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What went wrong since the last call: out of memory, a refused command, or the device lost. A lost device stays
    /// lost; the others are told once, so that what is still whole can be used.
    pub fn check(&self) -> Result<()> {
        let mut failure = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let told = match &*failure {
            None => return Ok(()),
            Some(lost @ Error::DeviceLost { .. }) => lost.clone(),
            Some(_) => failure.take().expect("matched above"),
        };
        Err(told)
    }

    /// [`Gpu::check`] once the device has seen everything asked of it: in a browser, errors arrive late.
    pub async fn settle(&self) -> Result<()> {
        if let Some(device) = &self.device {
            self.heard(device.settle().await)?;
        }
        self.check()
    }

    /// What the device is awaited for; one that is silent for too long is lost.
    pub(super) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        self.heard(self.device().answer(answer).await)
    }

    fn heard<T>(&self, heard: Result<T>) -> Result<T> {
        heard.inspect_err(|error| record(&self.failure, error.clone()))
    }

    /// Bytes of all buffers there are on this device.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.get()
    }

    /// What has been asked of the device so far.
    pub fn counts(&self) -> Counts {
        self.device.as_ref().map(Counted::counts).unwrap_or_default()
    }

    /// Bytes that the host has written to buffers so far.
    pub fn written_bytes(&self) -> u64 {
        self.device.as_ref().map(Counted::written_bytes).unwrap_or_default()
    }

    /// Time spent so far in calls that submit. Software may do the submitted work in them.
    pub fn submitting(&self) -> web_time::Duration {
        self.device.as_ref().map(Counted::submitting).unwrap_or_default()
    }

    /// Waits for all submitted work where the platform lets us; in a browser callbacks come by themselves.
    pub(super) fn wait(&self) {
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device().wait() {
            record(&self.failure, Error::DeviceLost { message: error.to_string() });
        }
    }

    /// Waits for all submitted work, in a browser too.
    pub async fn idle(&self) {
        let (sender, receiver) = futures_channel::oneshot::channel();
        self.device().on_done(move || sender.send(()).unwrap_or_default());
        self.wait();
        // A lost device may drop the sender: then there is nothing to wait for. One that is silent is told of by `check`.
        let _ = self.answer(receiver).await;
    }

    /// The pipeline of a shader, compiled at its first use. One is waited for before the next, as software takes seconds for
    /// each: all at once would be a long silence.
    ///
    /// Errors where anything went wrong so far; what did not compile is not kept.
    pub(super) async fn pipeline(&self, shader: &Shader) -> Result<Rc<Pipeline>> {
        if let Some(pipeline) = self.pipelines.borrow().get(shader.source()) {
            return Ok(pipeline.clone());
        }
        let pipeline = Rc::new(Pipeline::new(self.device(), shader));
        self.settle().await?;
        self.pipelines.borrow_mut().insert(shader.source_rc(), pipeline.clone());
        Ok(pipeline)
    }
}

/// What a GPU has too little of, in words: kernels are made for WebGPU's default limits.
fn lacking(found: &wgpu::Limits) -> Option<String> {
    let needed = wgpu::Limits::defaults();
    let limits = |limits: &wgpu::Limits| {
        [
            ("maxStorageBuffersPerShaderStage", u64::from(limits.max_storage_buffers_per_shader_stage)),
            ("maxComputeWorkgroupStorageSize", u64::from(limits.max_compute_workgroup_storage_size)),
            ("maxComputeInvocationsPerWorkgroup", u64::from(limits.max_compute_invocations_per_workgroup)),
            ("maxComputeWorkgroupsPerDimension", u64::from(limits.max_compute_workgroups_per_dimension)),
            ("maxStorageBufferBindingSize", limits.max_storage_buffer_binding_size),
            ("maxBufferSize", limits.max_buffer_size),
        ]
    };
    let mut both = limits(found).into_iter().zip(limits(&needed));
    let ((name, found), (_, needed)) = both.find(|((_, found), (_, needed))| found < needed)?;
    Some(format!("the GPU's {name} is {found}, and {needed} is needed"))
}

/// What [`VARIANT_VARIABLE`] asks for; a browser has no such thing.
fn variant_of_environment() -> Result<Option<Variant>> {
    let Ok(name) = std::env::var(VARIANT_VARIABLE) else { return Ok(None) };
    let allowed = Variant::ALL.map(Variant::name).join(", ");
    let unknown = Error::BadSetting { name: VARIANT_VARIABLE.into(), value: name.clone(), allowed };
    Variant::named(&name).ok_or(unknown).map(Some)
}

/// The first error is kept, as the rest usually follow from it; that the device is lost outweighs all.
fn record(failure: &Failure, error: Error) {
    let mut failure = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if failure.is_none() || matches!(error, Error::DeviceLost { .. }) {
        *failure = Some(error);
    }
}
