//! Where there are no matrix units that we know: the same words as `amx.rs`, never asked to compute.

use std::ops::Range;

use super::super::Shared;
use super::right::{Cut, Right, Share};
use crate::kernels::cpu::gemm::View;

pub fn available() -> bool {
    false
}

pub(super) fn scratch_floats(_m: usize, _k: usize, _cut: Cut) -> usize {
    0
}

pub(super) fn most_scratch_floats(_m: usize, _k: usize, _cut: Cut) -> usize {
    0
}

pub(super) struct Target {
    pub out: Shared,
    pub dst_rs: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// # Safety
/// None is needed: it panics, since nobody may call it.
pub(super) unsafe fn term(t: &Target, _a: View, _k: usize, (b, _): (&dyn Right, Cut), _add: bool, _space: &mut [f32]) {
    let Target { out, dst_rs, rows, columns } = t;
    b.ask_for(rows.clone(), columns.clone(), Share { i: 0, of: 1 });
    b.pack_pairs(rows.clone(), columns.clone(), 0, &mut [], &mut []);
    unreachable!("matrix units that are not there: {:?} {dst_rs}", out.0);
}

pub(super) fn pairs_of_rows(_: (&[u8], usize), _: Range<usize>, _: Range<usize>, _: usize, _: &mut [u16]) {}

pub(super) fn pairs_of_columns(_: (&[u8], usize), _: Range<usize>, _: Range<usize>, _: usize, _: &mut [u16]) {}

type Read<'a> = &'a dyn Fn(usize, Range<usize>, &mut [f32]);

pub(super) fn parts_of_rows(_: Read, _: Range<usize>, _: Range<usize>, _: usize, _: &mut [u16], _: &mut [f32]) {}

pub(super) fn parts_of_columns(_: Read, _: Range<usize>, _: Range<usize>, _: usize, _: &mut [u16], _: &mut [f32]) {}
