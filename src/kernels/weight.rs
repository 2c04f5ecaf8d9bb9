//! Frozen weights as the GPU holds them: the file's own numbers, repacked so that eight neighbouring columns load from
//! aligned words, scales apart from quants. `shaders/shared/weight_<format>.wgsl` reads each format, with one of
//! `scales_<kind>.wgsl` where formats differ only in those, or have those in common.

use crate::gpu::Slice;
use crate::io::{DType, half_at, iq4_xs_scale, k_pair, k_scale, q3_k_scale};

/// How a weight lies in GPU memory. Block types that differ only in their zero point share a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    BF16,
    /// 4 bits, scale and minimum for 32.
    Q4,
    /// 5 bits, scale and minimum for 32.
    Q5,
    /// 8 bits, scale for 32.
    Q8,
    /// 2 bits, 4-bit scale and minimum for 16, and a factor of each for 256.
    Q2K,
    /// 3 bits, scale for 16.
    Q3K,
    /// As Q4, but 6-bit scales and minima, and a factor of each for 256.
    Q4K,
    /// As Q5, but 6-bit scales and minima, and a factor of each for 256.
    Q5K,
    /// 6 bits, scale for 16.
    Q6K,
    /// 4 bits that choose from a table, scale for 32.
    Iq4,
}

impl WeightFormat {
    /// What a tensor of a file becomes.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::Q4_0 | DType::Q4_1 => Self::Q4,
            DType::Q5_0 | DType::Q5_1 => Self::Q5,
            DType::Q8_0 => Self::Q8,
            DType::Q2_K => Self::Q2K,
            DType::Q3_K => Self::Q3K,
            DType::Q4_K => Self::Q4K,
            DType::Q5_K => Self::Q5K,
            DType::Q6_K => Self::Q6K,
            DType::IQ4_NL | DType::IQ4_XS => Self::Iq4,
        }
    }

    /// The shader code that reads it.
    pub(crate) fn shader(self) -> &'static str {
        macro_rules! joined {
            ($($name:literal),+) => { concat!($(include_str!(concat!("../../shaders/shared/", $name, ".wgsl"))),+) };
        }
        match self {
            Self::F32 => joined!("weight_f32"),
            Self::F16 => joined!("weight_f16"),
            Self::BF16 => joined!("weight_bf16"),
            Self::Q4 => joined!("weight_q4", "scales_f16"),
            Self::Q5 => joined!("weight_q5", "scales_f16"),
            Self::Q8 => joined!("weight_q8"),
            Self::Q2K => joined!("weight_q2_k"),
            Self::Q3K => joined!("weight_q3_k", "scales_signed"),
            Self::Q4K => joined!("weight_q4", "scales_k"),
            Self::Q5K => joined!("weight_q5", "scales_k"),
            Self::Q6K => joined!("weight_q6_k", "scales_signed"),
            Self::Iq4 => joined!("weight_iq4"),
        }
    }

    /// Bytes of quants (or plain values) and of scales in a row of `cols` columns.
    pub fn row_bytes(self, cols: usize) -> (u64, u64) {
        let (values, scales) = match self {
            Self::F32 => (super::stride(cols) * 4, 0),
            Self::F16 | Self::BF16 => (super::stride(cols) * 2, 0),
            Self::Q4 | Self::Iq4 => (cols / 32 * 16, cols / 32 * 4),
            Self::Q5 => (cols / 32 * 20, cols / 32 * 4),
            Self::Q8 => (cols / 32 * 32, cols / 32 * 2),
            Self::Q2K => (cols / 256 * 64, cols / 256 * 20),
            Self::Q3K => (cols / 256 * 96, cols / 256 * 20),
            Self::Q4K => (cols / 256 * 128, cols / 256 * 20),
            Self::Q5K => (cols / 256 * 160, cols / 256 * 20),
            Self::Q6K => (cols / 256 * 192, cols / 256 * 20),
        };
        (values as u64, scales as u64)
    }
}

/// A weight, or some of its rows, as kernels see it.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// How it lies in memory.
    pub format: WeightFormat,
    /// Rows, the outputs of a linear.
    pub rows: usize,
    /// Columns, the inputs.
    pub cols: usize,
    /// Row of the whole tensor that comes first here; a multiple of 8.
    pub first_row: usize,
    /// Quants or plain values.
    pub values: Slice,
    /// Scales, for formats that have them.
    pub scales: Option<Slice>,
}

