//! Matrix products by the `gemm` crate over strided views. Products of one call are cut over the
//! pool's threads by output blocks, never along the inner dimension, so each output element is summed
//! in one order.
//!
//! A row of a product has the same bits whatever rows stand beside it: scores do not depend on how rows
//! are batched, and a split into micro-batches changes gradients by the order of a sum over tokens
//! alone. The crate's short cuts for small shapes sum in other orders, so small products that could take
//! one are padded with rows until they cannot (see `padded_rows`).

use super::Shared;

/// The rows a product needs so that the crate takes its general path and cuts the inner dimension as
/// for long batches: beyond 16·16 outputs, more than one row, and where k is cut (above 512) more than
/// 64 rows or columns.
fn padded_rows(m: usize, n: usize, k: usize) -> usize {
    let mut rows = m.max(2).max(256 / n + 1);
    if k > 512 && n <= 64 {
        rows = rows.max(65);
    }
    rows
}

/// A read-only matrix view: element (i, j) is `data[i·rs + j·cs]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Row stride.
    pub rs: usize,
    /// Column stride.
    pub cs: usize,
}

impl<'a> View<'a> {
    /// Row-major with `cols` columns.
    pub fn rows(data: &'a [f32], cols: usize) -> Self {
        View { data, rs: cols, cs: 1 }
    }

    /// The transpose of a row-major matrix with `cols` columns.
    pub fn transposed(data: &'a [f32], cols: usize) -> Self {
        View { data, rs: 1, cs: cols }
    }

    /// Whether the data hold a matrix of m rows and n columns.
    pub(crate) fn fits(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rs + (n - 1) * self.cs < self.data.len()
    }
}

/// `dst[m,n] (+)= alpha · a[m,k] · b[k,n]`; `dst` is row-major with row stride `dst_rs`.
///
/// # Panics
/// When a view is shorter than its shape: that would read beyond the slice.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    dst: &mut [f32],
    dst_rs: usize,
    accumulate: bool,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: View,
    b: View,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * dst_rs + n <= dst.len(), "gemm: destination too short");
    let rows = padded_rows(m, n, k);
    if rows > m && a.cs == 1 {
        assert!(a.fits(m, k), "gemm: operand too short");
        let mut padded = vec![0f32; rows * (k + n)];
        let (x, y) = padded.split_at_mut(rows * k);
        for (i, x) in x.chunks_exact_mut(k.max(1)).take(m).enumerate() {
            x.copy_from_slice(&a.data[i * a.rs..i * a.rs + k]);
        }
        for (i, y) in y.chunks_exact_mut(n).take(if accumulate { m } else { 0 }).enumerate() {
            y.copy_from_slice(&dst[i * dst_rs..i * dst_rs + n]);
        }
        // SAFETY: the padded destination holds `rows` rows of n.
        unsafe { gemm_raw(Shared(y.as_mut_ptr()), n, accumulate, (rows, n, k), alpha, View::rows(x, k), b) };
        for (i, y) in y.chunks_exact(n).take(m).enumerate() {
            dst[i * dst_rs..i * dst_rs + n].copy_from_slice(y);
        }
        return;
    }
    // SAFETY: the destination was checked above and is borrowed mutably.
    unsafe { gemm_raw(Shared(dst.as_mut_ptr()), dst_rs, accumulate, (m, n, k), alpha, a, b) }
}

/// As [`gemm()`] into a raw destination, for tasks that write disjoint columns of one matrix.
///
/// # Safety
/// `dst` points to a row-major matrix of `m` rows with stride `dst_rs` of which the first `n` columns
/// are this task's alone.
#[allow(clippy::too_many_arguments)]
unsafe fn gemm_raw(
    dst: Shared,
    dst_rs: usize,
    accumulate: bool,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: View,
    b: View,
) {
    assert!(a.fits(m, k) && b.fits(k, n), "gemm: operand too short for {m}x{n}x{k}");
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    gemm::gemm(
        m,
        n,
        k,
        dst.0,
        1,
        dst_rs as isize,
        accumulate,
        a.data.as_ptr(),
        a.cs as isize,
        a.rs as isize,
        b.data.as_ptr(),
        b.cs as isize,
        b.rs as isize,
        1.0,
        alpha,
        false,
        false,
        false,
        parallelism,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_bits_do_not_depend_on_its_company() {
        let key = crate::rng::Key::new(5, crate::rng::Stream::Bench, &[]);
        let fill =
            |n: usize, at: u64| -> Vec<f32> { (0..n).map(|i| key.uniform(at + i as u64) as f32 - 0.5).collect() };
        for (n, k) in [(16, 32), (16, 576), (4, 1536), (576, 1536), (64, 40), (3, 8), (1536, 576), (600, 16)] {
            let (x, w) = (fill(200 * k, 0), fill(n * k, 1 << 32));
            for (b, what) in [(View::transposed(&w, k), "x·wᵀ"), (View::rows(&w, n), "x·w")] {
                let mut all = vec![0f32; 200 * n];
                gemm(&mut all, n, false, (200, n, k), 1.0, View::rows(&x, k), b);
                for m in [1, 2, 3, 7, 16, 33, 64, 65, 100] {
                    let mut part = vec![0f32; m * n];
                    gemm(&mut part, n, false, (m, n, k), 1.0, View::rows(&x[5 * k..], k), b);
                    assert!(part == all[5 * n..(5 + m) * n], "{what} {m}x{n}x{k}");
                }
            }
        }
    }

    #[test]
    fn matches_the_definition_in_every_layout() {
        let (m, n, k) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| i as f32 * 0.5 - 3.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| 1.0 - i as f32 * 0.25).collect();
        let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
        let bt: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
        for (a, b) in [
            (View::rows(&a, k), View::rows(&b, n)),
            (View::transposed(&at, m), View::rows(&b, n)),
            (View::rows(&a, k), View::transposed(&bt, k)),
        ] {
            let mut dst = vec![1.0f32; m * (n + 2)];
            gemm(&mut dst, n + 2, true, (m, n, k), 2.0, a, b);
            for i in 0..m {
                for j in 0..n {
                    let want: f32 = 1.0
                        + 2.0 * (0..k).map(|p| a.data[i * a.rs + p * a.cs] * b.data[p * b.rs + j * b.cs]).sum::<f32>();
                    assert!((dst[i * (n + 2) + j] - want).abs() < 1e-4);
                }
                assert_eq!(dst[i * (n + 2) + n], 1.0, "columns beyond n stay");
            }
        }
    }
}
