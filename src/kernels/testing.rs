//! Runs kernels on small inputs and compares them with their references: natively and in a browser alike.

use std::rc::Rc;

use crate::gpu::{Buffer, DeviceOptions, Gpu, Plan, Recording, Slice, Step, Variant};

/// How far a result may lie from its reference: `abs + rel * |reference|`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) abs: f64,
    pub(crate) rel: f64,
}

impl Tolerance {
    /// For a sum of `n` products of magnitude up to `scale`. Each addition rounds by up to half an ulp of its partial
    /// sum, and both the partial sums and the errors grow as random walks: the result is off by some n/4 ulps of
    /// `scale`, with a factor of 4 for the tail and a floor for short sums.
    pub(crate) fn sum(n: usize, scale: f64) -> Self {
        let eps = f64::from(f32::EPSILON);
        Self { abs: eps * scale * (n as f64).max(8.0 * (n as f64).sqrt()), rel: 8.0 * eps }
    }
}

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

type Record = Box<dyn Fn(&mut Recording, &[Slice])>;
type Check = Box<dyn Fn(&[u8]) -> Result<(), String>>;

/// One kernel call: buffers, what to record, what should come out.
pub(crate) struct Case {
    name: String,
    step: Step,
    buffers: Vec<Vec<u8>>,
    record: Option<Record>,
    variant: Option<Variant>,
    expected: Vec<(usize, Vec<f64>, Tolerance)>,
    checks: Vec<(usize, Check)>,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, step: Step) -> Self {
        Self { name: name.into(), step, buffers: vec![], record: None, variant: None, expected: vec![], checks: vec![] }
    }

    /// A buffer holding `values`; returns its number.
    pub(crate) fn buffer<T: bytemuck::Pod>(&mut self, values: &[T]) -> usize {
        let mut bytes = bytemuck::cast_slice(values).to_vec();
        bytes.resize(bytes.len().max(16).next_multiple_of(16), 0);
        self.buffers.push(bytes);
        self.buffers.len() - 1
    }

    /// A buffer of `n` NaNs, so that a value the kernel forgets to write shows; returns its number.
    pub(crate) fn output(&mut self, n: usize) -> usize {
        self.buffer(&vec![f32::NAN; n])
    }

    /// What to run; it is given the buffers in the order of their numbers.
    pub(crate) fn record(&mut self, record: impl Fn(&mut Recording, &[Slice]) + 'static) {
        self.record = Some(Box::new(record));
    }

    /// Products computed this way rather than the device's.
    pub(crate) fn variant(mut self, variant: Variant) -> Self {
        self.variant = Some(variant);
        self
    }

    /// Lets every result lie `factor` times as far off.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn loosened(mut self, factor: f64) -> Self {
        self.expected.iter_mut().for_each(|(.., tolerance)| {
            tolerance.abs *= factor;
            tolerance.rel *= factor;
        });
        self
    }

    /// What the first values of a buffer must be afterwards.
    pub(crate) fn expect(&mut self, buffer: usize, values: Vec<f64>, tolerance: Tolerance) {
        self.expected.push((buffer, values, tolerance));
    }

    /// What must be true of a buffer's bytes afterwards, where they are no f32.
    pub(crate) fn check(&mut self, buffer: usize, check: impl Fn(&[u8]) -> Result<(), String> + 'static) {
        self.checks.push((buffer, Box::new(check)));
    }
}

/// [`check_on`] a device at WebGPU's default limits and no optional feature.
pub(crate) async fn check(cases: Vec<Case>) {
    check_on(gpu().await.as_ref(), cases).await;
}

