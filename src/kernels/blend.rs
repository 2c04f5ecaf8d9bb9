//! Trained vectors at the step's strength: `offset + (1 - strength) original + strength trained`.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Extent, Recording, Rows, Shader, Slice};

/// Threads of a workgroup.
const WORKGROUP: u32 = 64;

/// `struct Params` of `shaders/blend.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct BlendParams {
    n4: u32,
    offset: f32,
    _pad: [u32; 2],
}

/// Writes `offset + (1 - strength) original + strength trained` to `y`: f32, as many in all of them, a multiple of four.
pub fn blend(rec: &mut Recording, label: &str, [original, trained]: [Slice; 2], offset: f32, y: Slice) {
    let size_bytes = y.size_bytes();
    assert!([original, trained].iter().all(|x| x.size_bytes() == size_bytes), "{label}: sizes");
    assert!(size_bytes.is_multiple_of(16), "{label}: whole vec4s");
    let shader = Shader::new("blend", &[("WORKGROUP", WORKGROUP)], &[include_str!("../../shaders/blend.wgsl")]);
    let params = BlendParams { n4: (size_bytes / 16) as u32, offset, _pad: [0; 2] };
    let grid = [Extent::cover(params.n4, WORKGROUP), Extent::Fixed(1), Extent::Fixed(1)];
    rec.dispatch(label, &shader, &[original, trained, y], &params, grid, (Rows::TOKENS, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Step;
    use crate::kernels::testing::*;

    fn case(n: usize, offset: f32, strength: f32) -> Case {
        let step = Step { n_tokens: 1, strength, ..Default::default() };
        let mut case = Case::new(format!("{n}, offset {offset}, strength {strength}"), step);
        let [original, trained] = [1, 2].map(|seed| random(n, seed));
        let at = |i: usize| match strength {
            // To the bit: as the host adds the offset to what is in a file.
            0.0 => f64::from(offset + original[i]),
            1.0 => f64::from(offset + trained[i]),
            _ => {
                let [offset, strength] = [offset, strength].map(f64::from);
                offset + (1.0 - strength) * f64::from(original[i]) + strength * f64::from(trained[i])
            }
        };
        let expected = (0..n).map(at).collect();
        let [original_at, trained_at] = [&original, &trained].map(|values| case.buffer(values));
        let y_at = case.output(n);
        case.record(move |rec, b| blend(rec, "blend", [b[original_at], b[trained_at]], offset, b[y_at]));
        // Three roundings of values below 4.
        let exact = strength == 0.0 || strength == 1.0;
        case.expect(y_at, expected, Tolerance { abs: if exact { 0.0 } else { 1e-6 }, rel: 0.0 });
        case
    }

    kernel_test!(
        blend_matches,
        [(4, 0.0, 0.0), (260, 1.0, 0.0), (4, 0.0, 1.0), (260, 1.0, 1.0), (256, 0.0, 0.3), (1028, 1.0, 2.0)]
            .map(|(n, offset, strength)| case(n, offset, strength))
            .into()
    );
}
