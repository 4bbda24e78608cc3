//! Kernels of DoRA: columns of activations scaled by `f = m/‖W + s·B·A‖`, and m's gradient.

use rayon::prelude::*;

use super::elementwise::sum_squares;
use super::for_rows;
use super::simd::simd_kernel;

/// Columns whose sums a task of [`magnitude_gradient`] takes together.
const COLUMNS: usize = 64;

simd_kernel! {
    /// `y[n,C] = f[C]·x[n,C]`.
    pub fn scale_rows(y: &mut [f32], x: &[f32], f: &[f32]) {
        let c = f.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for ((y, &x), &f) in y.iter_mut().zip(x).zip(f) {
                *y = f * x;
            }
        }
    }
}

simd_kernel! {
    /// `sums[j] += Σ g[n,j]·z[n,j]` over the rows, for the columns that begin at `first`.
    pub fn column_sums(g: &[f32], z: &[f32], width: usize, first: usize, sums: &mut [f64]) {
        for (g, z) in g.chunks_exact(width).zip(z.chunks_exact(width)) {
            let part = first..first + sums.len();
            for ((s, &g), &z) in sums.iter_mut().zip(&g[part.clone()]).zip(&z[part]) {
                *s += (g * z) as f64;
            }
        }
    }
}

/// `y[N,C] = f[C]·x[N,C]`.
pub fn scale_columns(y: &mut [f32], x: &[f32], f: &[f32]) {
    for_rows(y, f.len(), |r0, y| {
        let at = r0 * f.len();
        scale_rows(y, &x[at..at + y.len()], f)
    });
}

/// `y[N,C] −= x[N,C]`.
pub fn subtract(y: &mut [f32], x: &[f32]) {
    for_rows(y, 1, |i, y| y.iter_mut().zip(&x[i..]).for_each(|(y, &x)| *y -= x));
}

/// `dm[C] += inv[C]·Σ g[N,C]·z[N,C]`, each sum in the order of the rows.
pub fn magnitude_gradient(dm: &mut [f32], g: &[f32], z: &[f32], inv: &[f32]) {
    let width = inv.len();
    dm.par_chunks_mut(COLUMNS).zip(inv.par_chunks(COLUMNS)).enumerate().for_each(|(i, (dm, inv))| {
        let mut sums = [0f64; COLUMNS];
        let sums = &mut sums[..dm.len()];
        column_sums(g, z, width, i * COLUMNS, sums);
        dm.iter_mut().zip(inv).zip(sums).for_each(|((d, &inv), s)| *d += (inv as f64 * *s) as f32);
    });
}

/// Euclidean norms of the rows of `v[n,C]`.
pub fn row_norms(v: &[f32], norms: &mut [f32]) {
    let width = v.len() / norms.len().max(1);
    let one = |(n, row): (&mut f32, &[f32])| *n = sum_squares(row).sqrt() as f32;
    norms.par_iter_mut().zip(v.par_chunks_exact(width.max(1))).for_each(one);
}
