//! Matrices as they are stored, brought into the order that tiles read: panels of some columns, one row of
//! the panel after the other.

use std::ops::Range;

use super::right::{Cut, Right, Share};
use super::transpose::{transpose, transpose_bf16, ROWS};

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
