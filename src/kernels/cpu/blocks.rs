//! Numbers in ggml's blocks, read as f32 by runs of 32: a block is 32 numbers with a scale, or 256 with a scale for
//! each 16 or 32 of them. The same bits as candle's and llama.cpp's own dequantisation.

use std::ops::Range;

use super::simd::simd_kernel;

/// Numbers that are read together; every kind's block is a whole number of these.
pub const RUN: usize = 32;

/// Kinds of blocks, by ggml's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl Block {
    /// Numbers of a block.
    pub const fn numbers(self) -> usize {
        use Block::*;
        match self {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8_1 => 32,
            Q2K | Q3K | Q4K | Q5K | Q6K | Q8K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Block::Q4_0 => 18,
            Block::Q4_1 => 20,
            Block::Q5_0 => 22,
            Block::Q5_1 => 24,
            Block::Q8_0 => 34,
            Block::Q8_1 => 36,
            Block::Q2K => 84,
            Block::Q3K => 110,
            Block::Q4K => 144,
            Block::Q5K => 176,
            Block::Q6K => 210,
            Block::Q8K => 292,
        }
    }

    /// Bytes of `numbers` numbers, which fill whole blocks.
    pub const fn bytes_of(self, numbers: usize) -> usize {
        numbers / self.numbers() * self.bytes()
    }
}

/// `one(block, run in it, its numbers)` for each run that the columns touch; columns may begin within a run. A macro, since
/// what a function is handed as a value is not compiled for the kernel's instructions.
macro_rules! runs {
    ($block:expr, $row:ident, $columns:ident, $out:ident, $one:expr) => {{
        let (numbers, size) = (const { $block.numbers() }, const { $block.bytes() });
        let mut at = $columns.start;
        let mut rest = $out;
        while at < $columns.end {
            let (b, within) = (at / numbers, at % numbers);
            let bytes = &$row[b * size..(b + 1) * size];
            let (run, skip) = (within / RUN, within % RUN);
            let n = (RUN - skip).min($columns.end - at);
            let (here, later) = rest.split_at_mut(n);
            match <&mut [f32; RUN]>::try_from(&mut *here) {
                Ok(whole) => $one(bytes, run, whole),
                Err(_) => {
                    let mut whole = [0.0; RUN];
                    $one(bytes, run, &mut whole);
                    here.copy_from_slice(&whole[skip..skip + n]);
                }
            }
            (rest, at) = (later, at + n);
        }
    }};
}

simd_kernel! {
    /// Numbers `columns` of a row of blocks.
    pub fn read(block: Block, row: &[u8], columns: Range<usize>, out: &mut [f32]) {
        use Block::*;
        match block {
            Q4_0 => runs!(Q4_0, row, columns, out, q4_0),
            Q4_1 => runs!(Q4_1, row, columns, out, q4_1),
            Q5_0 => runs!(Q5_0, row, columns, out, q5_0),
            Q5_1 => runs!(Q5_1, row, columns, out, q5_1),
            Q8_0 => runs!(Q8_0, row, columns, out, q8_0),
            Q8_1 => runs!(Q8_1, row, columns, out, q8_1),
            Q2K => runs!(Q2K, row, columns, out, q2_k),
            Q3K => runs!(Q3K, row, columns, out, q3_k),
            Q4K => runs!(Q4K, row, columns, out, q4_k),
            Q5K => runs!(Q5K, row, columns, out, q5_k),
            Q6K => runs!(Q6K, row, columns, out, q6_k),
            Q8K => runs!(Q8K, row, columns, out, q8_k),
        }
    }
}

/// A half as f32, exactly. The conversion of crate half asks the processor what it can at each call.
#[inline(always)]
pub(super) fn half(bytes: &[u8], at: usize) -> f32 {
    let bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]) as u32;
    let (size, sign) = (bits & 0x7fff, (bits & 0x8000) << 16);
    let value = match size {
        // Below 2^-14 there is no leading 1.
        0..0x400 => (size as f32 * (1.0 / 16_777_216.0)).to_bits(),
        0x400..0x7c00 => (size << 13) + (112 << 23),
        _ => size << 13 | 0x7f80_0000,
    };
    f32::from_bits(value | sign)
}

/// The 16 bytes from `at`, each twice: for the low nibbles, then for the high ones.
#[inline(always)]
fn nibbles(b: &[u8], at: usize, out: &mut [f32; RUN], number: impl Fn(u8, usize) -> f32) {
    let q = &b[at..at + 16];
    for j in 0..16 {
        out[j] = number(q[j] & 15, j);
        out[j + 16] = number(q[j] >> 4, j + 16);
    }
}

