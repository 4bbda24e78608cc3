//! The same dot products with AVX-512's integer instruction (VNNI): four products of eight bits to a sum of 32, in
//! sixteen lanes.
//!
//! A number of any kind is `d·q + c`, where q is a code of at most eight bits without sign, and d and c belong to sixteen
//! numbers or more. So of 256 numbers with a vector that is rounded to `e·x` in runs of 32,
//!
//! ```text
//! Σ (d·q + c)·e·x = Σ d·e·(Σ q·x) + Σ c·(e·Σ x)
//! ```
//!
//! the inner sums are exact, and there are sixteen of each. Blocks are brought into that form in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::blocks::{half, Block};
use super::super::dots::{Rounded, FEW};
use super::super::simd::{level, prefetch, Level};

/// Numbers that are taken together: a large block, or eight small ones.
const GROUP: usize = 256;
/// Numbers that have a scale of their own.
const PART: usize = 16;
const PARTS: usize = GROUP / PART;
/// Numbers of the vector that are rounded together.
const RUN: usize = 32;

/// Bytes by which memory is asked for before it is needed: the processor alone stops at the end of a page.
const AHEAD: usize = 4096;

/// Whether the kernels here may be called.
pub fn available() -> bool {
    level() >= Level::Vnni
}

/// Part of a rounded vector.
#[repr(C, align(64))]
#[derive(Clone)]
struct Rounding {
    /// x.
    codes: [i8; GROUP],
    /// e, for each part.
    scales: [f32; PARTS],
    /// e·Σ x of each part.
    sums: [f32; PARTS],
}

/// `x[k]` in groups, zeros behind it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
unsafe fn round(x: &[f32], groups: &mut Vec<Rounding>) {
    for x in x.chunks(GROUP) {
        let mut r = Rounding { codes: [0; GROUP], scales: [0.0; PARTS], sums: [0.0; PARTS] };
        for (i, x) in x.chunks(RUN).enumerate() {
            let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scale = largest / 127.0;
            // What is no number becomes 0 as a code; its scale carries it on.
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let codes = &mut r.codes[RUN * i..RUN * i + x.len()];
            codes.iter_mut().zip(x).for_each(|(c, v)| *c = (v * inverse).round_ties_even() as i8);
            let scale = if x.iter().all(|v| v.is_finite()) { scale } else { f32::NAN };
            for part in 2 * i..2 * i + 2 {
                let sum: i32 = r.codes[PART * part..PART * (part + 1)].iter().map(|&c| c as i32).sum();
                (r.scales[part], r.sums[part]) = (scale, scale * sum as f32);
            }
        }
        groups.push(r);
    }
}

/// 256 numbers: their codes in order, d and c of each part.
struct Codes {
    codes: [__m512i; 4],
    d: __m512,
    c: __m512,
}

/// Rows of blocks with rounded vectors.
struct RoundedRows<'a> {
    block: Block,
    bytes: &'a [u8],
    k: usize,
    vectors: usize,
    /// Vector after vector.
    groups: Vec<Rounding>,
}

/// Rounds `x[m,k]` for rows of this kind; `None` where there is no kernel.
pub fn of<'a>(block: Block, bytes: &'a [u8], x: &[f32], k: usize) -> Option<Box<dyn Rounded + 'a>> {
    use Block::*;
    let known = matches!(block, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K);
    if !known || !available() || k == 0 || !k.is_multiple_of(block.numbers()) {
        return None;
    }
    let vectors = x.len() / k;
    assert!(vectors <= FEW, "more vectors than sums");
    let mut groups = Vec::with_capacity(vectors * k.div_ceil(GROUP));
    for x in x.chunks_exact(k) {
        // SAFETY: the machine has the instructions.
        unsafe { round(x, &mut groups) };
    }
    Some(Box::new(RoundedRows { block, bytes, k, vectors, groups }))
}

impl Rounded for RoundedRows<'_> {
    fn dots(&self, rows: Range<usize>, y: &mut [[f32; FEW]]) {
        let size = self.block.bytes_of(self.k);
        let bytes = &self.bytes[rows.start * size..rows.end * size];
        for (row, y) in bytes.chunks_exact(size).zip(y) {
            // SAFETY: there is none of these without the instructions.
            unsafe { self.row(row, y) }
        }
    }
}

/// For each 64 numbers, which part a lane of four belongs to.
static PART_OF: [[i32; 16]; 4] = {
    let mut at = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        at[i / 16][i % 16] = i as i32 / 4;
        i += 1;
    }
    at
};

