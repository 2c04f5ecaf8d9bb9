//! Tests of `shaders/shared/math.wgsl`: the functions that kernels use in place of WGSL's own.

use super::testing::*;
use crate::gpu::{Extent, Rows, Shader, Step};

/// One thread a value: y[i] = f(x[i]), f chosen by FUNCTION.
const KERNEL: &str = "
struct Params { n: u32, _pad0: u32, _pad1: u32, _pad2: u32 }
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) global_id: vec3<u32>) {
    let i = global_id.x;
    if (i >= params.n) {
        return;
    }
    switch FUNCTION {
        case 0u: { y[i] = exp_f32(x[i]); }
        case 1u: { y[i] = log_f32(x[i]); }
        default: { y[i] = sigmoid_f32(x[i]); }
    }
}
";

fn case(name: &str, function: u32, x: Vec<f32>, f: impl Fn(f64) -> f64, ulps: f64) -> Case {
    let mut case = Case::new(name, Step::default());
    let n = x.len() as u32;
    let expected = x.iter().map(|&x| f(f64::from(x))).collect();
    let (x_at, y_at) = (case.buffer(&x), case.output(x.len()));
    case.record(move |rec, b| {
        let shader =
            Shader::new("math", &[("FUNCTION", function)], &[include_str!("../../shaders/shared/math.wgsl"), KERNEL]);
        let grid = [Extent::cover(n, 64), Extent::Fixed(1), Extent::Fixed(1)];
        rec.dispatch("math", &shader, &[b[x_at], b[y_at]], &[n, 0, 0, 0], grid, (Rows::TOKENS, 0));
    });
    case.expect(y_at, expected, Tolerance { abs: 0.0, rel: ulps * f64::from(f32::EPSILON) });
    case
}

/// `n` values evenly from `low` to `high`.
fn range(n: usize, low: f64, high: f64) -> Vec<f32> {
    (0..n).map(|i| (low + (high - low) * i as f64 / (n - 1) as f64) as f32).collect()
}

fn cases() -> Vec<Case> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let wide = range(100_000, -69.0, 69.0).into_iter().map(|x| f64::from(x).exp() as f32).collect();
    let one = 1.0f32.to_bits();
    let next_to_one = (one - 2000..one + 2000).map(f32::from_bits).collect();
    vec![
        case("exp", 0, range(100_000, -87.0, 88.0), f64::exp, 2.0),
        case("exp next to 0", 0, range(20_000, -1.0, 1.0), f64::exp, 2.0),
        case("log from 1e-30 to 1e30", 1, wide, f64::ln, 2.0),
        case("log around 1", 1, range(100_000, 0.5, 2.0), f64::ln, 2.0),
        case("log next to 1", 1, next_to_one, f64::ln, 2.0),
        // The exponential's error, a sum, and a division that WGSL allows 2.5 ulps.
        case("sigmoid", 2, range(100_000, -86.0, 88.0), sigmoid, 4.0),
    ]
}

kernel_test!(math_matches, cases());
