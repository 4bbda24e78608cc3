//! CPU kernels on f32 slices. They run on the rayon pool of the caller (the engine installs its own),
//! give the same bits for the same thread count, and pick SIMD instructions at run time.
//!
//! Letters: `N` tokens, `C` hidden size, `H` heads, `D` head size, `V` vocabulary, `R` rank.

pub mod adamw;
pub mod attention;
pub mod blocks;
pub mod cache_attention;
pub mod capped_loss;
pub mod dora;
pub mod dots;
pub mod elementwise;
pub mod gemm;
pub mod loss;
pub mod loss_rows;
pub mod matvec;
pub mod norm;
pub mod peak;
pub mod product;
pub mod rope;
pub mod rounded;
pub mod simd;

use rayon::prelude::*;

/// Elements below which a loop is not worth handing to another thread.
const GRAIN: usize = 16 * 1024;

/// Runs `f(first_row, rows)` over `data` cut into runs of whole rows of `width`, in parallel when long.
pub(crate) fn for_rows(data: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if data.is_empty() || width == 0 {
        return;
    }
    let rows = data.len() / width;
    let per = (GRAIN / width).max(1);
    if rows <= per || rayon::current_num_threads() == 1 {
        return f(0, data);
    }
    data.par_chunks_mut(per * width).enumerate().for_each(|(i, rows)| f(i * per, rows));
}

/// A raw pointer that tasks may share because they write disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);
// SAFETY: each user documents which disjoint part of the slice a task touches.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer `offset` elements on. Only dereferenced under the promises of its users.
    pub(crate) fn at(self, offset: usize) -> Shared {
        Shared(self.0.wrapping_add(offset))
    }

    /// # Safety
    /// `start + len` lies within the slice the pointer came from, and no other task touches the part.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        std::slice::from_raw_parts_mut(self.0.add(start), len)
    }
}
