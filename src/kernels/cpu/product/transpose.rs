//! Some stored rows turned into columns together, in registers where the processor has them.

#[cfg(target_arch = "x86_64")]
use super::super::simd::{level, Level};

/// Stored rows that are transposed together.
pub(super) const ROWS: usize = 8;

/// `out[p·width + r] = rows[r·stride + p]` for p below k and r below [`ROWS`].
pub(super) fn transpose(rows: &[f32], stride: usize, k: usize, width: usize, out: &mut [f32]) {
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
pub(super) fn transpose_bf16(rows: &[u8], row_bytes: usize, k: usize, width: usize, out: &mut [f32]) -> bool {
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
