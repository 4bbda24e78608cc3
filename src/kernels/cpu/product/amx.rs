//! Products with bf16 weights on the matrix units of Intel's server processors (AMX, Linux).
//!
//! The units multiply bf16 by bf16 into f32. A weight stored in bf16 is exact there; an activation is cut into
//! three numbers of eight bits each, `x = h + m + l` exactly, and the three products are summed: m and l
//! first, so that their sum is rounded at its own small size and the whole has no more rounding than a chain
//! of f32 multiply-adds. Three passes at sixteen times the rate leave a factor of about five.
//!
//! A weight that is no bf16 is cut in two: five products for halves, exactly. For the blocks of GGUF both operands are
//! rounded to two parts, and three products are left.
//!
//! A block of the result has 32 rows and 32 columns, four tiles of 16 × 16; two more tiles hold rows of a,
//! two hold columns of b, in pairs along k.

use std::arch::asm;
use std::ops::Range;

use super::super::simd::simd_kernel;
use super::super::Shared;
use super::pack::transpose_words;
use super::{depth, Cut, Right, Share, View};

/// Rows and columns of a block of the result.
pub(super) const BLOCK: usize = 32;
/// Most terms of a sum in a run, and the rows of a that are cut at once: their parts stay in the second cache. A b that
/// is cut is packed at greater cost, so that more rows pass by it.
fn deepest_and_rows(cut: Cut) -> (usize, usize) {
    match cut {
        Cut::BF16 => (640, 256),
        Cut::BLOCKS => (448, 512),
        _ => (288, 512),
    }
}

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

/// Floats of scratch for rows of a and panels of b, for k terms.
pub(super) fn scratch_floats(m: usize, k: usize, cut: Cut) -> usize {
    let rows = m.min(deepest_and_rows(cut).1).next_multiple_of(BLOCK);
    let deepest = run_depth(k, cut);
    // Parts of two bytes, a panel of b, a block of the result.
    (cut.a * rows * deepest + cut.b * BLOCK * deepest).div_ceil(2) + BLOCK * BLOCK + packing_floats(deepest, cut)
}

/// Floats of scratch in which a panel of b is cut.
fn packing_floats(deepest: usize, cut: Cut) -> usize {
    // A row in f32, and both parts of the panel, two bytes each.
    if cut.b_is_cut() {
        deepest + BLOCK * deepest
    } else {
        0
    }
}