/// A large block's parts, two for each run of 32.
static RUN_OF: [i32; 16] = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7];

impl RoundedRows<'_> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn row(&self, row: &[u8], y: &mut [f32; FEW]) {
        use Block::*;
        match self.block {
            Q4_0 => self.sums(row, y, |b| small::<18>(b, Some(-8.0), |b| q4(b, 2))),
            Q4_1 => self.sums(row, y, |b| small::<20>(b, None, |b| q4(b, 4))),
            Q5_0 => self.sums(row, y, |b| small::<22>(b, Some(-16.0), |b| q5(b, 2))),
            Q5_1 => self.sums(row, y, |b| small::<24>(b, None, |b| q5(b, 4))),
            Q8_0 => self.sums(row, y, |b| small::<34>(b, Some(-128.0), |b| q8(b, 2))),
            Q2K => self.sums(row, y, |b| q2_k(b)),
            Q3K => self.sums(row, y, |b| q3_k(b)),
            Q4K => self.sums(row, y, |b| q45_k::<144>(b)),
            Q5K => self.sums(row, y, |b| q45_k::<176>(b)),
            _ => self.sums(row, y, |b| q6_k(b)),
        }
    }

    /// The products of a row, whose groups `read` takes apart.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn sums(&self, row: &[u8], y: &mut [f32; FEW], read: impl Fn(&[u8]) -> Codes) {
        let per_group = self.block.bytes_of(GROUP);
        let n = self.k.div_ceil(GROUP);
        let part_of: [__m512i; 4] = std::array::from_fn(|i| unsafe { _mm512_loadu_si512(PART_OF[i].as_ptr().cast()) });
        // Two for each vector, so that one addition need not wait for the last.
        let mut sums = [[_mm512_setzero_ps(); 2]; FEW];
        for (i, block) in row.chunks(per_group).enumerate() {
            for line in (0..per_group).step_by(64) {
                prefetch(block, AHEAD + line);
            }
            let group = read(block);
            for (sum, x) in sums[..self.vectors].iter_mut().zip(self.groups[i..].iter().step_by(n)) {
                let scales = _mm512_mul_ps(group.d, _mm512_loadu_ps(x.scales.as_ptr()));
                sum[0] = _mm512_fmadd_ps(group.c, _mm512_loadu_ps(x.sums.as_ptr()), sum[0]);
                for (j, (&codes, &part_of)) in group.codes.iter().zip(&part_of).enumerate() {
                    let x = _mm512_loadu_si512(x.codes[64 * j..64 * j + 64].as_ptr().cast());
                    let exact = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, x));
                    sum[(j + 1) % 2] = _mm512_fmadd_ps(exact, _mm512_permutexvar_ps(part_of, scales), sum[(j + 1) % 2]);
                }
            }
        }
        for (y, sum) in y.iter_mut().zip(&sums[..self.vectors]) {
            *y = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
        }
    }
}

/// Up to eight blocks of `SIZE` bytes and 32 numbers, which begin with d. c is so many times d, or follows it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn small<const SIZE: usize>(blocks: &[u8], times: Option<f32>, codes: impl Fn(&[u8]) -> __m256i) -> Codes {
    let (mut all, mut d, mut c) = ([_mm256_setzero_si256(); 8], [0u16; 8], [0u16; 8]);
    for (i, b) in blocks.chunks_exact(SIZE).enumerate().take(8) {
        all[i] = codes(b);
        (d[i], c[i]) = (u16::from_le_bytes([b[0], b[1]]), u16::from_le_bytes([b[2], b[3]]));
    }
    let halves = |bits: &[u16; 8]| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())) };
    let d = halves(&d);
    let c = match times {
        Some(times) => _mm256_mul_ps(d, _mm256_set1_ps(times)),
        None => halves(&c),
    };
    Codes { codes: std::array::from_fn(|i| two(all[2 * i], all[2 * i + 1])), d: of_runs(d), c: of_runs(c) }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two(first: __m256i, second: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// Eight numbers, each twice.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn of_runs(x: __m256) -> __m512 {
    _mm512_permutexvar_ps(_mm512_loadu_si512(RUN_OF.as_ptr().cast()), _mm512_castps256_ps512(x))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load32(b: &[u8], at: usize) -> __m256i {
    _mm256_loadu_si256(b[at..at + 32].as_ptr().cast())
}

/// The low halves of 16 bytes, then the high ones.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q4(b: &[u8], at: usize) -> __m256i {
    let bytes = _mm_loadu_si128(b[at..at + 16].as_ptr().cast());
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(bytes), _mm_srli_epi16::<4>(bytes));
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// As [`q4`] behind them, with a fifth bit of each number in the 32 bits from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn q5(b: &[u8], at: usize) -> __m256i {
    let bits = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    _mm256_or_si256(q4(b, at + 4), _mm256_maskz_set1_epi8(bits, 16))
}

