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

mod parts;

use std::arch::asm;
use std::ops::Range;

use super::super::simd::simd_kernel;
use super::super::Shared;
use super::right::{Cut, Right, Share};
use super::tile::depth;
use crate::kernels::cpu::gemm::View;
use parts::{cut_rows, AT_ONCE, BLOCK};
pub(super) use parts::{pairs_of_columns, pairs_of_rows, parts_of_columns, parts_of_rows};

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

/// Bytes of rows of a that are cut for the whole sum where they are so few: with a panel of b they stay in the second
/// cache, and a column of the result is finished at once.
const HELD: usize = 5 << 18;

/// Floats of scratch for rows of a and panels of b, for k terms.
pub(super) fn scratch_floats(m: usize, k: usize, cut: Cut) -> usize {
    let rows = m.min(deepest_and_rows(cut).1).next_multiple_of(BLOCK);
    let deepest = run_depth(k, cut);
    // Parts of two bytes, a panel of b, a block of the result.
    (cut.a * rows * held_depth(m, k, cut) + cut.b * BLOCK * deepest).div_ceil(2)
        + BLOCK * BLOCK
        + packing_floats(deepest, cut)
}

/// No less than [`scratch_floats`] of up to `m` rows and up to k terms.
pub(super) fn most_scratch_floats(m: usize, k: usize, cut: Cut) -> usize {
    let ((deepest, most), k) = (deepest_and_rows(cut), k.next_multiple_of(BLOCK));
    let (rows, deepest) = (m.min(most).next_multiple_of(BLOCK), deepest.min(k));
    let held = (cut.a * rows * k).min(HELD / 2).max(cut.a * rows * deepest);
    (held + cut.b * BLOCK * deepest).div_ceil(2) + BLOCK * BLOCK + packing_floats(deepest, cut)
}

/// For how many terms rows of a are cut at once.
fn held_depth(m: usize, k: usize, cut: Cut) -> usize {
    let (deepest, most) = (run_depth(k, cut), deepest_and_rows(cut).1);
    let whole = k.next_multiple_of(BLOCK).max(deepest);
    match m <= most && 2 * cut.a * m.next_multiple_of(BLOCK) * whole <= HELD {
        true => whole,
        false => deepest,
    }
}

/// Floats of scratch in which a panel of b is cut.
fn packing_floats(deepest: usize, cut: Cut) -> usize {
    // A row in f32, and both parts of some rows, two bytes each.
    if cut.b_is_cut() {
        deepest + AT_ONCE * deepest
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
    let held = held_depth(t.rows.len(), k, cut);
    let (result, rest) = space.split_at_mut(BLOCK * BLOCK);
    let (packing, rest) = rest.split_at_mut(packing_floats(deepest, cut));
    let (_, words, _) = rest.align_to_mut::<u16>();
    let rows_held = t.rows.len().min(most).next_multiple_of(BLOCK);
    let (parts, panel) = words.split_at_mut(cut.a * rows_held * held);
    let mut work = Work { t, b, cut, panel, packing, result };
    let run = |p0: usize| p0..(p0 + deepest).min(k);
    let panels = || t.columns.clone().step_by(BLOCK).map(|j| j..(j + BLOCK).min(t.columns.end));
    for r0 in t.rows.clone().step_by(most) {
        let rows = r0..(r0 + most).min(t.rows.end);
        let height = rows.len().next_multiple_of(BLOCK);
        let runs = || (0..k).step_by(deepest).map(run);
        // Where a run's parts lie: behind one another, or all at the same place.
        let at = |p: &Range<usize>| if held > deepest { cut.a * height * p.start } else { 0 };
        let part = |p: &Range<usize>, parts: &mut [u16]| {
            let kc = p.len().next_multiple_of(BLOCK);
            cut_rows(a, rows.clone(), p, kc, &mut parts[at(p)..][..cut.a * height * kc]);
        };
        if held > deepest {
            runs().for_each(|p| part(&p, parts));
            for j in panels() {
                for p in runs() {
                    let next = match p.end < k {
                        true => (run(p.end), j.clone()),
                        false => (run(0), j.end..(j.end + BLOCK).min(t.columns.end)),
                    };
                    work.panel((&rows, &p, &j), &parts[at(&p)..], add || p.start > 0, next);
                }
            }
        } else {
            for p in runs() {
                part(&p, parts);
                for j in panels() {
                    let next = match j.end < t.columns.end {
                        true => (p.clone(), j.end..(j.end + BLOCK).min(t.columns.end)),
                        false => (run(p.end), t.columns.start..t.columns.end.min(t.columns.start + BLOCK)),
                    };
                    work.panel((&rows, &p, &j), parts, add || p.start > 0, next);
                }
            }
        }
    }
}

/// What a task works with.
struct Work<'a> {
    t: &'a Target,
    b: &'a dyn Right,
    cut: Cut,
    /// Columns of b in parts: in the first cache while rows pass by.
    panel: &'a mut [u16],
    packing: &'a mut [f32],
    /// A block of the result that is not written where it belongs at once.
    result: &'a mut [f32],
}

