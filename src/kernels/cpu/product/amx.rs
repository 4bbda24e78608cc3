//! Products with bf16 weights on the matrix units of Intel's server processors (AMX, Linux).
//!
//! The units multiply bf16 by bf16 into f32. A weight stored in bf16 is exact there; an activation is cut into
//! three numbers of eight bits each, `x = h + m + l` exactly, and the three products are summed: m and l
//! first, so that their sum is rounded at its own small size and the whole has no more rounding than a chain
//! of f32 multiply-adds. Three passes at sixteen times the rate leave a factor of about five.
//!
//! A weight that is no bf16, as those of GGUF's blocks are, is cut alike, in two or three parts, exactly: five or six
//! products instead of three.
//!
//! A block of the result has 32 rows and 32 columns, four tiles of 16 × 16; two more tiles hold rows of a,
//! two hold columns of b, in pairs along k.

use std::arch::asm;
use std::ops::Range;

use super::super::simd::simd_kernel;
use super::super::Shared;
use super::pack::transpose_words;
use super::{depth, Right, View};

/// Rows and columns of a block of the result.
pub(super) const BLOCK: usize = 32;
/// Most terms of a sum in a run, and the rows of a that are cut at once: their parts stay in the second cache. A b of
/// several parts is packed at greater cost, so that more rows pass by it.
const DEEPEST: [usize; 2] = [640, 288];
const ROWS: [usize; 2] = [256, 512];

/// Whether this process may use the units; asks the system for them the first time.
pub fn available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(detect)
}