impl Weight {
    /// An f32 weight `[rows, stride(cols)]`.
    pub fn f32(values: Slice, rows: usize, cols: usize) -> Self {
        Self { format: WeightFormat::F32, rows, cols, first_row: 0, values, scales: None }
    }

    /// Its bindings, in order.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = Slice> {
        [Some(self.values), self.scales].into_iter().flatten()
    }

    /// Groups of eight columns in a row, `params.k8` of the shaders.
    pub(crate) fn k8(&self) -> u32 {
        (super::stride(self.cols) / 8) as u32
    }
}

/// Turns rows of file blocks, `cols` columns each, into GPU bytes: (values, scales). `blocks` holds whole rows.
pub fn repack(dtype: DType, blocks: &[u8], cols: usize) -> (Vec<u8>, Vec<u8>) {
    let mut values = vec![];
    let mut scales = vec![];
    let plain = |bytes: usize| {
        let row_bytes = super::stride(cols) * bytes;
        let mut values = Vec::with_capacity(blocks.len() / (cols * bytes) * row_bytes);
        for row in blocks.chunks_exact(cols * bytes) {
            values.extend_from_slice(row);
            values.resize(values.len().next_multiple_of(row_bytes), 0);
        }
        values
    };
    for block in blocks.chunks_exact(dtype.block_bytes()) {
        match dtype {
            DType::F32 => return (plain(4), scales),
            DType::F16 | DType::BF16 => return (plain(2), scales),
            DType::Q4_0 => {
                scales.extend_from_slice(&scale_and_minimum(block, -8.0));
                values.extend(nibbles(&block[2..]));
            }
            DType::Q4_1 => {
                scales.extend_from_slice(&block[..4]);
                values.extend(nibbles(&block[4..]));
            }
            DType::Q5_0 => {
                scales.extend_from_slice(&scale_and_minimum(block, -16.0));
                values.extend(nibbles(&block[6..]));
                values.extend_from_slice(&block[2..6]);
            }
            DType::Q5_1 => {
                scales.extend_from_slice(&block[..4]);
                values.extend(nibbles(&block[8..]));
                values.extend_from_slice(&block[4..8]);
            }
            DType::Q8_0 => {
                scales.extend_from_slice(&block[..2]);
                values.extend_from_slice(&block[2..]);
            }
            DType::Q2_K => {
                scales.extend_from_slice(&[block[80], block[81], block[82], block[83] ^ 0x80]);
                scales.extend_from_slice(&block[..16]);
                values.extend(pairs(&block[16..80]));
            }
            DType::Q3_K => {
                values.extend(pairs(&block[32..96]));
                values.extend((0..8).flat_map(|at| lane_bits(&block[..32], at)));
                scales.extend((0..16).map(|at| q3_k_scale(&block[96..108], at) as u8));
                scales.extend_from_slice(&[block[108], block[109], 0, 0]);
            }
            DType::Q4_K => {
                repack_k_scales(block, &mut scales);
                values.extend(block[16..].chunks_exact(32).flat_map(nibbles));
            }
            DType::Q5_K => {
                repack_k_scales(block, &mut scales);
                repack_q5_k(block, &mut values);
            }
            DType::Q6_K => {
                repack_q6_k(block, &mut values);
                scales.extend_from_slice(&block[192..210]);
                scales.extend_from_slice(&[0, 0]);
            }
            DType::IQ4_NL => {
                scales.extend_from_slice(&half_at(block, 0).to_le_bytes());
                values.extend(nibbles(&block[2..]));
            }
            DType::IQ4_XS => {
                scales.extend((0..8).flat_map(|at| iq4_xs_scale(block, at).to_le_bytes()));
                values.extend(block[8..].chunks_exact(16).flat_map(nibbles));
            }
        }
    }
    // Q8_0 scales are two to a word.
    scales.resize(scales.len().next_multiple_of(4), 0);
    (values, scales)
}

/// The f16 scale at the head of `block`, and `zero` times it. Exact: both zeros are powers of two.
fn scale_and_minimum(block: &[u8], zero: f32) -> [u8; 4] {
    let d = half::f16::from_le_bytes([block[0], block[1]]);
    let m = half::f16::from_f32(zero * d.to_f32());
    let (d, m) = (d.to_le_bytes(), m.to_le_bytes());
    [d[0], d[1], m[0], m[1]]
}

