//! Operands cut into bf16 parts and laid out as the tiles read them: rows of a part by part, columns of b in pairs along
//! k.

use std::ops::Range;

use super::super::transpose::transpose_words;
use crate::kernels::cpu::gemm::View;
use crate::kernels::cpu::simd::simd_kernel;

/// Rows and columns of a block of the result.
pub(super) const BLOCK: usize = 32;
/// Stored rows that are turned into columns together.
pub(super) const AT_ONCE: usize = 8;

simd_kernel! {
    /// The three parts of each number.
    pub fn cut(x: &[f32], high: &mut [u16], middle: &mut [u16], low: &mut [u16]) {
        for (((&x, h), m), l) in x.iter().zip(high).zip(middle).zip(low) {
            let upper = x.to_bits() & 0xffff_0000;
            let rest = x - f32::from_bits(upper);
            let middle = rest.to_bits() & 0xffff_0000;
            let rest = rest - f32::from_bits(middle);
            (*h, *m, *l) = ((upper >> 16) as u16, (middle >> 16) as u16, (rest.to_bits() >> 16) as u16);
        }
    }
}

/// A number rounded to two parts of eight bits, in the upper halves of words: what is left is below 2^-18 of it, nothing
/// where it has 16 bits.
#[inline(always)]
fn in_two(x: f32) -> (u32, u32) {
    // Rounding would take the largest numbers to infinity, and some that are none to 0.
    let (bits, size) = (x.to_bits(), x.to_bits() & 0x7fff_ffff);
    let high = (if size < 0x7f00_0000 { bits + 0x8000 } else { bits }) & 0xffff_0000;
    // What is left of a number is far from both, and where it is none, cut off.
    (high, (x - f32::from_bits(high)).to_bits().wrapping_add(0x8000))
}

simd_kernel! {
    /// The two parts of each number.
    pub fn halve(x: &[f32], high: &mut [u16], low: &mut [u16]) {
        for ((&x, h), l) in x.iter().zip(high).zip(low) {
            let (upper, rest) = in_two(x);
            (*h, *l) = ((upper >> 16) as u16, (rest >> 16) as u16);
        }
    }
}

/// Columns p of some rows of a in two or three parts, one behind the other, `kc` numbers from row to row; zeros fill rows
/// and columns up.
pub(super) fn cut_rows(a: View, rows: Range<usize>, p: &Range<usize>, kc: usize, parts: &mut [u16]) {
    let (height, n) = (rows.len().next_multiple_of(BLOCK), p.len());
    let (high, rest) = parts.split_at_mut(height * kc);
    let (middle, low) = rest.split_at_mut(height * kc);
    for r in 0..height {
        let at = r * kc..r * kc + if r < rows.len() { n } else { 0 };
        let from = (rows.start + r) * a.rs + p.start;
        match at.len() {
            0 => (),
            _ if low.is_empty() => halve(&a.data[from..from + n], &mut high[at.clone()], &mut middle[at.clone()]),
            _ => cut(&a.data[from..from + n], &mut high[at.clone()], &mut middle[at.clone()], &mut low[at.clone()]),
        }
        for part in [&mut *high, &mut *middle, &mut *low] {
            if let Some(rest) = part.get_mut(at.end..(r + 1) * kc) {
                rest.fill(0);
            }
        }
    }
}

simd_kernel! {
    /// Pairs of neighbours along k from two stored rows, little endian.
    pub fn zip_rows(first: &[u8], second: &[u8], out: &mut [u16]) {
        for ((o, f), s) in out.chunks_exact_mut(2).zip(first.chunks_exact(2)).zip(second.chunks_exact(2)) {
            (o[0], o[1]) = (u16::from_le_bytes([f[0], f[1]]), u16::from_le_bytes([s[0], s[1]]));
        }
    }
}

/// A matrix `[k,n]` stored as it is: pair rows p, p+1 for each column.
pub(in crate::kernels::cpu::product) fn pairs_of_rows(
    (bits, rs): (&[u8], usize),
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
) {
    if p.len() < kc || j.len() < BLOCK {
        out.fill(0);
    }
    let row = |p: usize, j: Range<usize>| &bits[2 * (p * rs + j.start)..2 * (p * rs + j.end)];
    for (half, out) in out.chunks_exact_mut(16 * kc).enumerate() {
        let columns = j.start + 16 * half..(j.start + 16 * half + 16).min(j.end);
        if columns.is_empty() {
            continue;
        }
        for (q, out) in p.clone().step_by(2).zip(out.chunks_exact_mut(32)) {
            let out = &mut out[..2 * columns.len()];
            let first = row(q, columns.clone());
            match q + 1 < p.end {
                true => zip_rows(first, row(q + 1, columns.clone()), out),
                false => out.chunks_exact_mut(2).zip(first.chunks_exact(2)).for_each(|(o, f)| {
                    (o[0], o[1]) = (u16::from_le_bytes([f[0], f[1]]), 0);
                }),
            }
        }
    }
}