fn detect() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // The leaf with the feature bits; AMX-BF16 and AMX-TILE; AVX-512 F, BW and VL, which these processors have.
    const UNITS: u32 = 1 << 22 | 1 << 24;
    const AVX512: u32 = 1 << 16 | 1 << 30 | 1 << 31;
    if __cpuid(0).eax < 7 || !is_x86_feature_detected!("avx512f") {
        return false;
    }
    let leaf = __cpuid_count(7, 0);
    if leaf.edx & UNITS != UNITS || leaf.ebx & AVX512 != AVX512 {
        return false;
    }
    // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Linux gives the tiles to a process that asks.
    let (mut answer, request, feature) = (158i64, 0x1023u64, 18u64);
    // SAFETY: a system call that reads and writes no memory of ours.
    unsafe {
        asm!("syscall", inout("rax") answer, in("rdi") request, in("rsi") feature,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer == 0
}

/// Floats of scratch for rows of a and panels of b, for k terms and b in so many parts.
pub(super) fn scratch_floats(m: usize, k: usize, parts: usize) -> usize {
    // Three parts of two bytes, a panel of b, a block of the result.
    let rows = m.min(ROWS[(parts > 1) as usize]).next_multiple_of(BLOCK);
    let deepest = run_depth(k, parts);
    (3 * rows * deepest + parts * BLOCK * deepest).div_ceil(2) + BLOCK * BLOCK + packing_floats(deepest, parts)
}

/// Floats of scratch in which a panel of b is cut in parts.
fn packing_floats(deepest: usize, parts: usize) -> usize {
    // A row in f32, and three parts of the panel, two bytes each.
    match parts {
        1 => 0,
        _ => deepest + (3 * BLOCK * deepest).div_ceil(2),
    }
}

/// Terms of a sum that are taken together; a function of k and of how b is stored.
fn run_depth(k: usize, parts: usize) -> usize {
    depth(k, DEEPEST[(parts > 1) as usize]).next_multiple_of(BLOCK)
}

/// Shape of the tiles, as the processor wants to be told: eight of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The units set up on this thread; given back on drop, so that the system need not save the tiles.
struct Tiles;

impl Tiles {
    /// # Safety
    /// [`available`] is true.
    unsafe fn new() -> Tiles {
        asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly));
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles to give back.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Where a task writes.
pub(super) struct Target {
    pub out: Shared,
    pub dst_rs: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// `dst (+)= a·b` for a task's rows and columns. `space` has [`scratch_floats`] for them.
///
/// # Safety
/// [`available`] is true, and the rows and columns of the target are this task's alone.
pub(super) unsafe fn term(t: &Target, a: View, k: usize, b: &dyn Right, add: bool, space: &mut [f32]) {
    let _tiles = Tiles::new();
    let b_parts = b.parts();
    let (deepest, most) = (run_depth(k, b_parts), ROWS[(b_parts > 1) as usize]);
    let (result, rest) = space.split_at_mut(BLOCK * BLOCK);
    let (packing, rest) = rest.split_at_mut(packing_floats(deepest, b_parts));
    let (_, words, _) = rest.align_to_mut::<u16>();
    let rows_held = t.rows.len().min(most).next_multiple_of(BLOCK);
    let (parts, panel) = words.split_at_mut(3 * rows_held * deepest);
    for r0 in t.rows.clone().step_by(most) {
        let rows = r0..(r0 + most).min(t.rows.end);
        let mut add = add;
        for p0 in (0..k).step_by(deepest) {
            let p = p0..(p0 + deepest).min(k);
            let kc = p.len().next_multiple_of(BLOCK);
            let part = rows.len().next_multiple_of(BLOCK) * kc;
            let (high, rest) = parts.split_at_mut(part);
            let (middle, low) = rest.split_at_mut(part);
            cut_rows(a, rows.clone(), &p, kc, (high, middle, &mut low[..part]));
            for j in t.columns.clone().step_by(BLOCK) {
                let columns = j..(j + BLOCK).min(t.columns.end);
                b.pack_pairs(p.clone(), columns.clone(), kc, &mut panel[..b_parts * BLOCK * kc], packing);
                for i in (0..rows.len()).step_by(BLOCK) {
                    let height = BLOCK.min(rows.len() - i);
                    let whole = height == BLOCK && columns.len() == BLOCK;
                    let at = t.out.at((rows.start + i) * t.dst_rs + j);
                    let from = i * kc;
                    let left = [high[from..].as_ptr(), middle[from..].as_ptr(), low[from..].as_ptr()];
                    if whole && !add {
                        block(left, (panel.as_ptr(), b_parts), kc, at.0, t.dst_rs);
                        continue;
                    }
                    block(left, (panel.as_ptr(), b_parts), kc, result.as_mut_ptr(), BLOCK);
                    for (r, row) in result.chunks_exact(BLOCK).take(height).enumerate() {
                        let out = at.slice(r * t.dst_rs, columns.len());
                        match add {
                            true => out.iter_mut().zip(row).for_each(|(o, v)| *o += v),
                            false => out.copy_from_slice(&row[..out.len()]),
                        }
                    }
                }
            }
            add = true;
        }
    }
}

/// One block of the result: the small parts first. Of products of parts, those below 2^-24 of the largest are left
/// out.
///
/// # Safety
/// The tiles are set up; each part of a has 32 rows of kc numbers, each part of the panel two runs of kc/2 rows of 16
/// pairs, and 32 rows of 32 floats can be written at `c`.
unsafe fn block(a: [*const u16; 3], (b, b_parts): (*const u16, usize), kc: usize, c: *mut f32, c_rs: usize) {
    let [high, middle, low] = a;
    let a_rs = 2 * kc;
    let second = 16 * kc;
    asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
    for p in (0..kc).step_by(BLOCK) {
        let (b0, b1) = (b.add(16 * p), b.add(second + 16 * p));
        asm!(
            "tileloadd tmm6, [{b0} + {b_rs}]",
            "tileloadd tmm7, [{b1} + {b_rs}]",
            "tileloadd tmm4, [{l0} + {a_rs}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{l1} + {a_rs}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{m0} + {a_rs}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{m1} + {a_rs}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            b0 = in(reg) b0, b1 = in(reg) b1, b_rs = in(reg) 64usize, a_rs = in(reg) a_rs,
            l0 = in(reg) low.add(p), l1 = in(reg) low.add(16 * kc + p),
            m0 = in(reg) middle.add(p), m1 = in(reg) middle.add(16 * kc + p),
            options(nostack, readonly),
        );
        if b_parts == 1 {
            continue;
        }
        // The middle rows of a are still loaded.
        let (c0, c1) = (b0.add(32 * kc), b1.add(32 * kc));
        asm!(
            "tileloadd tmm6, [{c0} + {b_rs}]",
            "tileloadd tmm7, [{c1} + {b_rs}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{h0} + {a_rs}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{h1} + {a_rs}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            c0 = in(reg) c0, c1 = in(reg) c1, b_rs = in(reg) 64usize, a_rs = in(reg) a_rs,
            h0 = in(reg) high.add(p), h1 = in(reg) high.add(16 * kc + p),
            options(nostack, readonly),
        );
        if b_parts == 2 {
            continue;
        }
        asm!(
            "tileloadd tmm6, [{d0} + {b_rs}]",
            "tileloadd tmm7, [{d1} + {b_rs}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            d0 = in(reg) c0.add(32 * kc), d1 = in(reg) c1.add(32 * kc), b_rs = in(reg) 64usize,
            options(nostack, readonly),
        );
    }
    for p in (0..kc).step_by(BLOCK) {
        let (b0, b1) = (b.add(16 * p), b.add(second + 16 * p));
        asm!(
            "tileloadd tmm6, [{b0} + {b_rs}]",
            "tileloadd tmm4, [{h0} + {a_rs}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {b_rs}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{h1} + {a_rs}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            b0 = in(reg) b0, b1 = in(reg) b1, b_rs = in(reg) 64usize, a_rs = in(reg) a_rs,
            h0 = in(reg) high.add(p), h1 = in(reg) high.add(16 * kc + p),
            options(nostack, readonly),
        );
    }
    asm!(
        "tilestored [{c0} + {c_rs}], tmm0",
        "tilestored [{c1} + {c_rs}], tmm1",
        "tilestored [{c2} + {c_rs}], tmm2",
        "tilestored [{c3} + {c_rs}], tmm3",
        c0 = in(reg) c, c1 = in(reg) c.add(16), c2 = in(reg) c.add(16 * c_rs), c3 = in(reg) c.add(16 * c_rs + 16),
        c_rs = in(reg) 4 * c_rs,
        options(nostack),
    );
}

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

/// Columns p of some rows of a in three parts, `kc` numbers from row to row; zeros fill rows and columns up.
fn cut_rows(a: View, rows: Range<usize>, p: &Range<usize>, kc: usize, out: (&mut [u16], &mut [u16], &mut [u16])) {
    let (high, middle, low) = out;
    let parts = high.chunks_exact_mut(kc).zip(middle.chunks_exact_mut(kc)).zip(low.chunks_exact_mut(kc));
    for (i, ((h, m), l)) in parts.enumerate() {
        if i >= rows.len() {
            [h, m, l].into_iter().for_each(|part| part.fill(0));
            continue;
        }
        let from = (rows.start + i) * a.rs + p.start;
        let n = p.len();
        cut(&a.data[from..from + n], &mut h[..n], &mut m[..n], &mut l[..n]);
        [h, m, l].into_iter().for_each(|part| part[n..].fill(0));
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
pub(super) fn pairs_of_rows((bits, rs): (&[u8], usize), p: Range<usize>, j: Range<usize>, kc: usize, out: &mut [u16]) {
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
pub(super) fn pairs_of_columns(
    (bits, rs): (&[u8], usize),
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
) {
    if p.len() < kc || j.len() < BLOCK {
        out.fill(0);
    }
    let words = p.len() / 2;
    for at in (0..j.len()).step_by(8) {
        let out = &mut out[at / 16 * 16 * kc + at % 16 * 2..];
        let first = 2 * ((j.start + at) * rs + p.start);
        let done = match at + 8 <= j.len() {
            // SAFETY: the units' processors have AVX2; the function checks the lengths.
            true => unsafe { transpose_words(&bits[first..], 2 * rs, words, out) },
            false => 0,
        };
        for r in 0..8.min(j.len() - at) {
            let row = &bits[first + 2 * r * rs..first + 2 * r * rs + 2 * p.len()];
            for (q, pair) in row.chunks(4).enumerate().skip(done) {
                let number = |i: usize| pair.get(2 * i..2 * i + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
                (out[32 * q + 2 * r], out[32 * q + 2 * r + 1]) = (number(0), number(1));
            }
        }
    }
}

/// Reads elements of a stored row.
type Read<'a> = &'a dyn Fn(usize, Range<usize>, &mut [f32]);

/// Rows in three parts on a scratch: first the f32 of a row, then the parts, each of `rows` rows of `cols` words.
struct Cutting<'a> {
    row: &'a mut [f32],
    parts: [&'a mut [u16]; 3],
    cols: usize,
}

impl<'a> Cutting<'a> {
    fn new(space: &'a mut [f32], rows: usize, cols: usize) -> Cutting<'a> {
        let (row, rest) = space.split_at_mut(cols);
        // SAFETY: every bit pattern is a u16.
        let (_, words, _) = unsafe { rest.align_to_mut::<u16>() };
        let (high, rest) = words.split_at_mut(rows * cols);
        let (middle, low) = rest.split_at_mut(rows * cols);
        Cutting { row, parts: [high, middle, &mut low[..rows * cols]], cols }
    }

    /// Cuts what `read` writes into row `r`, whose rest becomes 0.
    fn cut(&mut self, r: usize, n: usize, read: impl FnOnce(&mut [f32])) {
        if n > 0 {
            read(&mut self.row[..n]);
        }
        self.row[n..].fill(0.0);
        let at = r * self.cols..(r + 1) * self.cols;
        let [high, middle, low] = &mut self.parts;
        cut(self.row, &mut high[at.clone()], &mut middle[at.clone()], &mut low[at]);
    }

    /// A part's words as bytes.
    fn bytes(&self, part: usize) -> &[u8] {
        // SAFETY: a word is two bytes, little endian on these processors.
        unsafe { self.parts[part].align_to::<u8>().1 }
    }
}

/// As [`pairs_of_rows`], of numbers that are read as f32: all parts of the panel, as many as `out` holds.
pub(super) fn parts_of_rows(
    read: Read,
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
    space: &mut [f32],
) {
    let mut cutting = Cutting::new(space, 2, BLOCK);
    if p.len() < kc {
        out.fill(0);
    }
    for (i, q) in p.clone().step_by(2).enumerate() {
        for r in 0..2 {
            // Behind the last row the pair's second is 0.
            let n = if q + r < p.end { j.len() } else { 0 };
            cutting.cut(r, n, |row| read(q + r, j.start..j.start + row.len(), row));
        }
        for (part, out) in out.chunks_exact_mut(BLOCK * kc).enumerate() {
            let (first, second) = cutting.bytes(part).split_at(2 * BLOCK);
            zip_rows(&first[..32], &second[..32], &mut out[32 * i..32 * i + 32]);
            zip_rows(&first[32..], &second[32..], &mut out[16 * kc + 32 * i..16 * kc + 32 * i + 32]);
        }
    }
}

/// As [`pairs_of_columns`], of numbers that are read as f32: all parts of the panel, as many as `out` holds.
pub(super) fn parts_of_columns(
    read: Read,
    p: Range<usize>,
    j: Range<usize>,
    kc: usize,
    out: &mut [u16],
    space: &mut [f32],
) {
    let mut cutting = Cutting::new(space, BLOCK, kc);
    for r in 0..BLOCK {
        let n = if r < j.len() { p.len() } else { 0 };
        cutting.cut(r, n, |row| read(j.start + r, p.start..p.start + row.len(), row));
    }
    for (part, out) in out.chunks_exact_mut(BLOCK * kc).enumerate() {
        pairs_of_columns((cutting.bytes(part), kc), 0..kc, 0..BLOCK, kc, out);
    }
}
