//! AdamW ([`super::adamw`]) whose moments take a byte each: block-wise dynamic quantisation (Dettmers et al., "8-bit
//! Optimizers via Block-wise Quantization", arXiv 2110.02861), as bitsandbytes' `AdamW8bit` has it. Blocks of 256 numbers
//! lie one after the other in the arena; bitsandbytes begins them anew with each tensor, and keeps tensors of fewer than
//! 4,096 numbers in f32.

use bytemuck::{Pod, Zeroable};

use super::adamw::{Rates, grid};
use crate::gpu::{Recording, Rows, Shader, Slice};

/// Numbers that share a scale.
pub const BLOCK: usize = 256;
/// Threads of a workgroup, each of which has four numbers of its block.
const WORKGROUP: u32 = BLOCK as u32 / 4;

/// `struct Params` of `shaders/adamw_8bit.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct AdamW8bitParams {
    n4: u32,
    row_groups: u32,
    _pad: [u32; 2],
    map: [[f32; 256]; 2],
    middles: [[f32; 256]; 2],
}

/// Moments of `n` numbers; all zero bytes where there has been no step.
#[derive(Debug, Clone, Copy)]
pub struct Moments8bit {
    /// Codes in [`dynamic_map`]`(true)`, a byte each, of a whole number of vec4s.
    pub exp_avg: Slice,
    /// Codes in [`dynamic_map`]`(false)`, likewise.
    pub exp_avg_sq: Slice,
    /// f32 `[blocks, 2]`: what values of a block's first and second moments are multiplied with.
    pub absmax: Slice,
}

/// Bytes of each of [`Moments8bit`] for `n` numbers.
pub fn moments_bytes(n: usize) -> [u64; 3] {
    let codes = n.next_multiple_of(4) as u64;
    [codes, codes, n.div_ceil(BLOCK) as u64 * 8]
}

/// As [`super::adamw::adamw`], with other moments.
pub fn adamw_8bit(
    rec: &mut Recording,
    label: &str,
    params: Slice,
    grads: Slice,
    moments: Moments8bit,
    n: usize,
    metrics: Slice,
    rates: Rates,
) {
    let size_bytes = n.next_multiple_of(4) as u64 * 4;
    assert!([params, grads].iter().all(|slice| slice.size_bytes() >= size_bytes), "{label}: sizes for {n} parameters");
    let Moments8bit { exp_avg, exp_avg_sq, absmax } = moments;
    let sizes = [exp_avg, exp_avg_sq, absmax].map(Slice::size_bytes);
    assert!(sizes.iter().zip(moments_bytes(n)).all(|(size, needed)| *size >= needed), "{label}: moments of {n}");
    let parts = [
        include_str!("../../shaders/shared/adamw.wgsl"),
        rates.shader(),
        include_str!("../../shaders/adamw_8bit.wgsl"),
    ];
    let shader = Shader::new("adamw_8bit", &[("WORKGROUP", WORKGROUP)], &parts);
    let n4 = n.div_ceil(4) as u32;
    let (row_groups, grid) = grid(n4.div_ceil(WORKGROUP));
    let map = [true, false].map(dynamic_map);
    let uniform = AdamW8bitParams { n4, row_groups, _pad: [0; 2], map, middles: map.map(middles) };
    let bindings = [grads, metrics, params, exp_avg, exp_avg_sq, absmax];
    let bindings: Vec<Slice> = bindings.into_iter().chain(rates.binding()).collect();
    rec.dispatch(label, &shader, &bindings, &uniform, grid, (Rows::TOKENS, 0));
}