/// The transpose of a stored matrix `[n,k]`: the pairs of a column are neighbours in its stored row.
pub(in crate::kernels::cpu::product) fn pairs_of_columns(
    (bits, rs): (&[u8], usize),
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
) {
    if p.len() < kc || j.len() < BLOCK {
        out.fill(0);
    }
    for at in (0..j.len()).step_by(AT_ONCE) {
        let rows = AT_ONCE.min(j.len() - at);
        let from = &bits[2 * (j.start + at) * rs..];
        some_pairs_of_columns((from, rs), p.clone(), rows, &mut out[at / 16 * 16 * kc + at % 16 * 2..]);
    }
}

/// Of the first rows, at most [`AT_ONCE`], to pairs of a half panel that begins at `out`.
fn some_pairs_of_columns((bits, rs): (&[u8], usize), p: Range<usize>, rows: usize, out: &mut [u16]) {
    let done = match rows == AT_ONCE {
        // SAFETY: the units' processors have AVX2; the function checks the lengths.
        true => unsafe { transpose_words(&bits[2 * p.start..], 2 * rs, p.len() / 2, out) },
        false => 0,
    };
    for r in 0..rows {
        let row = &bits[2 * (r * rs + p.start)..2 * (r * rs + p.end)];
        for (q, pair) in row.chunks(4).enumerate().skip(done) {
            let number = |i: usize| pair.get(2 * i..2 * i + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            (out[32 * q + 2 * r], out[32 * q + 2 * r + 1]) = (number(0), number(1));
        }
    }
}

/// Reads elements of a stored row.
type Read<'a> = &'a dyn Fn(usize, Range<usize>, &mut [f32]);

simd_kernel! {
    /// Neighbours along k from two rows of f32, in both parts: a word of each part holds a pair.
    pub fn halve_pairs(first: &[f32], second: &[f32], high: &mut [u16], low: &mut [u16]) {
        let pairs = high.chunks_exact_mut(2).zip(low.chunks_exact_mut(2));
        for ((h, l), (&f, &s)) in pairs.zip(first.iter().zip(second)) {
            let ((fh, fl), (sh, sl)) = (in_two(f), in_two(s));
            (h[0], h[1]) = ((fh >> 16) as u16, (sh >> 16) as u16);
            (l[0], l[1]) = ((fl >> 16) as u16, (sl >> 16) as u16);
        }
    }
}

/// As [`pairs_of_rows`], of numbers that are read as f32: the panel's two parts.
pub(in crate::kernels::cpu::product) fn parts_of_rows(
    read: Read,
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
    _: &mut [f32],
) {
    if p.len() < kc || j.len() < BLOCK {
        out.fill(0);
    }
    let (high, low) = out.split_at_mut(BLOCK * kc);
    let mut rows = [[0f32; BLOCK]; 2];
    for (i, q) in p.clone().step_by(2).enumerate() {
        for (r, row) in rows.iter_mut().enumerate() {
            match q + r < p.end {
                true => read(q + r, j.clone(), &mut row[..j.len()]),
                // Behind the last row the pair's second is 0.
                false => row.fill(0.0),
            }
        }
        for half in [0, 16] {
            let at = half * kc + 32 * i..half * kc + 32 * i + 32;
            let [first, second] = [&rows[0][half..half + 16], &rows[1][half..half + 16]];
            halve_pairs(first, second, &mut high[at.clone()], &mut low[at]);
        }
    }
}

/// As [`pairs_of_columns`], of numbers that are read as f32: the panel's two parts.
pub(in crate::kernels::cpu::product) fn parts_of_columns(
    read: Read,
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
    space: &mut [f32],
) {
    let (row, rest) = space.split_at_mut(kc);
    // SAFETY: every bit pattern is a u16.
    let (_, words, _) = unsafe { rest.align_to_mut::<u16>() };
    let (high, low) = words[..2 * AT_ONCE * kc].split_at_mut(AT_ONCE * kc);
    row[p.len()..].fill(0.0);
    if j.len() < BLOCK {
        out.fill(0);
    }
    for at in (0..j.len()).step_by(AT_ONCE) {
        let rows = AT_ONCE.min(j.len() - at);
        for r in 0..rows {
            read(j.start + at + r, p.clone(), &mut row[..p.len()]);
            halve(row, &mut high[r * kc..(r + 1) * kc], &mut low[r * kc..(r + 1) * kc]);
        }
        for (part, out) in [&*high, &*low].into_iter().zip(out.chunks_exact_mut(BLOCK * kc)) {
            // SAFETY: a word is two bytes, little endian on these processors.
            let bytes = unsafe { part.align_to::<u8>().1 };
            some_pairs_of_columns((bytes, kc), 0..kc, rows, &mut out[at / 16 * 16 * kc + at % 16 * 2..]);
        }
    }
}
