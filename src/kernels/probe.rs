//! Which [`Variant`] suits a device: each is first verified there on odd shapes, then timed on SmolLM2's.
//!
//! f16 is never chosen unasked, as what comes out should be what PEFT computes.

use serde::{Deserialize, Serialize};
use web_time::{Duration, Instant};

use super::matmul::{Store, Tail, matmul, matmul_transposed};
use super::segments::Segments;
use super::weight::{Weight, WeightFormat, repack};
use super::{Matrix, stride};
use crate::gpu::{Buffer, Gpu, Plan, Recording, Rows, Slice, Step, Variant};
use crate::io::{DType, dequantize};
use crate::{Error, Result};

/// How long the products of one variant are timed.
const TIMED: Duration = Duration::from_millis(120);

/// What is verified: nothing divides anything.
const ODD: Shape = Shape { rows: 70, n: 150, k: 160, rank: 5 };
/// What is timed: SmolLM2's.
const REAL: Shape = Shape { rows: 256, n: 1536, k: 576, rank: 8 };

/// The variant a device got, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// What products are computed with.
    pub variant: Variant,
    /// Device and build it was chosen for: elsewhere it means nothing.
    pub device: String,
    /// What spoke for it, in words.
    pub reason: String,
}

/// Chooses and sets the variant of a device: the one asked for when it was opened; `direct-subgroups` or `direct` where the
/// "GPU" is a program on the CPU, which is known; what `remembered` says, if that is of this device and build; else the fastest of
/// those that compute correctly. Takes well under a second besides what the driver needs to compile four kernels.
pub async fn choose(gpu: &Gpu, remembered: Option<Choice>) -> Result<Choice> {
    let info = gpu.info();
    let device = format!("{} | {} | {}", info.name, info.driver, env!("CARGO_PKG_VERSION"));
    let choice = match remembered.filter(|choice| choice.device == device && choice.variant != Variant::TiledF16) {
        _ if gpu.variant_forced() => Choice { variant: gpu.variant(), device, reason: "as asked".into() },
        _ if info.software => {
            let (variant, reason) = of_software(gpu).await?;
            Choice { variant, device, reason }
        }
        Some(remembered) => remembered,
        None => {
            let (variant, reason) = fastest(gpu).await?;
            Choice { variant, device, reason }
        }
    };
    gpu.set_variant(choice.variant);
    Ok(choice)
}

/// Subgroups are several times as fast for a program on the CPU, and newer than all else it has: they are verified.
async fn of_software(gpu: &Gpu) -> Result<(Variant, String)> {
    let reason = "the device is software".to_owned();
    if !gpu.info().has(Variant::DirectSubgroups) {
        return Ok((Variant::Direct, reason));
    }
    match Trial::new(gpu, Variant::DirectSubgroups, ODD).await?.verify(gpu).await {
        Ok(()) => Ok((Variant::DirectSubgroups, reason)),
        Err(error @ Error::DeviceLost { .. }) => Err(error),
        Err(error) => Ok((Variant::Direct, format!("{reason}; {} not used: {error}", Variant::DirectSubgroups))),
    }
}

/// The fastest variant that computes correctly, and how all of them did.
///
/// Errors with `Gpu` where none does: nothing that such a device gives can be believed.
async fn fastest(gpu: &Gpu) -> Result<(Variant, String)> {
    let mut best: Option<(Variant, f64)> = None;
    let mut reasons = vec![];
    let exact = [Variant::Direct, Variant::DirectSubgroups, Variant::Tiled];
    for variant in exact.into_iter().filter(|variant| gpu.info().has(*variant)) {
        match rate(gpu, variant, ODD, REAL).await {
            Ok(rate) => {
                reasons.push(format!("{variant} {:.0} GFLOP/s", rate / 1e9));
                if best.is_none_or(|(_, most)| rate > most) {
                    best = Some((variant, rate));
                }
            }
            Err(error @ Error::DeviceLost { .. }) => return Err(error),
            Err(error) => reasons.push(format!("{variant} not used: {error}")),
        }
    }
    let reasons = reasons.join(", ");
    match best {
        Some((variant, _)) => Ok((variant, reasons)),
        None => Err(Error::Gpu { message: format!("no way to compute products comes out right here ({reasons})") }),
    }
}

/// Floating-point operations a second of products as the device computes them.
pub async fn flops_per_second(gpu: &Gpu) -> Result<f64> {
    rate(gpu, gpu.variant(), ODD, REAL).await
}

