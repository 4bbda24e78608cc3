//! Products with frozen weights: `dst[m,n] (+)= Σ alpha · a[m,k] · b[k,n]` over a few terms, where b is a
//! matrix as it is stored (bf16, f16, f32), or the transpose of one.
//!
//! A task packs a panel of b, converted on the way, into the first cache and multiplies it at once: the weights
//! are read as they are stored, and nothing as large as a matrix is written. The low-rank term of an adapter
//! goes in as one more term, so that it costs its operations and no product of its own.
//!
//! Each element of the result is one sum over k, in runs that are a function of k alone, whatever its place: a
//! row has the same bits alone as in company, on one thread as on many.

#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "no_units.rs")]
mod amx;
mod pack;
mod right;
mod tile;
mod transpose;

use std::ops::{DerefMut, Range};

use rayon::prelude::*;

use super::gemm::View;
use super::Shared;
pub use pack::{Columns, Plain, Rows, Stored};
pub use right::{Cut, Right, Term};
use tile::depth;

/// Rows of a that are taken together: with a run of k they stay in the second cache.
const ROWS: usize = 512;
/// Runs of work for each thread: more even out threads that are disturbed, but copy a more often.
const RUNS: usize = 2;
/// What packing a panel costs, in rows of a that could pass by it instead; and where its numbers are cut.
const PACKING: [usize; 2] = [24, 160];
/// Up to so many tiles of rows, b is read where it stands instead of packed.
const FEW: usize = 2;

/// `dst[m,n] (+)=` the sum of the terms; `dst` is row-major with `dst_rs` floats from row to row. `scratch`
/// lends buffers to the tasks.
///
/// # Panics
/// When `dst` or an `a` is shorter than its shape.
pub fn product<B: DerefMut<Target = [f32]>>(
    dst: &mut [f32],
    dst_rs: usize,
    accumulate: bool,
    (m, n): (usize, usize),
    terms: &[Term],
    scratch: impl Fn(usize) -> B + Sync,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * dst_rs + n <= dst.len(), "product: destination too short");
    assert!(m == 1 || dst_rs >= n, "product: rows of the destination overlap");
    for t in terms {
        assert!(t.k == 0 || t.a.fits(m, t.k), "product: operand too short");
        let b = t.b.in_place();
        assert!(b.is_none_or(|(b, rs)| t.k == 0 || (t.k - 1) * rs + n <= b.len()), "product: operand too short");
    }
    let kernel = tile::kernel(n);
    let units = |t: &Term| t.b.cut().is_some() && amx::available() && t.a.cs == 1 && t.alpha == 1.0;
    let cut = terms.iter().filter(|t| units(t)).filter_map(|t| t.b.cut()).max_by_key(Cut::b_is_cut);
    let shape = Cuts::new(m, n, &kernel, cut);
    let out = Shared(dst.as_mut_ptr());
    let run = |i: usize| {
        let mut space = scratch(shape.scratch(terms));
        assert!(space.len() >= shape.scratch(terms), "product: scratch too short");
        for (rows, columns) in shape.parts(i) {
            let mut add = accumulate;
            for t in terms {
                if let Some(cut) = t.b.cut().filter(|_| units(t)) {
                    let target = amx::Target { out, dst_rs, rows: rows.clone(), columns: columns.clone() };
                    // SAFETY: b says so only where the units are available; parts do not overlap.
                    unsafe { amx::term(&target, t.a, t.k, (t.b, cut), add, &mut space) };
                    add |= t.k > 0;
                    continue;
                }
                let stride = depth(t.k, kernel.deepest) + 16;
                let (panel, rest) = space.split_at_mut(kernel.deepest * kernel.width);
                let (row, rest) = rest.split_at_mut(transpose::ROWS * kernel.deepest);
                let (edge, copied) = rest.split_at_mut(kernel.rows * kernel.width);
                let mut work = Work { kernel, out, dst_rs, columns: columns.clone(), panel, copied, stride, row, edge };
                for first in rows.clone().step_by(ROWS) {
                    work.run(first..(first + ROWS).min(rows.end), t, add);
                }
                add |= t.k > 0;
            }
            if !add {
                for i in rows {
                    // SAFETY: rows and columns of this part alone, within dst.
                    unsafe { out.slice(i * dst_rs + columns.start, columns.len()).fill(0.0) };
                }
            }
        }
    };
    if shape.runs == 1 {
        run(0);
    } else {
        (0..shape.runs).into_par_iter().with_max_len(1).for_each(run);
    }
}