/// Runs every case twice from the same inputs: within tolerance of the reference, and the same bits both times.
pub(crate) async fn check_on(gpu: &Gpu, cases: Vec<Case>) {
    assert!(!cases.is_empty(), "a kernel without cases");
    let mut failures = vec![];
    for case in &cases {
        if let Err(message) = run(gpu, case).await {
            failures.push(format!("{}: {message}", case.name));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases failed\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// [`check_on`] a device that has `variant`, for all products; where none has it, that is said.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) async fn check_optional(variant: Variant, cases: Vec<Case>) {
    match Gpu::request(DeviceOptions { variant: Some(variant), ..Default::default() }).await {
        Ok(gpu) => check_on(&gpu, cases.into_iter().map(|case| case.variant(variant)).collect()).await,
        // The one error that says this device has it not.
        Err(error @ crate::Error::BadSetting { .. }) => eprintln!("no {variant} here: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// A device at WebGPU's default limits and no optional feature.
pub(crate) async fn gpu() -> Rc<Gpu> {
    // In a browser all tests share a page, and a page can have only so many devices.
    thread_local! { static GPU: std::cell::RefCell<Option<Rc<Gpu>>> = const { std::cell::RefCell::new(None) }; }
    if let Some(gpu) = GPU.with_borrow(Clone::clone) {
        return gpu;
    }
    let gpu = Gpu::request(DeviceOptions { default_limits: true, ..Default::default() })
        .await
        .expect("tests need a (software) GPU");
    let gpu = Rc::new(gpu);
    GPU.with_borrow_mut(|shared| *shared = Some(gpu.clone()));
    gpu
}

async fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let text = |error: crate::Error| error.to_string();
    let buffers: Vec<Buffer> = case
        .buffers
        .iter()
        .enumerate()
        .map(|(at, bytes)| Buffer::storage(gpu, &format!("buffer{at}"), bytes.len() as u64).map_err(text))
        .collect::<Result<_, _>>()?;
    let step = Buffer::uniform(gpu, "step", size_of::<Step>() as u64).map_err(text)?;
    let variant = case.variant.unwrap_or(gpu.variant());
    let mut recording = Recording::new(&step, case.step.n_tokens as usize).with_variant(variant);
    let slices: Vec<Slice> = buffers.iter().map(|buffer| recording.external(buffer)).collect();
    case.record.as_ref().expect("a case records something")(&mut recording, &slices);
    let plan = Plan::new(gpu, &recording, |_, _| ()).await.map_err(text)?;

    let mut first: Vec<Vec<u8>> = vec![];
    for repeat in 0..2 {
        for (buffer, bytes) in buffers.iter().zip(&case.buffers) {
            buffer.write(gpu, 0, bytes);
        }
        plan.replay(gpu, &case.step);
        for (index, check) in &case.checks {
            let bytes = buffers[*index].read(gpu).await.map_err(text)?;
            check(&bytes).map_err(|message| format!("buffer {index}: {message}"))?;
        }
        for (at, (index, expected, tolerance)) in case.expected.iter().enumerate() {
            let bytes = buffers[*index].read(gpu).await.map_err(text)?;
            if repeat == 1 {
                if bytes != first[at] {
                    return Err(format!("buffer {index}: a second run gave other bits"));
                }
                continue;
            }
            compare(bytemuck::cast_slice(&bytes), expected, *tolerance).map_err(|m| format!("buffer {index}: {m}"))?;
            first.push(bytes);
        }
    }
    gpu.check().map_err(text)
}

fn compare(ours: &[f32], expected: &[f64], tolerance: Tolerance) -> Result<(), String> {
    let excess = |ours: f32, expected: f64| {
        let allowed = tolerance.abs + tolerance.rel * expected.abs();
        let off = (f64::from(ours) - expected).abs();
        if off.is_nan() { f64::INFINITY } else { off / allowed.max(f64::MIN_POSITIVE) }
    };
    let worst =
        (0..expected.len()).max_by(|&a, &b| excess(ours[a], expected[a]).total_cmp(&excess(ours[b], expected[b])));
    match worst {
        Some(at) if excess(ours[at], expected[at]) > 1.0 => Err(format!(
            "worst at {at} of {}: {} for {}, {:.1} times the tolerance ({tolerance:?})",
            expected.len(),
            ours[at],
            expected[at],
            excess(ours[at], expected[at]),
        )),
        _ => Ok(()),
    }
}

/// `n` values in [-1, 1), the same for the same seed everywhere, exact in f32.
pub(crate) fn random(n: usize, seed: u64) -> Vec<f32> {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// A `[rows, width]` matrix of [`random`] values laid out with padded rows.
pub(crate) fn random_matrix(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    pad(&random(rows * width, seed), width)
}

/// Lays rows of `width` values out at the padded stride, zeros between, rows up to a whole tile.
pub(crate) fn pad<T: Copy + Default>(values: &[T], width: usize) -> Vec<T> {
    let (rows, stride) = (values.len() / width, super::stride(width));
    let mut padded = vec![T::default(); rows.next_multiple_of(super::ROW_PAD) * stride];
    for (row, values) in values.chunks(width).enumerate() {
        padded[row * stride..][..width].copy_from_slice(values);
    }
    padded
}

/// f32 values as the f64 that references take.
pub(crate) fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Central differences of `f` at `x`: what a backward reference is held against.
pub(crate) fn finite_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let h = 1e-5;
    (0..x.len())
        .map(|at| {
            let mut moved = x.to_vec();
            moved[at] = x[at] + h;
            let up = f(&moved);
            moved[at] = x[at] - h;
            (up - f(&moved)) / (2.0 * h)
        })
        .collect()
}

/// Asserts two f64 gradients agree to the accuracy of [`finite_differences`].
pub(crate) fn assert_close(ours: &[f64], expected: &[f64]) {
    assert_eq!(ours.len(), expected.len());
    for (at, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "at {at}: {a} for {b}");
    }
}

/// A test of kernel cases, on the native device and in the browser.
macro_rules! kernel_test {
    ($name:ident, $cases:expr) => {
        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn $name() {
            pollster::block_on($crate::kernels::testing::check($cases));
        }
        #[cfg(target_arch = "wasm32")]
        #[wasm_bindgen_test::wasm_bindgen_test]
        async fn $name() {
            $crate::kernels::testing::check($cases).await;
        }
    };
}
pub(crate) use kernel_test;

/// The same in subgroups, which no browser has for us.
macro_rules! subgroup_test {
    ($name:ident, $cases:expr) => {
        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn $name() {
            let variant = $crate::gpu::Variant::DirectSubgroups;
            pollster::block_on($crate::kernels::testing::check_optional(variant, $cases));
        }
    };
}
pub(crate) use subgroup_test;