/// Floating-point operations a second of products both ways, `odd` ones having come out right.
async fn rate(gpu: &Gpu, variant: Variant, odd: Shape, real: Shape) -> Result<f64> {
    let trial = Trial::new(gpu, variant, odd).await?;
    trial.verify(gpu).await?;
    let trial = Trial::new(gpu, variant, real).await?;
    trial.run(gpu).await?;
    let (start, mut runs) = (Instant::now(), 0);
    // More and more at once, so that on a fast GPU the wait for the answer does not count.
    while start.elapsed() < TIMED {
        let again = runs.max(1);
        (0..again - 1).for_each(|_| trial.plan.replay(gpu, &trial.step));
        trial.run(gpu).await?;
        runs += again;
    }
    let flops = 4 * real.rows * real.n * (real.k + real.rank);
    Ok(f64::from(runs) * flops as f64 / start.elapsed().as_secs_f64())
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    n: usize,
    k: usize,
    rank: usize,
}

/// A Q4 product with a low-rank term and its transposed product, on numbers made up here.
struct Trial {
    shape: Shape,
    plan: Plan,
    step: Step,
    /// Operands as the CPU sees them, rows `stride` apart: x, dy, the weight, x Aᵀ, B, dy B, A.
    values: [Vec<f32>; 7],
    y: Buffer,
    dx: Buffer,
}

impl Trial {
    async fn new(gpu: &Gpu, variant: Variant, shape: Shape) -> Result<Self> {
        let Shape { rows, n, k, rank } = shape;
        let mut numbers = Numbers(1);
        let blocks: Vec<u8> = (0..n * k / 32).flat_map(|_| numbers.q4_1_block()).collect();
        let (quants, scales) = repack(DType::Q4_1, &blocks, k);
        let [x, dy, xa, b, dya, a] = [(rows, k), (rows, n), (rows, rank), (n, rank), (rows, rank), (rank, k)]
            .map(|(rows, width)| numbers.matrix(rows, width));
        let upload = |bytes: &[u8]| -> Result<Buffer> {
            let buffer = Buffer::storage(gpu, "probe", bytes.len() as u64)?;
            buffer.write(gpu, 0, bytes);
            Ok(buffer)
        };
        let [x_at, dy_at, xa_at, b_at, dya_at, a_at] =
            [&x, &dy, &xa, &b, &dya, &a].map(|values| upload(bytemuck::cast_slice(values)));
        let (quants, scales) = (upload(&quants)?, upload(&scales)?);
        let y = Buffer::storage(gpu, "probe.y", Matrix::size_bytes(rows, n))?;
        let dx = Buffer::storage(gpu, "probe.dx", Matrix::size_bytes(rows, k))?;

        let step_buffer = Buffer::uniform(gpu, "probe.step", size_of::<Step>() as u64)?;
        let mut rec = Recording::new(&step_buffer, rows).with_variant(variant);
        let w = Weight {
            format: WeightFormat::Q4,
            rows: n,
            cols: k,
            first_row: 0,
            values: rec.external(&quants),
            scales: Some(rec.external(&scales)),
        };
        let matrix = |slice: Slice, width: usize| Matrix { slice, width };
        let [x_at, dy_at, xa_at, b_at, dya_at, a_at] = [x_at?, dy_at?, xa_at?, b_at?, dya_at?, a_at?];
        let [x_in, dy_in, xa_in, b_in, dya_in, a_in, y_out, dx_out] =
            [&x_at, &dy_at, &xa_at, &b_at, &dya_at, &a_at, &y, &dx].map(|buffer| rec.external(buffer));
        let tail = Tail { x: matrix(xa_in, rank), w: b_in, w_cols: rank, scale: 1.0, segments: Segments::one(rank) };
        let (x_in, y_out) = (matrix(x_in, k), matrix(y_out, n));
        matmul(&mut rec, "probe", Rows::TOKENS, x_in, &w, Some(tail), None, y_out, Store::Replace);
        let tail = Tail { x: matrix(dya_in, rank), w: a_in, w_cols: k, scale: 1.0, segments: Segments::one(rank) };
        let (dy_in, dx_out) = (matrix(dy_in, n), matrix(dx_out, k));
        matmul_transposed(&mut rec, "probe.dx", Rows::TOKENS, dy_in, &w, Some(tail), dx_out, Store::Replace);

        let plan = Plan::new(gpu, &rec, |_, _| ()).await?;
        gpu.settle().await?;
        let w = dequantize(DType::Q4_1, &blocks);
        let step = Step { n_tokens: rows as u32, strength: 1.0, ..Default::default() };
        Ok(Self { shape, plan, step, values: [x, dy, w, xa, b, dya, a], y, dx })
    }

    /// Runs it and waits.
    async fn run(&self, gpu: &Gpu) -> Result<()> {
        self.plan.replay(gpu, &self.step);
        self.dx.read_range(gpu, 0, 16).await?;
        gpu.check()
    }

