//! Dot products of stored rows with a few vectors, where the rows stand: each is read once and widened in registers.
//! A dot product is one sum in lanes over k, whatever stands beside it.

use std::ops::Range;

use super::simd::{dot, fma, prefetch, simd_kernel, sum_lanes, LANES};

/// Most vectors that are worth it: for more, a product that packs the weights is faster.
pub const FEW: usize = 8;
/// Rows of W that one vector passes at once, and vectors that pass one row.
pub(super) const AT_ONCE: usize = 4;

/// Rows of blocks with the vectors that they are multiplied with.
pub trait Rounded: Sync {
    /// `y[row][i] = w[row]·x[i]`.
    fn dots(&self, rows: Range<usize>, y: &mut [[f32; FEW]]);
}

/// How a number is stored.
trait Element {
    type Raw: Copy;
    fn widen(raw: Self::Raw) -> f32;
}

struct Plain;
struct Single;
struct HalfPrecision;
struct Brain;

impl Element for Plain {
    type Raw = f32;
    #[inline(always)]
    fn widen(raw: f32) -> f32 {
        raw
    }
}

impl Element for Single {
    type Raw = [u8; 4];
    #[inline(always)]
    fn widen(raw: [u8; 4]) -> f32 {
        f32::from_le_bytes(raw)
    }
}

impl Element for Brain {
    type Raw = [u8; 2];
    #[inline(always)]
    fn widen(raw: [u8; 2]) -> f32 {
        f32::from_bits((u16::from_le_bytes(raw) as u32) << 16)
    }
}

impl Element for HalfPrecision {
    type Raw = [u8; 2];
    /// Without a branch, so that it is done in lanes: the exponent is moved, and numbers below the normal range
    /// are told by a subtraction (M. Dukhan's FP16 library).
    #[inline(always)]
    fn widen(raw: [u8; 2]) -> f32 {
        let w = (u16::from_le_bytes(raw) as u32) << 16;
        let twice = w.wrapping_add(w);
        let normal = f32::from_bits((twice >> 4).wrapping_add(0xE0 << 23)) * f32::from_bits(0x0780_0000);
        let small = f32::from_bits((twice >> 17) | (126 << 23)) - 0.5;
        let bits = if twice < 1 << 27 { small.to_bits() } else { normal.to_bits() };
        f32::from_bits(bits | (w & 0x8000_0000))
    }
}

/// `y[row][i] = w[row]·x[i]` for every row of w.
#[inline(always)]
fn rows<E: Element, const FMA: bool>(w: &[E::Raw], x: &[f32], k: usize, y: &mut [[f32; FEW]]) {
    let m = x.len() / k;
    if m == 1 {
        let whole = y.len() / AT_ONCE * AT_ONCE;
        for r in (0..whole).step_by(AT_ONCE) {
            let row = |i: usize| &w[(r + i) * k..(r + i + 1) * k];
            let sums = tile::<E, AT_ONCE, 1, FMA>([row(0), row(1), row(2), row(3)], [x]);
            for (y, s) in y[r..].iter_mut().zip(sums) {
                y[0] = s[0];
            }
        }
        for r in whole..y.len() {
            y[r][0] = tile::<E, 1, 1, FMA>([&w[r * k..(r + 1) * k]], [x])[0][0];
        }
        return;
    }
    for (r, y) in y.iter_mut().enumerate() {
        let row = [&w[r * k..(r + 1) * k]];
        let v = |i: usize| &x[i * k..(i + 1) * k];
        let mut i = 0;
        while m - i >= 4 {
            y[i..i + 4].copy_from_slice(&tile::<E, 1, 4, FMA>(row, [v(i), v(i + 1), v(i + 2), v(i + 3)])[0]);
            i += 4;
        }
        match m - i {
            3 => y[i..i + 3].copy_from_slice(&tile::<E, 1, 3, FMA>(row, [v(i), v(i + 1), v(i + 2)])[0]),
            2 => y[i..i + 2].copy_from_slice(&tile::<E, 1, 2, FMA>(row, [v(i), v(i + 1)])[0]),
            1 => y[i] = tile::<E, 1, 1, FMA>(row, [v(i)])[0][0],
            _ => {}
        }
    }
}

/// R rows of W and M vectors, all of one length: their dot products, lanes first, the tail added last.
#[inline(always)]
fn tile<E: Element, const R: usize, const M: usize, const FMA: bool>(
    w: [&[E::Raw]; R],
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    let k = x[0].len();
    let (w, x) = (w.map(|w| &w[..k]), x.map(|x| &x[..k]));
    let whole = k / LANES * LANES;
    let mut acc = [[[0f32; LANES]; M]; R];
    for p in (0..whole).step_by(LANES) {
        for r in 0..R {
            let mut wide = [0f32; LANES];
            let stored = &w[r][p..p + LANES];
            // Rows are too short for the processor to see that the next ones will be read: without this, half of
            // the memory's speed is lost.
            prefetch(stored, R * k);
            for i in 0..LANES {
                wide[i] = E::widen(stored[i]);
            }
            for m in 0..M {
                let x = &x[m][p..p + LANES];
                for i in 0..LANES {
                    acc[r][m][i] = fma::<FMA>(wide[i], x[i], acc[r][m][i]);
                }
            }
        }
    }
    let mut out = [[0f32; M]; R];
    for r in 0..R {
        for m in 0..M {
            let mut tail = 0f32;
            for p in whole..k {
                tail += E::widen(w[r][p]) * x[m][p];
            }
            out[r][m] = sum_lanes(acc[r][m]) + tail;
        }
    }
    out
}

simd_kernel! {
    /// Rows of f32 in place.
    pub fn floats(w: &[f32], x: &[f32], k: usize, y: &mut [[f32; FEW]]) {
        rows::<Plain, FMA>(w, x, k, y)
    }
}

simd_kernel! {
    /// Rows of f32 in bytes.
    pub fn f32_bytes(w: &[u8], x: &[f32], k: usize, y: &mut [[f32; FEW]]) {
        rows::<Single, FMA>(w.as_chunks().0, x, k, y)
    }
}

simd_kernel! {
    /// Rows of f16.
    pub fn f16_bytes(w: &[u8], x: &[f32], k: usize, y: &mut [[f32; FEW]]) {
        rows::<HalfPrecision, FMA>(w.as_chunks().0, x, k, y)
    }
}

simd_kernel! {
    /// Rows of bf16.
    pub fn bf16_bytes(w: &[u8], x: &[f32], k: usize, y: &mut [[f32; FEW]]) {
        rows::<Brain, FMA>(w.as_chunks().0, x, k, y)
    }
}

simd_kernel! {
    /// `y[row][i] += s·b[row]·t[i]`.
    pub fn add_low_rank(b: &[f32], t: &[f32], r: usize, scale: f32, y: &mut [[f32; FEW]]) {
        for (b, y) in b.chunks_exact(r).zip(y) {
            for (t, y) in t.chunks_exact(r).zip(y) {
                *y += scale * dot::<FMA>(b, t);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (HalfPrecision::widen(bits.to_le_bytes()), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:04x}: {got} {want}");
        }
    }
}