/// The values of the 256 codes, ascending: `create_dynamic_map` of bitsandbytes. 0 and 1, and in each of seven decades
/// below 1 as many evenly spaced values as there are bits left for, twice as many in each as in the one below; with a
/// sign, half as many on either side.
pub fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for exponent in 0..7 {
        let n = if signed { 1 << exponent } else { 2 << exponent };
        for at in 0..n {
            let value = 10f64.powi(exponent - 6) * (0.1 + 0.9 * (f64::from(at) + 0.5) / f64::from(n));
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    let mut map = [0.0; 256];
    map.iter_mut().zip(values).for_each(|(to, value)| *to = value as f32);
    map
}

/// Half way from each value to the next, and anything after the last.
fn middles(map: [f32; 256]) -> [f32; 256] {
    let mut middles = map;
    let pairs = map.windows(2).map(|pair| 0.5 * (pair[0] + pair[1]));
    middles.iter_mut().zip(pairs).for_each(|(to, middle)| *to = middle);
    middles
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::gpu::Step;
    use crate::kernels::adamw::adamw_reference;
    use crate::kernels::adamw::tests::step;
    use crate::kernels::testing::*;

    /// Moments as they are kept.
    #[derive(Clone)]
    struct Kept {
        exp_avg: Vec<u8>,
        exp_avg_sq: Vec<u8>,
        absmax: Vec<f32>,
    }

    impl Kept {
        /// The nearest that these moments can be kept as.
        fn new(exp_avg: &[f64], exp_avg_sq: &[f64]) -> Self {
            let [(m_max, m), (v_max, v)] =
                [(exp_avg, true), (exp_avg_sq, false)].map(|(values, signed)| quantised(values, signed));
            let absmax = m_max.iter().zip(&v_max).flat_map(|(m, v)| [*m as f32, *v as f32]).collect();
            let codes = |nearest: Vec<Nearest>| nearest.iter().map(|nearest| nearest.code).collect();
            Self { exp_avg: codes(m), exp_avg_sq: codes(v), absmax }
        }

        /// The moments, exactly.
        fn values(&self) -> [Vec<f64>; 2] {
            let value = |codes: &[u8], signed: bool| {
                let map = dynamic_map(signed);
                let absmax = |at: usize| self.absmax[at / BLOCK * 2 + usize::from(!signed)];
                codes.iter().enumerate().map(|(at, &code)| f64::from(map[code as usize] * absmax(at))).collect()
            };
            [value(&self.exp_avg, true), value(&self.exp_avg_sq, false)]
        }
    }

    /// A value over its block's largest magnitude, and the code that is nearest.
    struct Nearest {
        scaled: f64,
        code: u8,
    }

    /// The largest magnitude of each block, and the nearest code of each value, never that of 0 for a positive second
    /// moment.
    fn quantised(values: &[f64], signed: bool) -> (Vec<f64>, Vec<Nearest>) {
        let map = f64s(&dynamic_map(signed));
        let absmax: Vec<f64> =
            values.chunks(BLOCK).map(|block| block.iter().fold(0.0, |max, v: &f64| v.abs().max(max))).collect();
        let nearest = values.iter().enumerate().map(|(at, value)| {
            let largest = absmax[at / BLOCK];
            let scaled = if largest > 0.0 { value / largest } else { 0.0 };
            let least = usize::from(!signed && scaled > 0.0);
            let code = (least..256).min_by(|&a, &b| (map[a] - scaled).abs().total_cmp(&(map[b] - scaled).abs()));
            Nearest { scaled, code: code.expect("there are codes") as u8 }
        });
        let nearest = nearest.collect();
        (absmax, nearest)
    }

    /// One step from `kept`, against the exact step from the moments that these codes stand for. Codes may be others only
    /// where the value lies between two to within `slack`, relative to the largest of its block.
    fn case(name: &str, step: Step, params: &[f32], grads: &[f32], kept: &Kept, clip: f32, finite: bool) -> Case {
        let n = params.len();
        let mut case = Case::new(format!("{name}, {n}, finite {finite}"), step);
        let [m, v] = kept.values();
        let [p, g] = [params, grads].map(f64s);
        let [p_after, m_after, v_after] = adamw_reference(&step, clip.into(), &p, &g, &m, &v);
        let at = [case.buffer(params), case.buffer(grads)];
        // Pads are zeros too, of which 127 is the code.
        let mut padded = kept.exp_avg.clone();
        padded.resize(n.next_multiple_of(4), 127);
        let kept_at = [case.buffer(&padded), case.buffer(&kept.exp_avg_sq), case.buffer(&kept.absmax)];
        let metrics_at = case.buffer(&[1.0, 1.0, clip, f32::from(u8::from(finite))]);
        case.record(move |rec, b| {
            let [exp_avg, exp_avg_sq, absmax] = kept_at.map(|at| b[at]);
            let moments = Moments8bit { exp_avg, exp_avg_sq, absmax };
            adamw_8bit(rec, "adamw", b[at[0]], b[at[1]], moments, n, b[metrics_at], Rates::One);
        });
        let exact = Tolerance { abs: 0.0, rel: 0.0 };
        if !finite {
            case.expect(at[0], p, exact);
            case.expect(kept_at[2], f64s(&kept.absmax), exact);
            for (at, before) in kept_at.into_iter().zip([kept.exp_avg.clone(), kept.exp_avg_sq.clone()]) {
                case.check(at, move |bytes| (bytes[..n] == before).then_some(()).ok_or("codes moved".into()));
            }
            return case;
        }
        let eps = f64::from(f32::EPSILON);
        // As for AdamW in f32; the old moments are a product more.
        let p_tolerance = Tolerance { abs: 16.0 * eps * f64::from(step.learning_rate), rel: 2.0 * eps };
        case.expect(at[0], p_after, p_tolerance);
        let sides = [(&m_after, true, kept_at[0]), (&v_after, false, kept_at[1])];
        let mut absmax = vec![];
        for (values, signed, codes_at) in sides {
            let (largest, nearest) = quantised(values, signed);
            absmax.push(largest);
            let map = f64s(&dynamic_map(signed));
            // First moments are differences of terms up to about the block's largest.
            let slack = move |scaled: f64| if signed { 8.0 * eps } else { 8.0 * eps * scaled };
            case.check(codes_at, move |codes| {
                let off = |at: usize| (map[codes[at] as usize] - nearest[at].scaled).abs();
                let least = |at: usize| (map[nearest[at].code as usize] - nearest[at].scaled).abs();
                match (0..n).find(|&at| off(at) > least(at) + slack(nearest[at].scaled)) {
                    Some(at) => Err(format!(
                        "code {} at {at} for {}, {} of the largest",
                        codes[at], nearest[at].code, nearest[at].scaled
                    )),
                    None => Ok(()),
                }
            });
        }
        let absmax = absmax[0].iter().zip(&absmax[1]).flat_map(|(m, v)| [*m, *v]).collect();
        case.expect(kept_at[2], absmax, Tolerance { abs: f64::from(f32::MIN_POSITIVE), rel: 8.0 * eps });
        case
    }

    /// Gradients of all scales, moments that go with them; zero before the first step.
    fn random_case(n: usize, t: i32, finite: bool) -> Case {
        let grads: Vec<f32> = random(n, 2).iter().enumerate().map(|(i, g)| g * 10f32.powi(i as i32 % 6 - 4)).collect();
        let before = f64::from(u8::from(t > 1));
        let exp_avg: Vec<f64> = random(n, 3).iter().zip(&grads).map(|(m, g)| before * f64::from(m * g)).collect();
        let exp_avg_sq: Vec<f64> = random(n, 4)
            .iter()
            .zip(exp_avg.iter().zip(&grads))
            .map(|(v, (m, g))| before * (m * m + f64::from(v * g * v * g)))
            .collect();
        let kept = Kept::new(&exp_avg, &exp_avg_sq);
        case(&format!("step {t}"), step(t), &random(n, 1), &grads, &kept, 0.3, finite)
    }

    fn bitsandbytes() -> (Vec<Case>, [Vec<f32>; 2]) {
        let bytes = include_bytes!("../../tests/fixtures/train_options/adamw_8bit.safetensors");
        let file = SafeTensors::deserialize(bytes).unwrap();
        let data = |name: &str| file.tensor(name).unwrap().data().to_vec();
        let floats = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(&data(name)) };
        let row = |name: &str, at: usize, n: usize| floats(name)[at * n..(at + 1) * n].to_vec();
        let shape = file.tensor("grads").unwrap().shape().to_vec();
        let (steps, n) = (shape[0], shape[1]);
        let blocks = n.div_ceil(BLOCK);
        let kept = |at: usize| {
            let codes = |name: &str| data(name)[at * n..(at + 1) * n].to_vec();
            let pairs = row("absmax", at, blocks).into_iter().zip(row("absmax_sq", at, blocks));
            let absmax = pairs.flat_map(|(m, v)| [m, v]).collect();
            Kept { exp_avg: codes("exp_avg"), exp_avg_sq: codes("exp_avg_sq"), absmax }
        };
        let cases = (0..steps).map(|at| {
            let step = step(at as i32 + 1);
            let [params, grads] = ["params", "grads"].map(|name| row(name, at, n));
            let mut case = case(&format!("bitsandbytes' step {at}"), step, &params, &grads, &kept(at), 1.0, true);
            // Its own result. A code may be another where a value lies between two.
            let expected = kept(at + 1);
            case.check(2, move |codes| {
                let others = codes.iter().zip(&expected.exp_avg).filter(|(a, b)| a != b).count();
                (others <= 2).then_some(()).ok_or(format!("{others} other first moments"))
            });
            case.check(3, move |codes| {
                let others = codes.iter().zip(&expected.exp_avg_sq).filter(|(a, b)| a != b).count();
                (others <= 2).then_some(()).ok_or(format!("{others} other second moments"))
            });
            // Its betas are f64: 1 - 0.999 is another by 1.3e-5 of it in f32.
            let eps = f64::from(f32::EPSILON);
            let tolerance = Tolerance { abs: 2e-5 * f64::from(step.learning_rate), rel: 2.0 * eps };
            case.expect(0, f64s(&row("params", at + 1, n)), tolerance);
            case.expect(4, f64s(&expected.absmax), Tolerance { abs: 0.0, rel: 2e-5 });
            case
        });
        (cases.collect(), ["signed_map", "unsigned_map"].map(floats))
    }

    kernel_test!(adamw_8bit_matches, {
        let mut cases: Vec<Case> = [
            (1, 1, true),
            (3, 2, true),
            (255, 7, true),
            (256, 1, true),
            (257, 30, true),
            (5000, 1000, true),
            (70_001, 10, true),
            (300, 3, false),
        ]
        .map(|(n, t, finite)| random_case(n, t, finite))
        .into();
        // Zeros stay zeros, and a block of nothing else too.
        let grads: Vec<f32> = (0..600).map(|i| if i >= 256 && i % 3 == 0 { 0.5 } else { 0.0 }).collect();
        let kept = Kept::new(&[0.0; 600], &[0.0; 600]);
        cases.push(case("zeros", step(1), &[0.0; 600], &grads, &kept, 1.0, true));
        // A second moment far below the block's largest keeps the least of all values.
        let grads: Vec<f32> = (0..256).map(|i| if i == 9 { 1.0 } else { 1e-5 }).collect();
        cases.push(case("one large", step(1), &[0.0; 256], &grads, &Kept::new(&[0.0; 256], &[0.0; 256]), 1.0, true));
        cases.extend(bitsandbytes().0);
        cases
    });

    #[test]
    fn the_maps_are_bitsandbytes_own() {
        for (ours, theirs) in [true, false].map(dynamic_map).iter().zip(bitsandbytes().1) {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2.0 * f32::EPSILON * b.abs();
            assert!(ours.iter().zip(&theirs).all(close) && theirs.len() == 256, "{ours:?} for {theirs:?}");
        }
    }
}
