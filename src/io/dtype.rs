//! Number formats of weights, and what their bytes mean.
//!
//! Block formats are ggml's (`ggml-common.h`, `ggml-quants.c`): a row is cut into blocks of `block_len` elements
//! and each block carries its own scale. All numbers are little-endian.

use std::fmt;

use half::{bf16, f16};

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the names are ggml's, so that they can be searched for")]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// 32 × 4 bits, `d (q - 8)`.
    Q4_0,
    /// 32 × 4 bits, `d q + m`.
    Q4_1,
    /// 32 × 5 bits, `d (q - 16)`.
    Q5_0,
    /// 32 × 5 bits, `d q + m`.
    Q5_1,
    /// 32 × 8 bits, `d q`.
    Q8_0,
    /// 256 × 2 bits in 16 groups with a scale and a minimum each, `d s q - dmin m`.
    Q2_K,
    /// 256 × 3 bits in 16 groups with a scale each, `d (s - 32) (q - 4)`.
    Q3_K,
    /// 256 × 4 bits in 8 groups with a scale and a minimum each, `d s q - dmin m`.
    Q4_K,
    /// 256 × 5 bits in 8 groups with a scale and a minimum each, `d s q - dmin m`.
    Q5_K,
    /// 256 × 6 bits in 16 groups with a scale each, `d s (q - 32)`.
    Q6_K,
    /// 32 × 4 bits that choose from a table, `d table[q]`.
    IQ4_NL,
    /// 256 × 4 bits that choose from the same table, in 8 groups with a scale each, `d (s - 32) table[q]`.
    IQ4_XS,
}

impl DType {
    /// Every format there is.
    pub const ALL: [DType; 15] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::IQ4_NL,
        DType::IQ4_XS,
    ];

    /// Elements in a block: 1 for plain numbers.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::IQ4_NL => 32,
            DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::IQ4_XS => 256,
        }
    }

    /// Bytes in a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 | DType::IQ4_NL => 2 + 16,
            DType::Q4_1 => 4 + 16,
            DType::Q5_0 => 2 + 4 + 16,
            DType::Q5_1 => 4 + 4 + 16,
            DType::Q8_0 => 2 + 32,
            DType::Q2_K => 16 + 64 + 4,
            DType::Q3_K => 32 + 64 + 12 + 2,
            DType::Q4_K => 4 + 12 + 128,
            DType::Q5_K => 4 + 12 + 32 + 128,
            DType::Q6_K => 128 + 64 + 16 + 2,
            DType::IQ4_XS => 2 + 2 + 4 + 128,
        }
    }

    /// Bytes of `len` elements, where those are whole blocks and their size fits.
    pub fn size_bytes(self, len: u64) -> Option<u64> {
        let block_len = self.block_len() as u64;
        len.is_multiple_of(block_len).then(|| (len / block_len).checked_mul(self.block_bytes() as u64)).flatten()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where the first of plain numbers is NaN or infinite, by its bits: all of its exponent is ones. Blocks are not looked into.
pub(crate) fn first_not_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    match dtype {
        DType::F32 => bytes.chunks_exact(4).position(|b| b[3] & 0x7f == 0x7f && b[2] & 0x80 != 0),
        DType::BF16 => bytes.chunks_exact(2).position(|b| b[1] & 0x7f == 0x7f && b[0] & 0x80 != 0),
        DType::F16 => bytes.chunks_exact(2).position(|b| b[1] & 0x7c == 0x7c),
        _ => None,
    }
}

/// The f32 values of whole blocks, as the format's own definition says: the reference for loaders and kernels.
///
/// Bytes after the last whole block are ignored.
pub fn dequantize(dtype: DType, blocks: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(blocks.len() / dtype.block_bytes() * dtype.block_len());
    for block in blocks.chunks_exact(dtype.block_bytes()) {
        match dtype {
            DType::F32 => values.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
            DType::F16 => values.push(half_at(block, 0)),
            DType::BF16 => values.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
            DType::Q4_0 => {
                let (d, quants) = (half_at(block, 0), &block[2..]);
                values.extend(nibbles(quants).map(|q| d * (f32::from(q) - 8.0)));
            }
            DType::Q4_1 => {
                let (d, m, quants) = (half_at(block, 0), half_at(block, 2), &block[4..]);
                values.extend(nibbles(quants).map(|q| d * f32::from(q) + m));
            }
            DType::Q5_0 => {
                let (d, high, quants) = (half_at(block, 0), &block[2..6], &block[6..]);
                values.extend(five_bits(high, quants).map(|q| d * (f32::from(q) - 16.0)));
            }
            DType::Q5_1 => {
                let (d, m, high, quants) = (half_at(block, 0), half_at(block, 2), &block[4..8], &block[8..]);
                values.extend(five_bits(high, quants).map(|q| d * f32::from(q) + m));
            }
            DType::Q8_0 => {
                let d = half_at(block, 0);
                values.extend(block[2..].iter().map(|&q| d * f32::from(q as i8)));
            }
            DType::Q2_K => dequantize_q2_k(block, &mut values),
            DType::Q3_K => dequantize_q3_k(block, &mut values),
            DType::Q4_K => dequantize_k(block, block[16..].chunks_exact(32).flat_map(nibbles), &mut values),
            DType::Q5_K => {
                let (high, quants) = (&block[16..48], block[48..].chunks_exact(32).flat_map(nibbles));
                let quants = quants.enumerate().map(|(i, q)| q | (high[i % 32] >> (i / 32) & 1) << 4);
                dequantize_k(block, quants, &mut values);
            }
            DType::Q6_K => dequantize_q6_k(block, &mut values),
            DType::IQ4_NL => {
                let d = half_at(block, 0);
                values.extend(nibbles(&block[2..]).map(|q| d * from_table(q)));
            }
            DType::IQ4_XS => {
                for (at, quants) in block[8..].chunks_exact(16).enumerate() {
                    let scale = iq4_xs_scale(block, at);
                    values.extend(nibbles(quants).map(|q| scale * from_table(q)));
                }
            }
        }
    }
    values
}