impl Work<'_> {
    /// The run p of the sums of some rows and columns; `parts` are those of the rows, and `next` is the panel after it.
    ///
    /// # Safety
    /// The tiles are set up, and the rows and columns are of this task.
    unsafe fn panel(
        &mut self,
        (rows, p, j): (&Range<usize>, &Range<usize>, &Range<usize>),
        parts: &[u16],
        add: bool,
        next: (Range<usize>, Range<usize>),
    ) {
        let Work { t, b, cut, .. } = *self;
        let kc = p.len().next_multiple_of(BLOCK);
        let part = rows.len().next_multiple_of(BLOCK) * kc;
        assert!(parts.len() >= cut.a * part && self.result.len() >= BLOCK * BLOCK);
        let panel = &mut self.panel[..cut.b * BLOCK * kc];
        b.pack_pairs(p.clone(), j.clone(), kc, panel, self.packing);
        for i in (0..rows.len()).step_by(BLOCK) {
            let share = Share { i: i / BLOCK, of: rows.len().div_ceil(BLOCK) };
            b.ask_for(next.0.clone(), next.1.clone(), share);
            let height = BLOCK.min(rows.len() - i);
            let whole = height == BLOCK && j.len() == BLOCK;
            let at = t.out.at((rows.start + i) * t.dst_rs + j.start);
            let left = (parts[i * kc..].as_ptr(), part);
            // Where rounding to 16 bits hides it, the sum goes on in the tiles.
            let onto = add && cut == Cut::BLOCKS;
            if whole && (onto || !add) {
                block(left, panel.as_ptr(), cut, kc, (at.0, t.dst_rs), onto);
                continue;
            }
            let rows = || (0..height).map(|r| at.slice(r * t.dst_rs, j.len()));
            let result = &mut *self.result;
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
    let at = |part: *const u16, p: usize| [part.wrapping_add(p), part.wrapping_add(16 * kc + p)];
    let columns = |part: usize, p: usize| {
        let first = b.wrapping_add(part * 32 * kc + 16 * p);
        [first, first.wrapping_add(16 * kc)]
    };
    if cut == Cut::BLOCKS {
        // What is rounded to 16 bits need not be summed by size, so that the tiles that are loaded serve again.
        for p in (0..kc).step_by(BLOCK) {
            load_columns(columns(1, p));
            load_rows(at(high, p), a_rs);
            multiply();
            load_columns(columns(0, p));
            multiply();
            load_rows(at(middle, p), a_rs);
            multiply();
        }
    } else {
        for p in (0..kc).step_by(BLOCK) {
            load_columns(columns(0, p));
            load_rows(at(low, p), a_rs);
            multiply();
            load_rows(at(middle, p), a_rs);
            multiply();
            if cut.b == 2 {
                load_columns(columns(1, p));
                multiply();
                load_rows(at(high, p), a_rs);
                multiply();
            }
        }
        for p in (0..kc).step_by(BLOCK) {
            load_columns(columns(0, p));
            load_rows(at(high, p), a_rs);
            multiply();
        }
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

/// Loads the next 32 terms of 32 rows of a, half by half, `a_rs` bytes from row to row.
///
/// # Safety
/// As of [`block`]; from either pointer on there are 16 rows of 32 numbers.
#[inline(always)]
unsafe fn load_rows([first, second]: [*const u16; 2], a_rs: usize) {
    asm!(
        "tileloadd tmm4, [{first} + {a_rs}]",
        "tileloadd tmm5, [{second} + {a_rs}]",
        first = in(reg) first, second = in(reg) second, a_rs = in(reg) a_rs,
        options(nostack, readonly),
    );
}

/// Loads the next 32 terms of 32 columns of b, half by half.
///
/// # Safety
/// As of [`block`]; from either pointer on there are 16 rows of 16 pairs.
#[inline(always)]
unsafe fn load_columns([first, second]: [*const u16; 2]) {
    asm!(
        "tileloadd tmm6, [{first} + {b_rs}]",
        "tileloadd tmm7, [{second} + {b_rs}]",
        first = in(reg) first, second = in(reg) second, b_rs = in(reg) 64usize,
        options(nostack, readonly),
    );
}

/// Adds the products of the rows and the columns that are loaded.
///
/// # Safety
/// The tiles are set up.
#[inline(always)]
unsafe fn multiply() {
    asm!(
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
        options(nostack, nomem),
    );
}

simd_kernel! {
    /// `out += row`.
    pub fn add_row(row: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += v);
    }
}
