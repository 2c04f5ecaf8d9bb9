//! Where bytes come from.

use std::{future::Future, pin::Pin, rc::Rc};

use crate::{Error, Result};

/// A future that stays on its thread, as everything in a browser tab does.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Random access to bytes that are somewhere else: a file in the tab, HTTP ranges, a file on disk.
pub trait ByteSource {
    /// The file's name as the user knows it, possibly with folders before it.
    fn name(&self) -> &str;

    /// How many bytes there are.
    fn size_bytes(&self) -> u64;

    /// Exactly `size` bytes at `offset`, or an error.
    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>>;
}

/// The error for a read past the end, worded once.
pub(crate) fn past_the_end(file: &str, offset: u64, size: usize, size_bytes: u64) -> Error {
    Error::BadFile {
        file: file.to_owned(),
        message: format!("{size} bytes at {offset} lie past its end ({size_bytes} bytes)"),
    }
}

/// Reads, and checks that a source keeps its promise: one that is short (a cut connection) is an error, no panic.
pub(super) async fn read_exact(source: &Rc<dyn ByteSource>, offset: u64, size: usize) -> Result<Vec<u8>> {
    let bytes = source.read(offset, size).await?;
    match bytes.len() {
        length if length == size => Ok(bytes),
        length => Err(Error::BadFile {
            file: source.name().to_owned(),
            message: format!("{length} bytes came where {size} at {offset} were asked for"),
        }),
    }
}

/// All of a small file, refused above `limit` bytes.
pub(super) async fn read_all(source: &Rc<dyn ByteSource>, limit: usize) -> Result<Vec<u8>> {
    match usize::try_from(source.size_bytes()) {
        Ok(size) if size <= limit => read_exact(source, 0, size).await,
        _ => Err(Error::BadFile {
            file: source.name().to_owned(),
            message: format!("it has {} bytes, at most {limit} are read", source.size_bytes()),
        }),
    }
}

/// Bytes already in memory.
pub struct MemorySource {
    name: String,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// Gives `bytes` a name.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes }
    }
}

impl ByteSource for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        let bytes = usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..start.checked_add(size)?));
        let result = bytes.map(<[u8]>::to_vec).ok_or_else(|| past_the_end(&self.name, offset, size, self.size_bytes()));
        Box::pin(std::future::ready(result))
    }
}

/// A file on disk, read where asked.
#[cfg(not(target_arch = "wasm32"))]
pub struct FileSource {
    name: String,
    size_bytes: u64,
    file: std::cell::RefCell<std::fs::File>,
}

#[cfg(not(target_arch = "wasm32"))]
impl FileSource {
    /// Opens `path`; its last part is the source's name.
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let failed =
            |error: std::io::Error| Error::BadFile { file: path.display().to_string(), message: error.to_string() };
        let file = std::fs::File::open(path).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { name, size_bytes, file: file.into() })
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl ByteSource for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, size: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        use std::io::{Read, Seek, SeekFrom};
        let read = || {
            // Checked before the buffer exists: a claimed size costs no memory.
            if offset.checked_add(size as u64).is_none_or(|end| end > self.size_bytes) {
                return Err(past_the_end(&self.name, offset, size, self.size_bytes));
            }
            let failed = |error: std::io::Error| Error::BadFile { file: self.name.clone(), message: error.to_string() };
            let mut file = self.file.borrow_mut();
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            let mut bytes = vec![0; size];
            file.read_exact(&mut bytes).map_err(failed)?;
            Ok(bytes)
        };
        Box::pin(std::future::ready(read()))
    }
}
