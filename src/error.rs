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
}

impl Error {
    /// A stable name for programs: `snake_case` of the variant.
    pub fn code(&self) -> &'static str {
        match self {
            Error::BadFile { .. } => "bad_file",
        }
    }
}

/// Result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