    /// Runs it and compares both products with the same sums in f64. A kernel that is wrong on this device is off by far more
    /// than f32 rounds.
    async fn verify(&self, gpu: &Gpu) -> Result<()> {
        self.run(gpu).await?;
        self.check(gpu).await
    }

    async fn check(&self, gpu: &Gpu) -> Result<()> {
        let Shape { rows, n, k, rank } = self.shape;
        let [x, dy, w, xa, b, dya, a] = &self.values;
        let at = |values: &[f32], width: usize, row: usize, column: usize| f64::from(values[row * width + column]);
        let dot = |n: usize, term: &dyn Fn(usize) -> f64| (0..n).map(term).sum::<f64>();
        let (sk, sn, sr) = (stride(k), stride(n), stride(rank));
        let y = |t: usize, j: usize| {
            dot(k, &|i| at(x, sk, t, i) * at(w, k, j, i)) + dot(rank, &|r| at(xa, sr, t, r) * at(b, sr, j, r))
        };
        let dx = |t: usize, i: usize| {
            dot(n, &|j| at(dy, sn, t, j) * at(w, k, j, i)) + dot(rank, &|r| at(dya, sr, t, r) * at(a, sk, r, i))
        };
        let compare = |ours: &[u8], width: usize, expected: &dyn Fn(usize, usize) -> f64| {
            let ours: &[f32] = bytemuck::cast_slice(ours);
            (0..rows).flat_map(|t| (0..width).map(move |c| (t, c))).all(|(t, c)| {
                // NaN is not within anything.
                (at(ours, stride(width), t, c) - expected(t, c)).abs() < 1e-3
            })
        };
        let right = compare(&self.y.read(gpu).await?, n, &y) && compare(&self.dx.read(gpu).await?, k, &dx);
        let wrong = Error::Gpu { message: "it computes wrong sums on this device".into() };
        if right { Ok(()) } else { Err(wrong) }
    }
}

/// Made-up numbers, the same everywhere (Knuth's constants for a 64-bit linear congruential generator).
struct Numbers(u64);

impl Numbers {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 56) as u8
    }

    /// One of 256 values in [-1, 1).
    fn value(&mut self) -> f32 {
        f32::from(self.byte()) / 128.0 - 1.0
    }

    fn matrix(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut values = vec![0.0; Matrix::size_bytes(rows, width) as usize / 4];
        for row in values.chunks_exact_mut(stride(width)).take(rows) {
            row[..width].fill_with(|| self.value());
        }
        values
    }

    fn q4_1_block(&mut self) -> [u8; 20] {
        let (d, m) = (half::f16::from_f32(self.value() / 8.0), half::f16::from_f32(self.value()));
        let mut block = std::array::from_fn(|_| self.byte());
        block[..2].copy_from_slice(&d.to_le_bytes());
        block[2..4].copy_from_slice(&m.to_le_bytes());
        block
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::kernels::testing::gpu;

    #[test]
    fn every_variant_is_verified_and_timed() {
        let gpu = pollster::block_on(gpu());
        let (variant, reason) = pollster::block_on(fastest(&gpu)).unwrap();
        assert!(reason.contains("direct ") && reason.contains("tiled "), "{reason}");
        assert!(!reason.contains("not used"), "{reason}");
        assert_ne!(variant, Variant::TiledF16);
    }

    #[test]
    fn one_number_that_is_off_is_seen() {
        let gpu = pollster::block_on(gpu());
        let trial = pollster::block_on(Trial::new(&gpu, Variant::Direct, ODD)).unwrap();
        pollster::block_on(trial.verify(&gpu)).unwrap();
        for wrong in [&trial.y, &trial.dx] {
            let at = (ODD.rows as u64 - 1) * 8;
            let right = pollster::block_on(wrong.read(&gpu)).unwrap();
            for value in [0.125 + f32::from_le_bytes(right[at as usize..][..4].try_into().unwrap()), f32::NAN] {
                wrong.write(&gpu, at, &value.to_le_bytes());
                let error = pollster::block_on(trial.check(&gpu)).unwrap_err();
                assert!(error.to_string().contains("wrong sums"), "{error}");
            }
            wrong.write(&gpu, 0, &right);
        }
        pollster::block_on(trial.check(&gpu)).unwrap();
    }

    #[test]
    fn a_choice_is_remembered_for_its_device_alone() {
        let gpu = pollster::block_on(gpu());
        let first = pollster::block_on(choose(&gpu, None)).unwrap();
        let elsewhere = Choice { device: "another".into(), variant: Variant::Tiled, reason: "measured".into() };
        assert_eq!(pollster::block_on(choose(&gpu, Some(elsewhere))).unwrap().variant, first.variant);
    }
}