/// Bytes with a sign, and 128 more.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q8(b: &[u8], at: usize) -> __m256i {
    _mm256_xor_si256(load32(b, at), _mm256_set1_epi8(-128))
}

/// Sixteen bytes as numbers.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn numbers(bytes: __m128i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

/// Two bits of each of 32 bytes: the lowest, then those above, for four runs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn two_bits(bytes: __m256i) -> [__m512i; 2] {
    let both = _mm512_broadcast_i64x4(bytes);
    let counts = [two(_mm256_setzero_si256(), _mm256_set1_epi16(2)), two(_mm256_set1_epi16(4), _mm256_set1_epi16(6))];
    counts.map(|n| _mm512_and_si512(_mm512_srlv_epi16(both, n), _mm512_set1_epi8(3)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn q2_k(b: &[u8]) -> Codes {
    let ([a, b_], [c, d]) = (two_bits(load32(b, 16)), two_bits(load32(b, 48)));
    let both = _mm_loadu_si128(b[..16].as_ptr().cast());
    let low = _mm_set1_epi8(15);
    let (scales, mins) = (_mm_and_si128(both, low), _mm_and_si128(_mm_srli_epi16::<4>(both), low));
    Codes {
        codes: [a, b_, c, d],
        d: _mm512_mul_ps(numbers(scales), _mm512_set1_ps(half(b, 80))),
        c: _mm512_mul_ps(numbers(mins), _mm512_set1_ps(-half(b, 82))),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn q3_k(b: &[u8]) -> Codes {
    let ([q0, q1], [q2, q3]) = (two_bits(load32(b, 32)), two_bits(load32(b, 64)));
    // A third bit of run r in bit r of 32 bytes.
    let (masks, third) = (_mm512_broadcast_i64x4(load32(b, 0)), _mm512_set1_epi8(4));
    let mut codes = [q0, q1, q2, q3];
    for (i, codes) in codes.iter_mut().enumerate() {
        let bits = two(_mm256_set1_epi8((1u8 << (2 * i)) as i8), _mm256_set1_epi8((2u8 << (2 * i)) as i8));
        let set = _mm512_test_epi8_mask(masks, bits);
        *codes = _mm512_or_si512(*codes, _mm512_maskz_mov_epi8(set, third));
    }
    let packed = &b[96..108];
    let scales: [i8; 16] = std::array::from_fn(|i| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        (low | (packed[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) as i8 - 32
    });
    let d = _mm512_mul_ps(numbers(_mm_loadu_si128(scales.as_ptr().cast())), _mm512_set1_ps(half(b, 108)));
    Codes { codes, d, c: _mm512_mul_ps(d, _mm512_set1_ps(-4.0)) }
}

/// Four bits of each number, with 176 bytes a fifth one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn q45_k<const SIZE: usize>(b: &[u8]) -> Codes {
    let fifth = SIZE == 176;
    let low = _mm256_set1_epi8(15);
    let high = if fifth { _mm512_broadcast_i64x4(load32(b, 16)) } else { _mm512_setzero_si512() };
    let mut codes = [_mm512_setzero_si512(); 4];
    for (i, codes) in codes.iter_mut().enumerate() {
        let q = load32(b, SIZE - 128 + 32 * i);
        *codes = two(_mm256_and_si256(q, low), _mm256_and_si256(_mm256_srli_epi16::<4>(q), low));
        if fifth {
            let bits = two(_mm256_set1_epi8((1u8 << (2 * i)) as i8), _mm256_set1_epi8((2u8 << (2 * i)) as i8));
            let set = _mm512_test_epi8_mask(high, bits);
            *codes = _mm512_or_si512(*codes, _mm512_maskz_mov_epi8(set, _mm512_set1_epi8(16)));
        }
    }
    // Eight scales and eight minima of six bits.
    let word = |i: usize| u32::from_le_bytes([b[4 + 4 * i], b[5 + 4 * i], b[6 + 4 * i], b[7 + 4 * i]]) as u64;
    let (first, second, third) = (word(0), word(1), word(2));
    let scales = first & 0x3f3f_3f3f | (third & 0x0f0f_0f0f | (first >> 6 & 0x0303_0303) << 4) << 32;
    let mins = second & 0x3f3f_3f3f | (third >> 4 & 0x0f0f_0f0f | (second >> 6 & 0x0303_0303) << 4) << 32;
    let eight = |bytes: u64, factor: f32| unsafe {
        let numbers = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes as i64)));
        of_runs(_mm256_mul_ps(numbers, _mm256_set1_ps(factor)))
    };
    Codes { codes, d: eight(scales, half(b, 0)), c: eight(mins, -half(b, 2)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn q6_k(b: &[u8]) -> Codes {
    let low = _mm512_set1_epi8(15);
    let mut codes = [_mm512_setzero_si512(); 4];
    for (i, codes) in codes.chunks_exact_mut(2).enumerate() {
        let q = _mm512_loadu_si512(b[64 * i..64 * i + 64].as_ptr().cast());
        let high = two_bits(load32(b, 128 + 32 * i)).map(|h| _mm512_slli_epi16::<4>(h));
        codes[0] = _mm512_or_si512(_mm512_and_si512(q, low), high[0]);
        codes[1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16::<4>(q), low), high[1]);
    }
    let scales = numbers(_mm_loadu_si128(b[192..208].as_ptr().cast()));
    let d = _mm512_mul_ps(scales, _mm512_set1_ps(half(b, 208)));
    Codes { codes, d, c: _mm512_mul_ps(d, _mm512_set1_ps(-32.0)) }
}

#[cfg(test)]
mod tests {
    use super::super::super::blocks::{self, tests::random_blocks};
    use super::*;
    use crate::rng::{Key, Stream};

    #[test]
    fn a_row_is_its_numbers_times_the_rounded_vector() {
        use Block::*;
        if !available() {
            println!("no VNNI here: its products are not tested");
            return;
        }
        let key = Key::new(5, Stream::Bench, &[]);
        for block in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            for k in [32, 64, 96, 256, 288, 576, 1024].into_iter().filter(|k| k % block.numbers() == 0) {
                let (n, m) = (5, 3);
                let bytes = random_blocks(block, n * k / block.numbers());
                let x: Vec<f32> = (0..m * k).map(|i| key.uniform(i as u64) as f32 - 0.4).collect();
                let rows = of(block, &bytes, &x, k).unwrap();
                let mut y = vec![[0f32; FEW]; n];
                rows.dots(0..n, &mut y);
                for (r, y) in y.iter().enumerate() {
                    let mut w = vec![0f32; k];
                    let size = block.bytes_of(k);
                    blocks::read(block, &bytes[r * size..(r + 1) * size], 0..k, &mut w);
                    for i in 0..m {
                        let (mut want, mut exact, mut size) = (0f64, 0f64, 0f64);
                        for (w, x) in w.chunks(32).zip(x[i * k..(i + 1) * k].chunks(32)) {
                            let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                            for (&w, &x) in w.iter().zip(x) {
                                let rounded = scale as f64 * (x / scale).round_ties_even() as f64;
                                want += w as f64 * rounded;
                                exact += w as f64 * x as f64;
                                size += (w as f64 * x as f64).abs();
                            }
                        }
                        // Codes may fall to the other side of a tie, where 1/scale is rounded.
                        let error = (y[i] as f64 - want).abs() / size;
                        assert!(error < 1e-5, "{block:?} {k} row {r}: {} for {want}", y[i]);
                        assert!((want - exact).abs() / size < 0.01, "{block:?} {k}");
                    }
                }
                // A vector has the same bits alone, and rows wherever they begin.
                let alone = of(block, &bytes, &x[k..2 * k], k).unwrap();
                let mut one = vec![[0f32; FEW]; 2];
                alone.dots(3..5, &mut one);
                assert!(one[0][0] == y[3][1] && one[1][0] == y[4][1], "{block:?} {k}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_are_not_hidden() {
        if !available() {
            return;
        }
        let bytes = random_blocks(Block::Q8_0, 2);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1f32; 64];
            x[40] = bad;
            let mut y = [[0f32; FEW]];
            of(Block::Q8_0, &bytes, &x, 64).unwrap().dots(0..1, &mut y);
            assert!(!y[0][0].is_finite());
            of(Block::Q8_0, &bytes, &[0.0; 64], 64).unwrap().dots(0..1, &mut y);
            assert_eq!(y[0][0], 0.0);
        }
    }
}
