//! Persistent GPU memory: weights, the adapter arena, batches. Transient memory belongs to a [`super::Plan`].

use std::cell::Cell;
use std::rc::Rc;

use super::Gpu;
use crate::{Error, Result};

/// A named piece of GPU memory, zero when created. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub(super) inner: Rc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// The device's count of bytes allocated.
    allocated: Rc<Cell<u64>>,
    pub(super) label: String,
    pub(super) size_bytes: u64,
    /// None on paper.
    wgpu: Option<wgpu::Buffer>,
}

impl Inner {
    fn new(gpu: &Gpu, label: &str, size_bytes: u64, usage: wgpu::BufferUsages) -> Self {
        // Never mapped at creation: browsers throw there when the GPU process is short of memory.
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: size_bytes, usage, mapped_at_creation: false };
        let wgpu = (!gpu.is_paper()).then(|| gpu.device().create_buffer(&descriptor));
        gpu.allocated.set(gpu.allocated.get() + size_bytes);
        Self { allocated: gpu.allocated.clone(), label: label.to_owned(), size_bytes, wgpu }
    }

    pub(super) fn wgpu(&self) -> &wgpu::Buffer {
        self.wgpu.as_ref().expect("a GPU on paper runs nothing")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A browser would keep the memory until its garbage collector runs.
        self.wgpu.iter().for_each(wgpu::Buffer::destroy);
        self.allocated.set(self.allocated.get() - self.size_bytes);
    }
}

impl Buffer {
    /// Storage readable and writable by shaders, `size_bytes` rounded up to 16.
    ///
    /// Errors with `OutOfMemory` when the device cannot have a buffer of this size; running out of memory
    /// in the driver shows at the next [`Gpu::check`].
    pub fn storage(gpu: &Gpu, label: &str, size_bytes: u64) -> Result<Self> {
        Self::new(gpu, label, size_bytes, wgpu::BufferUsages::STORAGE)
    }

    /// A uniform buffer: small parameters, read by every thread alike.
    pub fn uniform(gpu: &Gpu, label: &str, size_bytes: u64) -> Result<Self> {
        Self::new(gpu, label, size_bytes, wgpu::BufferUsages::UNIFORM)
    }

    /// Room for `n` timestamps, 8 bytes each.
    pub(super) fn timestamps(gpu: &Gpu, n: u32) -> Self {
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Self { inner: Rc::new(Inner::new(gpu, "timestamps", 8 * u64::from(n), usage)) }
    }

    fn new(gpu: &Gpu, label: &str, size_bytes: u64, usage: wgpu::BufferUsages) -> Result<Self> {
        let size_bytes = size_bytes.max(16).next_multiple_of(16);
        let largest = gpu.info().max_buffer_size;
        if size_bytes > largest {
            return Err(Error::OutOfMemory {
                needed_bytes: size_bytes,
                message: format!(
                    "the buffer '{label}' is larger than the {largest} bytes this GPU allows in one piece"
                ),
            });
        }
        let usage = usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        Ok(Self { inner: Rc::new(Inner::new(gpu, label, size_bytes, usage)) })
    }

    /// Bytes allocated.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes
    }

    /// The name given at creation.
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    /// Writes `data` at `offset_bytes`; both must be multiples of 4. Ordered before the next submit.
    pub fn write(&self, gpu: &Gpu, offset_bytes: u64, data: &[u8]) {
        if let Some(wgpu) = &self.inner.wgpu {
            gpu.device().write_buffer(wgpu, offset_bytes, data);
        }
    }

    /// Fills the whole buffer with zeros.
    pub fn clear(&self, gpu: &Gpu) {
        if let Some(wgpu) = &self.inner.wgpu {
            let mut encoder = gpu.device().encoder();
            encoder.clear_buffer(wgpu, 0, None);
            gpu.device().submit(encoder);
        }
    }

    /// Copies the whole buffer back. Waits for all work submitted so far.
    pub async fn read(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        self.read_range(gpu, 0, self.size_bytes()).await
    }

    /// Copies `size_bytes` at `offset_bytes` back; both must be multiples of 4.
    pub async fn read_range(&self, gpu: &Gpu, offset_bytes: u64, size_bytes: u64) -> Result<Vec<u8>> {
        let staging = Staging::new(gpu, size_bytes);
        let mut encoder = gpu.device().encoder();
        staging.copy_from(&mut encoder, self, offset_bytes);
        gpu.device().submit(encoder);
        staging.map(gpu);
        staging.take(gpu).await
    }
}

/// A buffer the CPU can read: filled by a copy on the GPU, mapped, taken, and used again.
pub(super) struct Staging {
    inner: Inner,
    mapped: std::cell::RefCell<Option<futures_channel::oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>>>,
}

impl Staging {
    pub(super) fn new(gpu: &Gpu, size_bytes: u64) -> Self {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Self { inner: Inner::new(gpu, "staging", size_bytes, usage), mapped: Default::default() }
    }

    /// Records a copy that fills the whole staging buffer from `source`.
    pub(super) fn copy_from(&self, encoder: &mut wgpu::CommandEncoder, source: &Buffer, offset_bytes: u64) {
        let (from, to) = (source.inner.wgpu(), self.inner.wgpu());
        encoder.copy_buffer_to_buffer(from, offset_bytes, to, 0, self.inner.size_bytes);
    }

    /// Asks for the bytes, to be called once after the submit that fills them.
    pub(super) fn map(&self, gpu: &Gpu) {
        let (sender, receiver) = futures_channel::oneshot::channel();
        gpu.device().map(self.inner.wgpu(), move |result| {
            // The receiver is gone when nobody wants the bytes any more.
            let _ = sender.send(result);
        });
        *self.mapped.borrow_mut() = Some(receiver);
    }

    /// Waits for the bytes asked for by [`Staging::map`].
    pub(super) async fn take(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        let receiver = self.mapped.borrow_mut().take().expect("map() comes before take()");
        gpu.wait();
        let lost = || gpu.check().err().unwrap_or(Error::DeviceLost { message: "the GPU dropped a readback".into() });
        gpu.answer(receiver).await?.map_err(|_| lost())?.map_err(|_| lost())?;
        let bytes = self.inner.wgpu().get_mapped_range(..).map_err(|_| lost())?.to_vec();
        self.inner.wgpu().unmap();
        // That the copy was refused has been told by now: then these are not the bytes that were asked for.
        gpu.check()?;
        Ok(bytes)
    }
}
