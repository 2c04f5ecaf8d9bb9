//! Where the time of a training step goes, kernel by kernel and module by module.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Serialize;

use crate::gpu::{DeviceInfo, EntryTime};

/// What one step took, each of its kernels timed by itself. That is longer than the step takes in one go, as nothing
/// overlaps; what matters are the shares.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// The GPU's name, empty where the browser hides it.
    pub device: String,
    /// True where the GPU's own clock told the times (browsers round it, often to 0.1 ms). Else waiting did, which
    /// takes some time of its own.
    pub timestamps: bool,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Sum of all.
    pub seconds: f64,
    /// The longest first.
    pub ops: Vec<Op>,
}

/// One kernel in one kind of module, all layers together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Op {
    /// `forward`, `backward` or `update`.
    pub phase: &'static str,
    /// Path in the model without the number of the layer, `layers.mlp.down_proj`.
    pub module: String,
    /// The shader's name; `clear` and `copy` are the driver's.
    pub kernel: &'static str,
    /// Dispatches.
    pub count: usize,
    /// All of them.
    pub seconds: f64,
    /// Of the step, 0 to 1.
    pub share: f64,
    /// 0 for kernels that do not state what they compute.
    pub gigaflops_per_second: f64,
    /// Of everything the kernel was given, as if it read or wrote each byte once.
    pub gigabytes_per_second: f64,
}

impl Profile {
    /// Adds up the `times` of a step of `tokens` tokens.
    pub fn new(device: &DeviceInfo, tokens: usize, times: &[EntryTime]) -> Self {
        let mut groups: BTreeMap<_, Vec<&EntryTime>> = BTreeMap::new();
        for time in times {
            groups.entry((time.phase, module(&time.label), time.kernel)).or_default().push(time);
        }
        let all: f64 = times.iter().map(|time| time.seconds).sum();
        let op = |((phase, module, kernel), times): ((&'static str, String, &'static str), Vec<&EntryTime>)| {
            let seconds: f64 = times.iter().map(|time| time.seconds).sum();
            let rate = |of: fn(&EntryTime) -> u64| {
                let total: u64 = times.iter().map(|time| of(time)).sum();
                if seconds > 0.0 { total as f64 / seconds / 1e9 } else { 0.0 }
            };
            Op {
                phase,
                module,
                kernel,
                count: times.len(),
                seconds,
                share: if all > 0.0 { seconds / all } else { 0.0 },
                gigaflops_per_second: rate(|time| time.flops),
                gigabytes_per_second: rate(|time| time.bytes),
            }
        };
        let mut ops: Vec<Op> = groups.into_iter().map(op).collect();
        ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Self { device: device.name.clone(), timestamps: device.timestamps, tokens, seconds: all, ops }
    }

    /// Folded stacks as flame graph programs read them: `forward;layers;mlp;down_proj;matmul 1234`, in microseconds.
    pub fn folded(&self) -> String {
        self.ops.iter().fold(String::new(), |mut lines, op| {
            let (phase, module, kernel) = (op.phase, op.module.replace('.', ";"), op.kernel);
            writeln!(lines, "{phase};{module};{kernel} {:.0}", op.seconds * 1e6).expect("writing to a string");
            lines
        })
    }
}

/// A label's path without what differs from layer to layer.
fn module(label: &str) -> String {
    let kinds = label.split('.').filter(|part| *part != "backward" && !part.bytes().all(|b| b.is_ascii_digit()));
    kinds.collect::<Vec<_>>().join(".")
}

/// A table, one line an op.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = if self.timestamps { "the GPU's clock" } else { "waiting" };
        writeln!(f, "{}: {} tokens in {:.1} ms by {clock}", self.device, self.tokens, self.seconds * 1e3)?;
        writeln!(f, "{:>6} {:>9} {:>5} {:>8} {:>7}  op", "share", "ms", "count", "GFLOP/s", "GB/s")?;
        for op in &self.ops {
            let Op { phase, module, kernel, count, seconds, share, .. } = op;
            let (flops, bytes) = (op.gigaflops_per_second, op.gigabytes_per_second);
            let (percent, ms) = (share * 100.0, seconds * 1e3);
            writeln!(f, "{percent:>5.1}% {ms:>9.2} {count:>5} {flops:>8.1} {bytes:>7.2}  {phase} {module} {kernel}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_added_up_and_the_longest_comes_first() {
        let time = |label: &str, phase, kernel, milliseconds: f64| EntryTime {
            label: label.into(),
            phase,
            kernel,
            seconds: milliseconds / 1e3,
            flops: 2_000_000,
            bytes: 1_000_000,
        };
        let times = [
            time("embed_tokens", "forward", "embedding", 1.0),
            time("layers.0.mlp.up_proj", "forward", "matmul", 1.0),
            time("layers.11.mlp.up_proj", "forward", "matmul", 3.0),
            time("layers.11.backward.mlp.up_proj", "backward", "matmul", 5.0),
        ];
        let profile = Profile::new(&DeviceInfo::default(), 7, &times);
        assert_eq!(
            profile.folded(),
            "backward;layers;mlp;up_proj;matmul 5000\nforward;layers;mlp;up_proj;matmul 4000\n\
             forward;embed_tokens;embedding 1000\n"
        );
        let Op { count, share, gigaflops_per_second, gigabytes_per_second, .. } = profile.ops[1];
        assert_eq!((count, share, gigaflops_per_second, gigabytes_per_second), (2, 0.4, 1.0, 0.5));
        assert!(
            profile.to_string().contains(" 40.0%      4.00     2      1.0    0.50  forward layers.mlp.up_proj matmul")
        );
    }
}