/// The bytes of `values` in F32, F16 or BF16, rounded to nearest and ties to even; what is too large becomes infinite.
pub fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        blocks => unreachable!("{blocks} has a quantiser of its own"),
    }
}

pub(crate) fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// ggml puts elements 0..n/2 in the low halves of the bytes and n/2..n in the high ones.
fn nibbles(quants: &[u8]) -> impl Iterator<Item = u8> {
    quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4))
}

/// As [`nibbles`], with the fifth bits of all 32 elements in `high`.
fn five_bits(high: &[u8], quants: &[u8]) -> impl Iterator<Item = u8> {
    nibbles(quants).enumerate().map(move |(i, q)| q | (high[i / 8] >> (i % 8) & 1) << 4)
}

/// d, dmin, and 12 bytes of scales and minima, for 256 `quants`.
fn dequantize_k(block: &[u8], quants: impl Iterator<Item = u8>, values: &mut Vec<f32>) {
    let (d, dmin, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for (i, q) in quants.enumerate() {
        let [scale, minimum] = k_scale(packed, i / 32);
        values.push(d * f32::from(scale) * f32::from(q) - dmin * f32::from(minimum));
    }
}

/// Scale and minimum, 6 bits each, of the group `at` of a Q4_K or Q5_K block. Those of groups 0 to 3 are the low bits
/// of bytes 0 to 7; groups 4 to 7 have their low bits in bytes 8 to 11 and their upper two in what those eight leave.
pub(crate) fn k_scale(packed: &[u8], at: usize) -> [u8; 2] {
    match at {
        0..4 => [packed[at] & 63, packed[at + 4] & 63],
        _ => [packed[at + 4] & 15 | packed[at - 4] >> 6 << 4, packed[at + 4] >> 4 | packed[at] >> 6 << 4],
    }
}

/// 16 bytes of scales and minima, four bits each; 64 of quants; d; dmin.
fn dequantize_q2_k(block: &[u8], values: &mut Vec<f32>) {
    let (scales, quants, d, dmin) = (&block[..16], &block[16..80], half_at(block, 80), half_at(block, 82));
    values.extend((0..256).map(|i| {
        let (scale, minimum) = (scales[i / 16] & 15, scales[i / 16] >> 4);
        d * f32::from(scale) * f32::from(k_pair(quants, i)) - dmin * f32::from(minimum)
    }));
}

/// 32 bytes of third bits, 64 of the two below, 12 of scales, d.
fn dequantize_q3_k(block: &[u8], values: &mut Vec<f32>) {
    let (high, quants, scales, d) = (&block[..32], &block[32..96], &block[96..108], half_at(block, 108));
    values.extend((0..256).map(|i| {
        let q = k_pair(quants, i) | (high[i % 32] >> (i / 32) & 1) << 2;
        d * f32::from(q3_k_scale(scales, i / 16)) * (f32::from(q) - 4.0)
    }));
}

/// Two bits of element `at` of 256: 64 bytes, each with those of four elements that lie 32 apart.
pub(crate) fn k_pair(pairs: &[u8], at: usize) -> u8 {
    pairs[at / 128 * 32 + at % 32] >> (at / 32 % 4 * 2) & 3
}

/// Scale of the group `at` of a Q3_K block, stored 32 too large: four bits in one of bytes 0 to 7, two in one of bytes
/// 8 to 11.
pub(crate) fn q3_k_scale(packed: &[u8], at: usize) -> i8 {
    let low = packed[at % 8] >> (at / 8 * 4) & 15;
    let high = packed[8 + at % 4] >> (at / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// `d (s - 32)` of the group `at` of an IQ4_XS block, exact: bytes 2 and 3 have the upper two bits of all s, bytes 4 to
/// 7 the lower four.
pub(crate) fn iq4_xs_scale(block: &[u8], at: usize) -> f32 {
    let low = block[4 + at / 2] >> (at % 2 * 4) & 15;
    let high = block[2 + at / 4] >> (at % 4 * 2) & 3;
    half_at(block, 0) * (f32::from(low | high << 4) - 32.0)
}

/// ggml's `kvalues_iq4nl`; `shaders/shared/weight_iq4.wgsl` has them too.
fn from_table(q: u8) -> f32 {
    const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    f32::from(TABLE[usize::from(q)])
}

/// ql 128 bytes (low 4 bits), qh 64 (high 2 bits), 16 scales of i8, d: two halves of 128 elements, each in four
/// runs of 32 that share bytes.
fn dequantize_q6_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for i in 0..256 {
        let (half, run, lane) = (i / 128, i / 32 % 4, i % 32);
        let nibble = low[half * 64 + run % 2 * 32 + lane] >> (run / 2 * 4) & 15;
        let scale = scales[i / 16] as i8;
        values.push(d * f32::from(scale) * (f32::from(nibble | k_pair(high, i) << 4) - 32.0));
    }
}