/// How a product is cut over the threads: the panels of columns for the first part of the rows, then those for
/// the next, in runs of about equal length.
struct Cuts {
    m: usize,
    n: usize,
    /// Columns of a panel.
    width: usize,
    panels: usize,
    row_cuts: usize,
    runs: usize,
}

impl Cuts {
    fn new(m: usize, n: usize, kernel: &tile::Kernel, cut: Option<Cut>) -> Cuts {
        // The units are so fast that to cut a row in parts costs as much as a hundred columns of the product.
        let (width, height, runs, per_row) = match cut {
            Some(_) => (32, 32, 1, 3),
            None => (kernel.width, kernel.rows, RUNS, 0),
        };
        let packing = PACKING[cut.is_some_and(|c| c.b_is_cut()) as usize];
        let (panels, threads) = (n.div_ceil(width), rayon::current_num_threads());
        // For each part of the rows every panel is packed again, but few panels do not keep all threads busy.
        let seconds = |cuts: usize| {
            let columns = (panels * cuts).div_ceil(threads) + per_row * cuts.div_ceil(threads);
            columns * (m.div_ceil(cuts) + packing)
        };
        let row_cuts = (1..=threads.min(m.div_ceil(height))).min_by_key(|&cuts| seconds(cuts)).unwrap_or(1);
        let runs = if threads == 1 { 1 } else { (runs * threads).min(panels * row_cuts) };
        Cuts { m, n, width, panels, row_cuts, runs }
    }

    /// The rows and columns of run `i`.
    fn parts(&self, i: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let units = self.panels * self.row_cuts;
        let (mut unit, end) = (i * units / self.runs, (i + 1) * units / self.runs);
        std::iter::from_fn(move || {
            if unit >= end {
                return None;
            }
            let (part, first) = (unit / self.panels, unit % self.panels);
            let last = self.panels.min(first + end - unit);
            unit += last - first;
            let rows = part * self.m / self.row_cuts..(part + 1) * self.m / self.row_cuts;
            Some((rows, first * self.width..(last * self.width).min(self.n)))
        })
    }

    /// Floats of scratch for a run.
    fn scratch(&self, terms: &[Term]) -> usize {
        // Fewer rows may be held for more terms.
        let rows = [self.m.div_ceil(self.row_cuts), self.m / self.row_cuts];
        let each = terms.iter().flat_map(|t| rows.map(|rows| term_scratch(rows, t.k, t.b.cut())));
        each.max().unwrap_or(0)
    }
}

/// Floats of scratch for a term with `k` summands and `m` rows.
fn term_scratch(m: usize, k: usize, cut: Option<Cut>) -> usize {
    let kernel = tile::kernel(usize::MAX);
    let tiles = kernel.deepest * (kernel.width + transpose::ROWS)
        + kernel.rows * kernel.width
        + m.min(ROWS) * (depth(k, kernel.deepest) + 16);
    cut.map_or(tiles, |cut| tiles.max(amx::scratch_floats(m, k, cut)))
}

/// Whether the machine has matrix units for products with bf16 weights.
pub fn units_available() -> bool {
    amx::available()
}

/// Most floats of scratch that a thread takes for a product of up to `m` rows and `k` terms.
pub fn scratch_floats(m: usize, k: usize) -> usize {
    let cuts = if units_available() { &[Cut::BF16, Cut::HALVES, Cut::BLOCKS][..] } else { &[] };
    let tiles = term_scratch(m, k.min(tile::kernel(usize::MAX).deepest), None);
    cuts.iter().map(|&cut| amx::most_scratch_floats(m, k, cut)).fold(tiles, usize::max)
}

/// What a task computes: no other task writes these columns in its rows.
struct Work<'a> {
    kernel: tile::Kernel,
    out: Shared,
    dst_rs: usize,
    columns: Range<usize>,
    /// Some columns of b: in the first cache while rows of a pass by.
    panel: &'a mut [f32],
    /// The rows of a, `stride` floats from row to row.
    copied: &'a mut [f32],
    stride: usize,
    row: &'a mut [f32],
    edge: &'a mut [f32],
}

