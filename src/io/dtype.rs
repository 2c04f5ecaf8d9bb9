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
    /// 256 × 4 bits in 8 groups with a scale and a minimum each, `d s q - dmin m`.
    Q4_K,
    /// 256 × 5 bits in 8 groups with a scale and a minimum each, `d s q - dmin m`.
    Q5_K,
    /// 256 × 6 bits in 16 groups with a scale each, `d s (q - 32)`.
    Q6_K,
}

impl DType {
    /// Every format there is.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ];

    /// Elements in a block: 1 for plain numbers.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 32,
            DType::Q4_K | DType::Q5_K | DType::Q6_K => 256,
        }
    }

    /// Bytes in a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 => 2 + 16,
            DType::Q4_1 => 4 + 16,
            DType::Q5_0 => 2 + 4 + 16,
            DType::Q5_1 => 4 + 4 + 16,
            DType::Q8_0 => 2 + 32,
            DType::Q4_K => 4 + 12 + 128,
            DType::Q5_K => 4 + 12 + 32 + 128,
            DType::Q6_K => 128 + 64 + 16 + 2,
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
            DType::Q4_K => dequantize_k(block, block[16..].chunks_exact(32).flat_map(nibbles), &mut values),
            DType::Q5_K => {
                let (high, quants) = (&block[16..48], block[48..].chunks_exact(32).flat_map(nibbles));
                let quants = quants.enumerate().map(|(i, q)| q | (high[i % 32] >> (i / 32) & 1) << 4);
                dequantize_k(block, quants, &mut values);
            }
            DType::Q6_K => dequantize_q6_k(block, &mut values),
        }
    }
    values
}

fn half_at(block: &[u8], offset: usize) -> f32 {
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

/// ql 128 bytes (low 4 bits), qh 64 (high 2 bits), 16 scales of i8, d: two halves of 128 elements, each in four
/// runs of 32 that share bytes.
fn dequantize_q6_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for i in 0..256 {
        let (half, run, lane) = (i / 128, i / 32 % 4, i % 32);
        let nibble = low[half * 64 + run % 2 * 32 + lane] >> (run / 2 * 4) & 15;
        let two = high[half * 32 + lane] >> (run * 2) & 3;
        let scale = scales[i / 16] as i8;
        values.push(d * f32::from(scale) * (f32::from(nibble | two << 4) - 32.0));
    }
}
