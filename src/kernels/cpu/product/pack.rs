//! Matrices as they are stored, brought into the order that tiles read: panels of some columns, one row of
//! the panel after the other.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::super::simd::{level, Level};
use super::{Cut, Right, Share};

/// Stored rows that are transposed together.
pub(super) const ROWS: usize = 8;

/// Rows of a stored matrix, converted on reading.
pub trait Stored: Sync {
    /// Writes elements `columns` of row `row` to `out`, which has their length.
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]);

    /// The elements in f32, row-major, where they are stored so, and how many a row has.
    fn in_place(&self) -> Option<(&[f32], usize)> {
        None
    }

    /// The elements in bf16, little endian, row-major, where they are stored so, and how many a row has.
    fn bf16(&self) -> Option<(&[u8], usize)> {
        None
    }

    /// The bytes in which elements `columns` of row `row` lie, where it pays to fetch them early.
    fn bytes(&self, row: usize, columns: Range<usize>) -> &[u8] {
        let _ = (row, columns);
        &[]
    }

    /// How operands are cut for the processor's matrix units, where these may be used.
    fn cut(&self) -> Option<Cut> {
        None
    }
}

/// A row-major f32 matrix.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    data: &'a [f32],
    cols: usize,
}

impl<'a> Plain<'a> {
    /// Rows of `cols` elements.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        Plain { data, cols }
    }
}

impl Stored for Plain<'_> {
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let at = row * self.cols;
        out.copy_from_slice(&self.data[at + columns.start..at + columns.end]);
    }

    fn in_place(&self) -> Option<(&[f32], usize)> {
        Some((self.data, self.cols))
    }
}

/// The transpose of a stored matrix `[n,k]` as the right operand `[k,n]`: `x·Wᵀ`.
pub struct Columns<S>(pub S);

/// A stored matrix `[k,n]` as it is: `g·W`.
pub struct Rows<S>(pub S);

impl<S: Stored> Right for Rows<S> {
    fn pack(&self, p: Range<usize>, j: Range<usize>, width: usize, out: &mut [f32], _: &mut [f32]) {
        for (p, out) in p.zip(out.chunks_exact_mut(width)) {
            let (used, rest) = out.split_at_mut(j.len());
            self.0.read(p, j.clone(), used);
            rest.fill(0.0);
        }
    }

    fn in_place(&self) -> Option<(&[f32], usize)> {
        self.0.in_place()
    }

    fn ask_for(&self, p: Range<usize>, j: Range<usize>, share: Share) {
        for row in share.of(p) {
            ask_for(self.0.bytes(row, j.clone()));
        }
    }

    fn cut(&self) -> Option<Cut> {
        self.0.cut()
    }

    fn pack_pairs(&self, p: Range<usize>, j: Range<usize>, kc: usize, out: &mut [u16], space: &mut [f32]) {
        match self.0.bf16() {
            Some(stored) => super::amx::pairs_of_rows(stored, p, j, kc, out),
            None => {
                super::amx::parts_of_rows(&|row, columns, out| self.0.read(row, columns, out), p, j, kc, out, space)
            }
        }
    }
}

impl<S: Stored> Right for Columns<S> {
    fn pack(&self, p: Range<usize>, j: Range<usize>, width: usize, out: &mut [f32], row: &mut [f32]) {
        let k = p.len();
        for at in (0..width).step_by(ROWS) {
            let first = j.start + at;
            if let (Some((bits, rs)), true) = (self.0.bf16(), first + ROWS <= j.end) {
                if transpose_bf16(&bits[2 * (first * rs + p.start)..], 2 * rs, k, width, &mut out[at..]) {
                    continue;
                }
            }
            let stride = k.next_multiple_of(8);
            for (r, row) in row.chunks_exact_mut(stride).take(ROWS).enumerate() {
                match first + r {
                    column if column < j.end => self.0.read(column, p.clone(), &mut row[..k]),
                    _ => row[..k].fill(0.0),
                }
            }
            transpose(row, stride, k, width, &mut out[at..]);
        }
    }

    fn ask_for(&self, p: Range<usize>, j: Range<usize>, share: Share) {
        for row in share.of(j) {
            ask_for(self.0.bytes(row, p.clone()));
        }
    }

    fn cut(&self) -> Option<Cut> {
        self.0.cut()
    }

    fn pack_pairs(&self, p: Range<usize>, j: Range<usize>, kc: usize, out: &mut [u16], space: &mut [f32]) {
        match self.0.bf16() {
            Some(stored) => super::amx::pairs_of_columns(stored, p, j, kc, out),
            None => {
                super::amx::parts_of_columns(&|row, columns, out| self.0.read(row, columns, out), p, j, kc, out, space)
            }
        }
    }
}

