//! The innermost loops: a tile of the result in registers, one per instruction set.

/// A matrix in memory: its first element, and the floats from row to row.
pub(super) type Left = (*const f32, usize);
type Out = (*mut f32, usize);

/// Computes `c[M,W] (+)= alpha · a[M,k] · b[k,W]` for the tile's M and W: k, a, b, c, whether to add, alpha.
pub(super) type Tile = unsafe fn(usize, Left, Left, Out, bool, f32);

/// Tiles of one width.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Columns of a tile.
    pub width: usize,
    /// Rows of the highest tile.
    pub rows: usize,
    /// Most terms of a sum between two roundings into the result: so many rows of a panel fill most of the
    /// first cache.
    pub deepest: usize,
    /// Tiles of every height that is used, the highest first; the last has one row.
    tiles: &'static [(usize, Tile)],
}

impl Kernel {
    /// The highest tile that `rows` fill.
    pub fn tile(&self, rows: usize) -> (usize, Tile) {
        *self.tiles.iter().find(|(height, _)| *height <= rows).unwrap_or(&self.tiles[self.tiles.len() - 1])
    }
}

/// The machine's kernel for results of `n` columns.
pub(super) fn kernel(n: usize) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        use super::super::simd::{level, Level};
        let (wide, narrow) = match level() {
            Level::Avx512 | Level::Vnni => (
                Kernel { width: 64, rows: 6, deepest: 192, tiles: avx512::WIDE },
                Kernel { width: 16, rows: 24, deepest: 192, tiles: avx512::NARROW },
            ),
            Level::Avx2 => (
                Kernel { width: 16, rows: 6, deepest: 320, tiles: avx2::WIDE },
                Kernel { width: 8, rows: 12, deepest: 320, tiles: avx2::NARROW },
            ),
            Level::Base => {
                let kernel = Kernel { width: 8, rows: 4, deepest: 512, tiles: plain::WIDE };
                (kernel, kernel)
            }
        };
        if n <= narrow.width {
            narrow
        } else {
            wide
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = n;
        #[cfg(target_arch = "aarch64")]
        return Kernel { width: 16, rows: 6, deepest: 320, tiles: neon::WIDE };
        #[cfg(not(target_arch = "aarch64"))]
        return Kernel { width: 8, rows: 4, deepest: 512, tiles: plain::WIDE };
    }
}

/// Terms of the sum that are taken together: about equal runs, and a function of k alone, since it decides bits.
pub(super) fn depth(k: usize, most: usize) -> usize {
    k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(8).clamp(8, most)
}

/// Defines the tiles of an instruction set: `V` vectors of `LANES` floats wide, M rows high. Each element is
/// one chain of fused multiply-adds over k, whatever the height, so heights do not decide bits.
macro_rules! tiles {
    ($(#[$m:meta])* $features:literal, $lanes:literal, $zero:expr, $load:expr, $splat:expr, $fma:expr, $mul:expr, $add:expr, $store:expr) => {
        $(#[$m])*
        #[target_feature(enable = $features)]
        pub unsafe fn tile<const M: usize, const V: usize>(
            k: usize,
            (a, a_rs): super::Left,
            (b, b_rs): super::Left,
            (c, c_rs): super::Out,
            add: bool,
            alpha: f32,
        ) {
            let mut sums = [[$zero; V]; M];
            let mut b = b;
            for p in 0..k {
                let mut right = [$zero; V];
                for v in 0..V {
                    right[v] = $load(b.add(v * $lanes));
                }
                for i in 0..M {
                    let left = $splat(*a.add(i * a_rs + p));
                    for v in 0..V {
                        sums[i][v] = $fma(left, right[v], sums[i][v]);
                    }
                }
                b = b.wrapping_add(b_rs);
            }
            let alpha = $splat(alpha);
            for i in 0..M {
                for v in 0..V {
                    let at = c.add(i * c_rs + v * $lanes);
                    let value = $mul(alpha, sums[i][v]);
                    $store(at, if add { $add($load(at), value) } else { value });
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    tiles!(
        "avx512f",
        16,
        _mm512_setzero_ps(),
        |p| _mm512_loadu_ps(p),
        |x| _mm512_set1_ps(x),
        |a, b, c| _mm512_fmadd_ps(a, b, c),
        |a, b| _mm512_mul_ps(a, b),
        |a, b| _mm512_add_ps(a, b),
        |p, v| _mm512_storeu_ps(p, v)
    );

    pub const WIDE: &[(usize, super::Tile)] =
        &[(6, tile::<6, 4>), (4, tile::<4, 4>), (2, tile::<2, 4>), (1, tile::<1, 4>)];
    pub const NARROW: &[(usize, super::Tile)] =
        &[(24, tile::<24, 1>), (12, tile::<12, 1>), (6, tile::<6, 1>), (3, tile::<3, 1>), (1, tile::<1, 1>)];
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    tiles!(
        "avx2,fma",
        8,
        _mm256_setzero_ps(),
        |p| _mm256_loadu_ps(p),
        |x| _mm256_set1_ps(x),
        |a, b, c| _mm256_fmadd_ps(a, b, c),
        |a, b| _mm256_mul_ps(a, b),
        |a, b| _mm256_add_ps(a, b),
        |p, v| _mm256_storeu_ps(p, v)
    );

    pub const WIDE: &[(usize, super::Tile)] =
        &[(6, tile::<6, 2>), (4, tile::<4, 2>), (2, tile::<2, 2>), (1, tile::<1, 2>)];
    pub const NARROW: &[(usize, super::Tile)] =
        &[(12, tile::<12, 1>), (6, tile::<6, 1>), (3, tile::<3, 1>), (1, tile::<1, 1>)];
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    tiles!(
        "neon",
        4,
        vdupq_n_f32(0.0),
        |p| vld1q_f32(p),
        |x| vdupq_n_f32(x),
        |a, b, c| vfmaq_f32(c, a, b),
        |a, b| vmulq_f32(a, b),
        |a, b| vaddq_f32(a, b),
        |p, v| vst1q_f32(p, v)
    );

    pub const WIDE: &[(usize, super::Tile)] =
        &[(6, tile::<6, 4>), (4, tile::<4, 4>), (2, tile::<2, 4>), (1, tile::<1, 4>)];
}

/// Without vectors that are known; on x86-64 the compiler makes SSE2 of it.
#[cfg(not(target_arch = "aarch64"))]
mod plain {
    const W: usize = 8;

    unsafe fn tile<const M: usize>(
        k: usize,
        (a, a_rs): super::Left,
        (b, b_rs): super::Left,
        (c, c_rs): super::Out,
        add: bool,
        alpha: f32,
    ) {
        let mut sums = [[0f32; W]; M];
        for p in 0..k {
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = *a.add(i * a_rs + p);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum += left * *b.add(p * b_rs + j);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let at = c.add(i * c_rs + j);
                *at = if add { *at + alpha * sum } else { alpha * sum };
            }
        }
    }

    pub const WIDE: &[(usize, super::Tile)] = &[(4, tile::<4>), (2, tile::<2>), (1, tile::<1>)];
}