/// Terms of a sum that are taken together; a function of k and of how b is stored.
fn run_depth(k: usize, cut: Cut) -> usize {
    depth(k, deepest_and_rows(cut).0).next_multiple_of(BLOCK)
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
pub(super) unsafe fn term(t: &Target, a: View, k: usize, b: (&dyn Right, Cut), add: bool, space: &mut [f32]) {
    let _tiles = Tiles::new();
    let (b, cut) = b;
    let (deepest, most) = (run_depth(k, cut), deepest_and_rows(cut).1);
    let (result, rest) = space.split_at_mut(BLOCK * BLOCK);
    let (packing, rest) = rest.split_at_mut(packing_floats(deepest, cut));
    let (_, words, _) = rest.align_to_mut::<u16>();
    let rows_held = t.rows.len().min(most).next_multiple_of(BLOCK);
    let (parts, panel) = words.split_at_mut(cut.a * rows_held * deepest);
    for r0 in t.rows.clone().step_by(most) {
        let rows = r0..(r0 + most).min(t.rows.end);
        let mut add = add;
        for p0 in (0..k).step_by(deepest) {
            let p = p0..(p0 + deepest).min(k);
            let kc = p.len().next_multiple_of(BLOCK);
            let part = rows.len().next_multiple_of(BLOCK) * kc;
            cut_rows(a, rows.clone(), &p, kc, &mut parts[..cut.a * part]);
            for j in t.columns.clone().step_by(BLOCK) {
                let columns = j..(j + BLOCK).min(t.columns.end);
                let panel = &mut panel[..cut.b * BLOCK * kc];
                b.pack_pairs(p.clone(), columns.clone(), kc, panel, packing);
                // The next panel: of the next columns, or of the next run.
                let next = match columns.end < t.columns.end {
                    true => (p.clone(), columns.end..(columns.end + BLOCK).min(t.columns.end)),
                    false => {
                        (p.end..(p.end + deepest).min(k), t.columns.start..t.columns.end.min(t.columns.start + BLOCK))
                    }
                };
                for i in (0..rows.len()).step_by(BLOCK) {
                    let share = Share { i: i / BLOCK, of: rows.len().div_ceil(BLOCK) };
                    b.ask_for(next.0.clone(), next.1.clone(), share);
                    let height = BLOCK.min(rows.len() - i);
                    let whole = height == BLOCK && columns.len() == BLOCK;
                    let at = t.out.at((rows.start + i) * t.dst_rs + j);
                    let left = (parts[i * kc..].as_ptr(), part);
                    // Where rounding to 16 bits hides it, the sum goes on in the tiles.
                    let onto = add && cut == Cut::BLOCKS;
                    if whole && (onto || !add) {
                        block(left, panel.as_ptr(), cut, kc, (at.0, t.dst_rs), onto);
                        continue;
                    }
                    let rows = || (0..height).map(|r| at.slice(r * t.dst_rs, columns.len()));
                    if onto {
                        result.chunks_exact_mut(BLOCK).zip(rows()).for_each(|(r, o)| r[..o.len()].copy_from_slice(o));
                    }
                    block(left, panel.as_ptr(), cut, kc, (result.as_mut_ptr(), BLOCK), onto);
                    for (out, row) in rows().zip(result.chunks_exact(BLOCK)) {
                        match add && !onto {
                            true => add_row(&row[..out.len()], out),
                            false => out.copy_from_slice(&row[..out.len()]),
                        }
                    }
                }
            }
            add = true;
        }
    }
}

/// One block of the result, or of what it grows by: the small parts first. Products of parts that are as small as what
/// the cuts leave out are left out, too.
///
/// # Safety
/// The tiles are set up; each part of a has 32 rows of kc numbers and lies `part` numbers behind the one before, each
/// part of b two runs of kc/2 rows of 16 pairs, and 32 rows of 32 floats can be written at `c`, and are there where the
/// block is added `onto` them.
unsafe fn block(
    (high, part): (*const u16, usize),
    b: *const u16,
    cut: Cut,
    kc: usize,
    (c, c_rs): (*mut f32, usize),
    onto: bool,
) {
    let (middle, low) = (high.wrapping_add(part), high.wrapping_add(2 * part));
    let a_rs = 2 * kc;
    let second = 16 * kc;
    let [c0, c1, c2, c3] = [0, 16, 16 * c_rs, 16 * c_rs + 16].map(|at| c.add(at));
    if onto {
        asm!(
            "tileloadd tmm0, [{c0} + {c_rs}]",
            "tileloadd tmm1, [{c1} + {c_rs}]",
            "tileloadd tmm2, [{c2} + {c_rs}]",
            "tileloadd tmm3, [{c3} + {c_rs}]",
            c0 = in(reg) c0, c1 = in(reg) c1, c2 = in(reg) c2, c3 = in(reg) c3, c_rs = in(reg) 4 * c_rs,
            options(nostack, readonly),
        );
    } else {
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
    }
    for p in (0..kc).step_by(BLOCK) {
        let (b0, b1) = (b.add(16 * p), b.add(second + 16 * p));
        asm!(
            "tileloadd tmm6, [{b0} + {b_rs}]",
            "tileloadd tmm7, [{b1} + {b_rs}]",
            b0 = in(reg) b0, b1 = in(reg) b1, b_rs = in(reg) 64usize,
            options(nostack, readonly),
        );
        if cut.a == 3 {
            rows_by_loaded(low.add(p), low.add(16 * kc + p), a_rs);
        }
        rows_by_loaded(middle.add(p), middle.add(16 * kc + p), a_rs);
        if cut.b == 1 {
            continue;
        }
        asm!(
            "tileloadd tmm6, [{c0} + {b_rs}]",
            "tileloadd tmm7, [{c1} + {b_rs}]",
            c0 = in(reg) b0.add(32 * kc), c1 = in(reg) b1.add(32 * kc), b_rs = in(reg) 64usize,
            options(nostack, readonly),
        );
        if cut.a == 3 {
            // The middle rows of a are still loaded.
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem),
            );
        }
        rows_by_loaded(high.add(p), high.add(16 * kc + p), a_rs);
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
        c0 = in(reg) c0, c1 = in(reg) c1, c2 = in(reg) c2, c3 = in(reg) c3, c_rs = in(reg) 4 * c_rs,
        options(nostack),
    );
}

/// Loads 32 rows of a and adds their products with the columns of b that are loaded.
///
/// # Safety
/// As of [`block`]; from either pointer on there are 16 rows of 32 numbers, `a_rs` bytes from row to row.
#[inline(always)]
unsafe fn rows_by_loaded(first: *const u16, second: *const u16, a_rs: usize) {
    asm!(
        "tileloadd tmm4, [{first} + {a_rs}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{second} + {a_rs}]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
        first = in(reg) first, second = in(reg) second, a_rs = in(reg) a_rs,
        options(nostack, readonly),
    );
}

simd_kernel! {
    /// `out += row`.
    pub fn add_row(row: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += v);
    }
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
fn cut_rows(a: View, rows: Range<usize>, p: &Range<usize>, kc: usize, parts: &mut [u16]) {
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
pub(super) fn parts_of_rows(read: Read, p: Range<usize>, j: Range<usize>, kc: usize, out: &mut [u16], _: &mut [f32]) {
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
pub(super) fn parts_of_columns(
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
    let (high, low) = words.split_at_mut(BLOCK * kc);
    row[p.len()..].fill(0.0);
    for r in 0..j.len() {
        read(j.start + r, p.clone(), &mut row[..p.len()]);
        halve(row, &mut high[r * kc..(r + 1) * kc], &mut low[r * kc..(r + 1) * kc]);
    }
    for (part, out) in [&*high, &*low].into_iter().zip(out.chunks_exact_mut(BLOCK * kc)) {
        // SAFETY: a word is two bytes, little endian on these processors.
        let bytes = unsafe { part[..j.len() * kc].align_to::<u8>().1 };
        pairs_of_columns((bytes, kc), 0..kc, 0..j.len(), kc, out);
    }
}