/// Has the processor fetch these bytes to its second cache.
fn ask_for(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: a hint, harmless at any address.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// `out[p·width + r] = rows[r·stride + p]` for p below k and r below [`ROWS`].
fn transpose(rows: &[f32], stride: usize, k: usize, width: usize, out: &mut [f32]) {
    assert!(rows.len() >= ROWS * stride && k <= stride && (k == 0 || (k - 1) * width + ROWS <= out.len()));
    #[cfg(target_arch = "x86_64")]
    let done = match level() {
        Level::Base => 0,
        // SAFETY: the machine has AVX2, and the lengths were checked.
        _ => unsafe { avx2::transpose(rows.as_ptr(), stride, k, width, out.as_mut_ptr()) },
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    for p in done..k {
        for r in 0..ROWS {
            out[p * width + r] = rows[r * stride + p];
        }
    }
}

/// The same of bf16 numbers, `row_bytes` from row to row; `false` where there is no quick way.
fn transpose_bf16(rows: &[u8], row_bytes: usize, k: usize, width: usize, out: &mut [f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Base && k > 0 {
        assert!((ROWS - 1) * row_bytes + 2 * k <= rows.len() && (k - 1) * width + ROWS <= out.len());
        // SAFETY: the machine has AVX2, and the lengths were checked.
        let done = unsafe { avx2::transpose_bf16(rows.as_ptr(), row_bytes, k, width, out.as_mut_ptr()) };
        for p in done..k {
            for r in 0..ROWS {
                let at = r * row_bytes + 2 * p;
                out[p * width + r] = f32::from_bits((u16::from_le_bytes([rows[at], rows[at + 1]]) as u32) << 16);
            }
        }
        return true;
    }
    let _ = (rows, row_bytes, k, width, out);
    false
}

/// Words of eight rows, `row_bytes` apart, to rows of eight words, 32 numbers of 16 bits apart; gives how
/// many of the `words` were done.
///
/// # Safety
/// The machine has AVX2.
///
/// # Panics
/// When `rows` or `out` is too short.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) unsafe fn transpose_words(rows: &[u8], row_bytes: usize, words: usize, out: &mut [u16]) -> usize {
    let done = words / 8 * 8;
    if done == 0 {
        return 0;
    }
    assert!(7 * row_bytes + 4 * done <= rows.len() && 32 * (done - 1) + 16 <= out.len());
    avx2::transpose_words(rows.as_ptr(), row_bytes, done, out.as_mut_ptr());
    done
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// Whole runs of eight of k; gives how many that are.
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose(rows: *const f32, stride: usize, k: usize, width: usize, out: *mut f32) -> usize {
        let mut p = 0;
        while p + 8 <= k {
            let columns = eight(std::array::from_fn(|r| unsafe { _mm256_loadu_ps(rows.add(r * stride + p)) }));
            for (i, column) in columns.into_iter().enumerate() {
                _mm256_storeu_ps(out.add((p + i) * width), column);
            }
            p += 8;
        }
        p
    }

    /// Whole runs of sixteen of k. Two neighbours of a row are transposed as one word, which halves the work;
    /// then each half of a word becomes a number.
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose_bf16(rows: *const u8, stride: usize, k: usize, width: usize, out: *mut f32) -> usize {
        let upper = _mm256_set1_epi32(0xffff_0000u32 as i32);
        let mut p = 0;
        while p + 16 <= k {
            let words = eight(std::array::from_fn(|r| unsafe { _mm256_loadu_ps(rows.add(r * stride + 2 * p).cast()) }));
            for (i, word) in words.into_iter().enumerate() {
                let (word, to) = (_mm256_castps_si256(word), out.add((p + 2 * i) * width));
                _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32::<16>(word)));
                _mm256_storeu_ps(to.add(width), _mm256_castsi256_ps(_mm256_and_si256(word, upper)));
            }
            p += 16;
        }
        p
    }

    /// Whole runs of eight words.
    #[cfg(target_os = "linux")]
    #[target_feature(enable = "avx2")]
    pub unsafe fn transpose_words(rows: *const u8, stride: usize, words: usize, out: *mut u16) {
        for p in (0..words).step_by(8) {
            let columns =
                eight(std::array::from_fn(|r| unsafe { _mm256_loadu_ps(rows.add(r * stride + 4 * p).cast()) }));
            for (i, column) in columns.into_iter().enumerate() {
                _mm256_storeu_ps(out.add(32 * (p + i)).cast(), column);
            }
        }
    }

    /// Eight rows of eight words to eight columns: pairs, then fours, then halves.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn eight(r: [__m256; 8]) -> [__m256; 8] {
        let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
        let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
        let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
        [
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ]
    }
}