impl Work<'_> {
    fn run(&mut self, rows: Range<usize>, t: &Term, mut add: bool) {
        let depth = depth(t.k, self.kernel.deepest);
        for p0 in (0..t.k).step_by(depth) {
            self.part(t, p0..(p0 + depth).min(t.k), rows.clone(), add);
            add = true;
        }
    }

    /// The part p of a term's sum for some rows.
    fn part(&mut self, t: &Term, p: Range<usize>, rows: Range<usize>, add: bool) {
        let (w, kc, columns) = (self.kernel.width, p.len(), self.columns.clone());
        let in_place = t.b.in_place().filter(|_| rows.len() <= FEW * self.kernel.rows);
        // Rows are copied where many columns pass by them, or where rows at such distances would fall on one
        // another in the first cache.
        let (left, left_rs) = if t.a.cs == 1 && columns.len() <= 2 * w && !t.a.rs.is_multiple_of(256) {
            (t.a.data[rows.start * t.a.rs + p.start..].as_ptr(), t.a.rs)
        } else {
            copy_rows(t.a, rows.clone(), &p, self.copied, self.stride);
            (self.copied.as_ptr(), self.stride)
        };
        for j in columns.clone().step_by(w) {
            let valid = w.min(columns.end - j);
            let (right, right_rs) = match in_place {
                Some((b, rs)) if valid == w => (b[p.start * rs + j..].as_ptr(), rs),
                _ => {
                    t.b.pack(p.clone(), j..j + valid, w, &mut self.panel[..kc * w], self.row);
                    (self.panel.as_ptr(), w)
                }
            };
            let mut i = 0;
            while i < rows.len() {
                let (height, tile) = self.kernel.tile(rows.len() - i);
                let left = left.wrapping_add(i * left_rs);
                let at = self.out.at((rows.start + i) * self.dst_rs + j);
                // SAFETY: from `left` on there are `height` rows of kc floats: of a, whose length was checked,
                // or of its copy. From `right` on there are kc rows of w floats: of b, whose length was checked,
                // or of the panel. The tile writes `height` rows of w floats: to dst where so many are valid,
                // else to `edge`.
                unsafe {
                    if valid == w {
                        tile(kc, (left, left_rs), (right, right_rs), (at.0, self.dst_rs), add, t.alpha);
                    } else {
                        tile(kc, (left, left_rs), (right, right_rs), (self.edge.as_mut_ptr(), w), false, t.alpha);
                        for (r, edge) in self.edge.chunks_exact(w).take(height).enumerate() {
                            for (d, &v) in at.slice(r * self.dst_rs, valid).iter_mut().zip(edge) {
                                *d = if add { *d + v } else { v };
                            }
                        }
                    }
                }
                i += height;
            }
        }
    }
}

/// The machine's tiles for callers that lay out their operands themselves.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(tile::Kernel);

/// Floats of the largest tile of any kernel.
const TILE: usize = 24 * 16;

impl Tiles {
    /// For results of `n` columns.
    pub fn new(n: usize) -> Tiles {
        Tiles(tile::kernel(n))
    }

    /// Columns of a panel.
    pub fn width(&self) -> usize {
        self.0.width
    }

    /// `out[rows, valid] (+)= alpha · left[rows, k] · right[k, width]`, each as pointer and floats from row to row.
    ///
    /// # Safety
    /// The operands have these shapes; `out` can be written for `rows` rows of `valid` ≤ width floats and is
    /// nobody else's.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn panel(
        &self,
        (rows, k, valid): (usize, usize, usize),
        left: tile::Left,
        right: tile::Left,
        out: (*mut f32, usize),
        add: bool,
        alpha: f32,
    ) {
        let w = self.0.width;
        let mut i = 0;
        while i < rows {
            let (height, tile) = self.0.tile(rows - i);
            let (a, c) = (left.0.add(i * left.1), out.0.add(i * out.1));
            if valid == w {
                tile(k, (a, left.1), right, (c, out.1), add, alpha);
            } else {
                debug_assert!(height * w <= TILE);
                let mut edge = [0f32; TILE];
                tile(k, (a, left.1), right, (edge.as_mut_ptr(), w), false, alpha);
                for (r, edge) in edge.chunks_exact(w).take(height).enumerate() {
                    let row = std::slice::from_raw_parts_mut(c.add(r * out.1), valid);
                    row.iter_mut().zip(edge).for_each(|(d, &v)| *d = if add { *d + v } else { v });
                }
            }
            i += height;
        }
    }
}

/// Columns p of some rows of a, `stride` floats from row to row.
fn copy_rows(a: View, rows: Range<usize>, p: &Range<usize>, out: &mut [f32], stride: usize) {
    for (i, out) in rows.zip(out.chunks_exact_mut(stride)) {
        let from = i * a.rs + p.start * a.cs;
        let out = &mut out[..p.len()];
        if a.cs == 1 {
            out.copy_from_slice(&a.data[from..from + p.len()]);
        } else {
            out.iter_mut().zip(a.data[from..].iter().step_by(a.cs)).for_each(|(o, &v)| *o = v);
        }
    }
}

#[cfg(test)]
mod tests;
