//! What a product multiplies: its terms, the right operand that packs itself, and how operands are cut for the
//! processor's matrix units.

use std::ops::Range;

use crate::kernels::cpu::gemm::View;

/// In how many numbers of bf16 the elements of a and b are cut for the processor's matrix units. What is cut in three, and
/// what has no more bits than its parts, is the sum of its parts exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub(super) a: usize,
    pub(super) b: usize,
}

impl Cut {
    /// b is bf16 as it is stored: three products.
    pub const BF16: Cut = Cut { a: 3, b: 1 };
    /// b has at most 16 bits: five products, exact to 2^-24 of a term.
    pub const HALVES: Cut = Cut { a: 3, b: 2 };
    /// b is a code and its scale, a stand-in for a number that differs by percents: both are rounded to 16 bits, three
    /// products, exact to 2^-17 of a term.
    pub const BLOCKS: Cut = Cut { a: 2, b: 2 };

    /// Whether b is read as f32 and cut, which costs more than to copy it.
    pub(super) fn b_is_cut(&self) -> bool {
        self.b > 1
    }
}

/// The i-th of some shares of a range.
#[derive(Clone, Copy)]
pub struct Share {
    pub(super) i: usize,
    pub(super) of: usize,
}

impl Share {
    pub(super) fn of(self, range: Range<usize>) -> Range<usize> {
        let (start, n) = (range.start, range.len());
        start + self.i * n / self.of..start + (self.i + 1) * n / self.of
    }
}

/// One term of the sum.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// `a[m,k]`.
    pub a: View<'a>,
    /// k.
    pub k: usize,
    /// `b[k,n]`.
    pub b: &'a dyn Right,
    /// Factor.
    pub alpha: f32,
}

/// The right operand of a product, `b[k,n]`.
pub trait Right: Sync {
    /// Writes `b[p, j]` for p and j in these ranges to `out[(p − p.start)·width + (j − j.start)]`, with zeros
    /// where `width` is more than the columns. `row` is scratch for [`ROWS`](super::transpose::ROWS) rows of
    /// p's length rounded up to 8.
    fn pack(&self, p: Range<usize>, j: Range<usize>, width: usize, out: &mut [f32], row: &mut [f32]);

    /// The elements where they stand in f32, row-major, and the floats from row to row: for few rows of a,
    /// packing would cost more than it saves.
    fn in_place(&self) -> Option<(&[f32], usize)> {
        None
    }

    /// Asks for a share of what `pack` will read of `b[p, j]`: while one panel is multiplied, the next is on its way from
    /// memory.
    fn ask_for(&self, p: Range<usize>, j: Range<usize>, share: Share) {
        let _ = (p, j, share);
    }

    /// How operands are cut where the processor's matrix units are to be used: then `pack_pairs` works. `None` leaves
    /// it to the f32 tiles.
    fn cut(&self) -> Option<Cut> {
        None
    }

    /// Writes `b[p, j]` in bf16, part by part: for each 16 columns, for each pair along k, the 16 pairs; with zeros
    /// up to kc and to 32 columns. `space` has the floats of scratch that the units' module asks for.
    fn pack_pairs(&self, p: Range<usize>, j: Range<usize>, kc: usize, out: &mut [u16], space: &mut [f32]) {
        let _ = (p, j, kc, out, space);
    }
}