/// ggml keeps the first half of the elements in the low halves of the bytes and the second in the high ones; here they
/// lie in order, the first of two in the low half.
fn nibbles(quants: &[u8]) -> impl Iterator<Item = u8> {
    let pairs = quants.as_chunks().0.iter();
    pairs.clone().map(|[a, b]| a & 15 | b << 4).chain(pairs.map(|[a, b]| a >> 4 | b & 0xf0))
}

/// d and -dmin, then scale and minimum of each 32 columns, a byte each.
fn repack_k_scales(block: &[u8], scales: &mut Vec<u8>) {
    scales.extend_from_slice(&[block[0], block[1], block[2], block[3] ^ 0x80]);
    scales.extend((0..8).flat_map(|at| k_scale(&block[4..16], at)));
}

/// As Q5_0 and Q5_1: sixteen bytes of nibbles, then four of fifth bits, eight times.
fn repack_q5_k(block: &[u8], values: &mut Vec<u8>) {
    let mut quants = block[48..].chunks_exact(32).flat_map(nibbles);
    for at in 0..8 {
        values.extend(quants.by_ref().take(16));
        values.extend(lane_bits(&block[16..48], at));
    }
}

/// 128 bytes of low nibbles and 64 of high pairs, both in the order of the elements.
fn repack_q6_k(block: &[u8], values: &mut Vec<u8>) {
    let nibble = |at: usize| {
        let (half, run, lane) = (at / 128, at / 32 % 4, at % 32);
        block[half * 64 + run % 2 * 32 + lane] >> (run / 2 * 4) & 15
    };
    values.extend((0..128).map(|byte| nibble(2 * byte) | nibble(2 * byte + 1) << 4));
    values.extend(pairs(&block[128..192]));
}

/// Two bits of each of 256 elements in their order; in the file one byte has those of elements that lie 32 apart.
fn pairs(quants: &[u8]) -> impl Iterator<Item = u8> {
    (0..64).map(|byte| (0..4).fold(0, |bits, at| bits | k_pair(quants, 4 * byte + at) << (2 * at)))
}

/// Bit `at` of each of 32 bytes, those of the elements 32·at .. 32·at + 32, as four bytes.
fn lane_bits(bits: &[u8], at: usize) -> impl Iterator<Item = u8> {
    bits.chunks_exact(8).map(move |lanes| (0..8).fold(0, |bits, i| bits | (lanes[i] >> at & 1) << i))
}

/// Random blocks of a type, every bit pattern of quants, scales of moderate size.
#[cfg(test)]
pub(crate) fn random_blocks(dtype: DType, n_elements: usize, seed: u64) -> Vec<u8> {
    use rand::{Rng, RngCore, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0; n_elements / dtype.block_len() * dtype.block_bytes()];
    rng.fill_bytes(&mut bytes);
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        let scale = half::f16::from_f32(rng.random_range(-0.01f32..0.01)).to_le_bytes();
        let value = rng.random_range(-1.0f32..1.0);
        match dtype {
            DType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            DType::F16 => block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL => block[..2].copy_from_slice(&scale),
            DType::Q4_1 | DType::Q5_1 => {
                block[..2].copy_from_slice(&scale);
                block[2..4].copy_from_slice(&half::f16::from_f32(value / 10.0).to_le_bytes());
            }
            DType::Q2_K => {
                block[80..82].copy_from_slice(&scale);
                block[82..].copy_from_slice(&half::f16::from_f32(value / 100.0).to_le_bytes());
            }
            DType::Q3_K => block[108..].copy_from_slice(&scale),
            DType::Q4_K | DType::Q5_K => {
                block[..2].copy_from_slice(&half::f16::from_f32(value / 1000.0).to_le_bytes());
                block[2..4].copy_from_slice(&scale);
            }
            DType::Q6_K => block[208..].copy_from_slice(&half::f16::from_f32(value / 1000.0).to_le_bytes()),
            DType::IQ4_XS => block[..2].copy_from_slice(&half::f16::from_f32(value / 4000.0).to_le_bytes()),
        }
    }
    bytes
}