#[inline(always)]
fn q4_0(b: &[u8], _: usize, out: &mut [f32; RUN]) {
    let d = half(b, 0);
    nibbles(b, 2, out, |q, _| (q as i32 - 8) as f32 * d);
}

#[inline(always)]
fn q4_1(b: &[u8], _: usize, out: &mut [f32; RUN]) {
    let (d, m) = (half(b, 0), half(b, 2));
    nibbles(b, 4, out, |q, _| q as f32 * d + m);
}

#[inline(always)]
fn q5_0(b: &[u8], _: usize, out: &mut [f32; RUN]) {
    let (d, high) = (half(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
    nibbles(b, 6, out, |q, j| ((q as u32 | (high >> j & 1) << 4) as i32 - 16) as f32 * d);
}

#[inline(always)]
fn q5_1(b: &[u8], _: usize, out: &mut [f32; RUN]) {
    let (d, m, high) = (half(b, 0), half(b, 2), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
    nibbles(b, 8, out, |q, j| (q as u32 | (high >> j & 1) << 4) as i32 as f32 * d + m);
}

#[inline(always)]
fn q8_0(b: &[u8], _: usize, out: &mut [f32; RUN]) {
    q8(b, 2, out);
}

#[inline(always)]
fn q8_1(b: &[u8], _: usize, out: &mut [f32; RUN]) {
    q8(b, 4, out);
}

#[inline(always)]
fn q8(b: &[u8], at: usize, out: &mut [f32; RUN]) {
    let d = half(b, 0);
    for (o, &q) in out.iter_mut().zip(&b[at..at + RUN]) {
        *o = q as i8 as f32 * d;
    }
}

#[inline(always)]
fn q8_k(b: &[u8], run: usize, out: &mut [f32; RUN]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (o, &q) in out.iter_mut().zip(&b[4 + RUN * run..4 + RUN * (run + 1)]) {
        *o = d * q as i8 as f32;
    }
}

/// Two scales of sixteen numbers each, two bits a number: four runs share 32 bytes.
#[inline(always)]
fn q2_k(b: &[u8], run: usize, out: &mut [f32; RUN]) {
    let (d, min) = (half(b, 80), half(b, 82));
    let q = &b[16 + 32 * (run / 4)..48 + 32 * (run / 4)];
    let shift = 2 * (run % 4);
    for (part, (out, q)) in out.chunks_exact_mut(16).zip(q.chunks_exact(16)).enumerate() {
        let scale = b[2 * run + part];
        let (dl, ml) = (d * (scale & 15) as f32, min * (scale >> 4) as f32);
        for (o, q) in out.iter_mut().zip(q) {
            *o = dl * (q >> shift & 3) as f32 - ml;
        }
    }
}

/// As [`q2_k`], with a third bit of each number in a mask: 0 there means 4 less. Scales have six bits.
#[inline(always)]
fn q3_k(b: &[u8], run: usize, out: &mut [f32; RUN]) {
    let d = half(b, 108);
    let q = &b[32 + 32 * (run / 4)..64 + 32 * (run / 4)];
    let shift = 2 * (run % 4);
    let (packed, masks) = (&b[96..108], &b[..32]);
    for part in 0..2 {
        let i = 2 * run + part;
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        let dl = d * ((low | high << 4) as f32 - 32.0);
        let (q, masks) = (&q[16 * part..16 * part + 16], &masks[16 * part..16 * part + 16]);
        for (o, (q, mask)) in out[16 * part..16 * part + 16].iter_mut().zip(q.iter().zip(masks)) {
            let bit = (mask >> run & 1) as i32;
            *o = dl * ((q >> shift & 3) as i32 - 4 + 4 * bit) as f32;
        }
    }
}

/// Scale and minimum of a run, six bits each, of the twelve bytes that eight runs share.
#[inline(always)]
fn scale_min(q: &[u8], run: usize) -> (f32, f32) {
    let (scale, min) = match run {
        0..4 => (q[run] & 63, q[run + 4] & 63),
        _ => (q[run + 4] & 15 | q[run - 4] >> 6 << 4, q[run + 4] >> 4 | q[run] >> 6 << 4),
    };
    (scale as f32, min as f32)
}

#[inline(always)]
fn q4_k(b: &[u8], run: usize, out: &mut [f32; RUN]) {
    let (scale, min) = scale_min(&b[4..16], run);
    let (d, m) = (half(b, 0) * scale, half(b, 2) * min);
    let q = &b[16 + 32 * (run / 2)..48 + 32 * (run / 2)];
    let shift = 4 * (run % 2);
    for (o, q) in out.iter_mut().zip(q) {
        *o = d * (q >> shift & 15) as f32 - m;
    }
}

#[inline(always)]
fn q5_k(b: &[u8], run: usize, out: &mut [f32; RUN]) {
    let (scale, min) = scale_min(&b[4..16], run);
    let (d, m) = (half(b, 0) * scale, half(b, 2) * min);
    let (high, q) = (&b[16..48], &b[48 + 32 * (run / 2)..80 + 32 * (run / 2)]);
    let shift = 4 * (run % 2);
    for (o, (q, high)) in out.iter_mut().zip(q.iter().zip(high)) {
        *o = d * (q >> shift & 15 | (high >> run & 1) << 4) as f32 - m;
    }
}

#[inline(always)]
fn q6_k(b: &[u8], run: usize, out: &mut [f32; RUN]) {
    let (half_block, part) = (run / 4, run % 4);
    let d = half(b, 208);
    let low = &b[64 * half_block + 32 * (part % 2)..][..32];
    let high = &b[128 + 32 * half_block..][..32];
    let scales = &b[192 + 2 * run..194 + 2 * run];
    let (low_shift, high_shift) = (4 * (part / 2), 2 * part);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * scales[i] as i8 as f32;
        let (low, high) = (&low[16 * i..16 * i + 16], &high[16 * i..16 * i + 16]);
        for (o, (l, h)) in out.iter_mut().zip(low.iter().zip(high)) {
            *o = scale * ((l >> low_shift & 15 | (h >> high_shift & 3) << 4) as i32 - 32) as f32;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rng::{Key, Stream};
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    use candle_core::Device;
    use half::f16;

    const ALL: [(Block, GgmlDType); 12] = [
        (Block::Q4_0, GgmlDType::Q4_0),
        (Block::Q4_1, GgmlDType::Q4_1),
        (Block::Q5_0, GgmlDType::Q5_0),
        (Block::Q5_1, GgmlDType::Q5_1),
        (Block::Q8_0, GgmlDType::Q8_0),
        (Block::Q8_1, GgmlDType::Q8_1),
        (Block::Q2K, GgmlDType::Q2K),
        (Block::Q3K, GgmlDType::Q3K),
        (Block::Q4K, GgmlDType::Q4K),
        (Block::Q5K, GgmlDType::Q5K),
        (Block::Q6K, GgmlDType::Q6K),
        (Block::Q8K, GgmlDType::Q8K),
    ];

    /// Random bytes are a block of any kind, when its scales are finite.
    pub fn random_blocks(block: Block, blocks: usize) -> Vec<u8> {
        let key = Key::new(11, Stream::Bench, &[block as u64]);
        let mut bytes: Vec<u8> = (0..blocks * block.bytes()).map(|i| key.bits(i as u64) as u8).collect();
        let halves: &[usize] = match block {
            Block::Q4_0 | Block::Q5_0 | Block::Q8_0 => &[0],
            Block::Q2K => &[80, 82],
            Block::Q3K => &[108],
            Block::Q6K => &[208],
            Block::Q8K => &[],
            _ => &[0, 2],
        };
        for (i, b) in bytes.chunks_exact_mut(block.bytes()).enumerate() {
            for &at in halves {
                let d = f16::from_f32(key.uniform((1000 + i) as u64) as f32 - 0.4).to_le_bytes();
                b[at..at + 2].copy_from_slice(&d);
            }
            if block == Block::Q8K {
                b[..4].copy_from_slice(&0.37f32.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn halves_are_converted_as_crate_half_does() {
        for bits in 0..=u16::MAX {
            let (got, want) = (half(&bits.to_le_bytes(), 0), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:x}: {got} {want}");
        }
    }

    #[test]
    fn every_kind_reads_as_candle_does() {
        for (block, dtype) in ALL {
            assert_eq!((block.numbers(), block.bytes()), (dtype.block_size(), dtype.type_size()), "{block:?}");
            let n = 2 * 256;
            let bytes = random_blocks(block, n / block.numbers());
            assert_eq!(bytes.len(), block.bytes_of(n));
            let storage = QStorage::from_data(std::borrow::Cow::Borrowed(&bytes), &Device::Cpu, dtype).unwrap();
            let want = QTensor::new(storage, (1, n)).unwrap().dequantize(&Device::Cpu).unwrap();
            let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut got = vec![f32::NAN; n];
            read(block, &bytes, 0..n, &mut got);
            let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want), "{block:?}");
            for columns in [0..1, 3..40, 31..33, 64..256, 100..300, 255..257, 480..512, 17..17] {
                let mut part = vec![f32::NAN; columns.len()];
                read(block, &bytes, columns.clone(), &mut part);
                assert_eq!(bits(&part), bits(&want[columns.clone()]), "{block:?} {columns:?}");
            }
        }
    }
}
