//! The one error type. Each variant says what the caller can do; `code()` is stable and crosses to JavaScript.

/// Everything that can go wrong on data, settings or devices a user can supply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is broken, truncated or not what it claims. Get a fresh copy or another file.
    #[error("{file}: {message}")]
    BadFile {
        /// File name as the user knows it.
        file: String,
        /// What is wrong, and where.
        message: String,
    },
    /// The file is sound but needs something this version does not implement. Choose another model or file.
    #[error("{file}: {field} is not supported: {message}")]
    Unsupported {
        /// File name as the user knows it.
        file: String,
        /// The config field, tensor type or feature.
        field: String,
        /// What was found and what is supported.
        message: String,
    },
    /// A setting lies outside its range. Change it.
    #[error("{name} is {value}, allowed is {allowed}")]
    BadSetting {
        /// The setting's name as the caller spelled it.
        name: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The examples cannot be trained on. Correct the file at the line named, if any.
    #[error("{file}{}: {message}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    BadData {
        /// File name as the user knows it.
        file: String,
        /// 1-based line, where one line is to blame.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// An adapter does not belong to the loaded model. Load its own base model, or another adapter.
    #[error("the adapter does not fit this model: {message}")]
    AdapterMismatch {
        /// Both sides of the mismatch.
        message: String,
    },
    /// A step that must come first is missing (load a model, give examples).
    #[error("{message}")]
    NotReady {
        /// What is missing.
        message: String,
    },
    /// No GPU answers. Update the browser or driver, or switch hardware acceleration on.
    #[error("no GPU is available: {message}")]
    NoAdapter {
        /// What is missing.
        message: String,
    },
    /// The GPU went away: driver reset, sleep, or the browser stopped it. Load the model again.
    #[error("the GPU was lost: {message}")]
    DeviceLost {
        /// The platform's own words.
        message: String,
    },
    /// Not enough GPU memory. Use a shorter length, fewer tokens a pass, a smaller rank or a smaller model.
    #[error("not enough GPU memory: {message}")]
    OutOfMemory {
        /// Bytes asked for, 0 where unknown.
        needed_bytes: u64,
        /// What did not fit.
        message: String,
    },
    /// Loss or gradients were not finite for so many steps in a row, and none of these was taken: the adapter is as it was
    /// before them. Lower the learning rate; or the model, or the adapter begun from, holds a number that is none.
    #[error(
        "the last {steps} steps had a loss or gradients that are not finite, and were left out: lower the learning rate, \
         or look for NaN in the model"
    )]
    Diverged {
        /// In a row.
        steps: usize,
    },
    /// The GPU refused a command: a fault of ours or of the driver. Please report it.
    #[error("the GPU refused a command: {message}")]
    Gpu {
        /// The platform's own words.
        message: String,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
}

impl Error {
    /// A stable name for programs: `snake_case` of the variant.
    pub fn code(&self) -> &'static str {
        match self {
            Error::BadFile { .. } => "bad_file",
            Error::Unsupported { .. } => "unsupported",
            Error::BadSetting { .. } => "bad_setting",
            Error::BadData { .. } => "bad_data",
            Error::AdapterMismatch { .. } => "adapter_mismatch",
            Error::NotReady { .. } => "not_ready",
            Error::NoAdapter { .. } => "no_adapter",
            Error::DeviceLost { .. } => "device_lost",
            Error::OutOfMemory { .. } => "out_of_memory",
            Error::Diverged { .. } => "diverged",
            Error::Gpu { .. } => "gpu",
            Error::Cancelled => "cancelled",
        }
    }

    /// Where memory ran out: for what, which `needed` so many bytes (0 where that is not known), and what would need `less`.
    pub(crate) fn when_scarce(self, what: &str, needed: u64, less: &str) -> Self {
        let Error::OutOfMemory { needed_bytes, message } = self else { return self };
        let size = if needed > 0 { format!(" of {} MiB", needed.div_ceil(1 << 20)) } else { String::new() };
        let message = format!("{message} for {what}{size}: {less}");
        Error::OutOfMemory { needed_bytes: needed_bytes.max(needed), message }
    }
}

/// Result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
