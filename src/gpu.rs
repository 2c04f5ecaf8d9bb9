//! The GPU layer: a device, buffers with a byte count, recordings (plain data) and plans that replay them.
//!
//! Nothing here knows what a transformer is, and nothing above `kernels/` names a wgpu type.

mod buffer;
mod counted;
mod device;
mod patience;
mod plan;
mod recording;
mod shader;
mod slots;
mod timing;
mod variant;

pub use buffer::Buffer;
pub use counted::Counts;
pub use device::{DeviceInfo, DeviceOptions, Gpu, VARIANT_VARIABLE};
pub use patience::{Patience, Sleep};
pub use plan::{Plan, Readback};
pub use recording::{Command, Extent, Grid, Recording, Rows, Slice, Step, Work};
pub use shader::Shader;
pub use timing::EntryTime;
pub use variant::Variant;
