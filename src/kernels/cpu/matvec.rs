//! Products of a few vectors with a matrix as it is stored: `y[m,n] = x[m,k]·W[n,k]ᵀ + s·t[m,R]·B[n,R]ᵀ`. A step
//! of generation is bound by the reading of the weights, so each is read once, where it stands, and nothing is
//! written but y.
//!
//! Tasks are runs of rows of W. An element of y is one sum in lanes over k, whatever stands beside it: a vector
//! has the same bits alone as in company, on one thread as on many.

use rayon::prelude::*;

use super::blocks::{self, Block};
use super::dots::{add_low_rank, bf16_bytes, f16_bytes, f32_bytes, floats, Rounded, AT_ONCE, FEW};
use super::rounded;
use super::Shared;

/// Bytes of W below which a call, or a task of one, is not worth handing to another thread.
const GRAIN: usize = 32 * 1024;
/// Tasks for each thread: more even out threads that are disturbed.
const TASKS: usize = 4;

/// The rows of W, one after the other, as they are stored: numbers in bytes are little endian, at any alignment.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// f32 in place.
    Floats(&'a [f32]),
    /// f32 in bytes.
    F32(&'a [u8]),
    /// f16 in bytes.
    F16(&'a [u8]),
    /// bf16 in bytes.
    Bf16(&'a [u8]),
    /// ggml's blocks; `rounded` multiplies them with vectors rounded to eight bits, where there is a kernel for it.
    Blocks {
        /// Their kind.
        block: Block,
        /// The blocks.
        bytes: &'a [u8],
        /// See [`rounded`].
        rounded: bool,
    },
}

/// Which element of y a stored row makes: rows may stand in another order than they are counted in.
pub type Place<'a> = &'a (dyn Fn(usize) -> usize + Sync);

impl Source<'_> {
    fn elements(&self) -> usize {
        match self {
            Source::Floats(w) => w.len(),
            Source::F32(w) => w.len() / 4,
            Source::F16(w) | Source::Bf16(w) => w.len() / 2,
            Source::Blocks { block, bytes, .. } => bytes.len() / block.bytes() * block.numbers(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Source::Floats(w) => size_of_val(*w),
            Source::F32(w) | Source::F16(w) | Source::Bf16(w) => w.len(),
            Source::Blocks { bytes, .. } => bytes.len(),
        }
    }

    /// `y[m, rows] = x[m,k]·W[rows,k]ᵀ`.
    fn dots(&self, rows: std::ops::Range<usize>, x: &[f32], k: usize, y: &mut [[f32; FEW]]) {
        let part = |size: usize| rows.start * k * size..rows.end * k * size;
        match self {
            Source::Floats(w) => floats(&w[part(1)], x, k, y),
            Source::F32(w) => f32_bytes(&w[part(4)], x, k, y),
            Source::F16(w) => f16_bytes(&w[part(2)], x, k, y),
            Source::Bf16(w) => bf16_bytes(&w[part(2)], x, k, y),
            Source::Blocks { block, bytes, .. } => {
                let size = block.bytes_of(k);
                let mut wide = vec![0f32; AT_ONCE * k];
                for (rows, y) in
                    bytes[rows.start * size..rows.end * size].chunks(AT_ONCE * size).zip(y.chunks_mut(AT_ONCE))
                {
                    for (row, wide) in rows.chunks_exact(size).zip(wide.chunks_exact_mut(k)) {
                        blocks::read(*block, row, 0..k, wide);
                    }
                    floats(&wide[..y.len() * k], x, k, y);
                }
            }
        }
    }
}

/// The low-rank term of an adapter.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// B `[n,R]`.
    pub b: &'a [f32],
    /// R.
    pub r: usize,
    /// `t[m,R]`.
    pub t: &'a [f32],
    /// s.
    pub scale: f32,
}

/// `y[m,n]` of `x[m,k]` and `W[n,k]`, m at most [`FEW`]. Row r of W makes `y[_, place(r)]`, each place once, and B
/// stands in the order of the places.
///
/// # Panics
/// When an operand has another length than its shape says, or a place is beyond n.
pub fn product(
    w: Source,
    place: Option<Place>,
    (m, n, k): (usize, usize, usize),
    x: &[f32],
    low: Option<LowRank>,
    y: &mut [f32],
) {
    assert!(m <= FEW && x.len() == m * k && y.len() == m * n && w.elements() == n * k, "matvec: {m}x{n}x{k}");
    if let Some(l) = &low {
        assert!(l.b.len() == n * l.r && l.t.len() == m * l.r, "matvec: low-rank term of {m}x{n}x{}", l.r);
    }
    let rounded: Option<Box<dyn Rounded>> = match w {
        Source::Blocks { block, bytes, rounded: true } => rounded::of(block, bytes, x, k),
        _ => None,
    };
    let out = Shared(y.as_mut_ptr());
    let run = |rows: std::ops::Range<usize>| {
        // Results of some rows at a time, so that they stay where they are made.
        let mut part = [[0f32; FEW]; 16];
        for first in rows.clone().step_by(part.len()) {
            let here = first..(first + part.len()).min(rows.end);
            let part = &mut part[..here.len()];
            match &rounded {
                Some(r) => r.dots(here.clone(), part),
                None => w.dots(here.clone(), x, k, part),
            }
            if let Some(place) = place {
                for (row, sums) in here.zip(part) {
                    let at = place(row);
                    assert!(at < n, "matvec: a place beyond the result");
                    if let Some(l) = &low {
                        let b = &l.b[at * l.r..(at + 1) * l.r];
                        add_low_rank(b, l.t, l.r, l.scale, std::slice::from_mut(sums));
                    }
                    // SAFETY: this column is made of this row alone, and lies within y.
                    (0..m).for_each(|i| unsafe { out.slice(i * n + at, 1)[0] = sums[i] });
                }
                continue;
            }
            if let Some(l) = &low {
                add_low_rank(&l.b[here.start * l.r..here.end * l.r], l.t, l.r, l.scale, part);
            }
            for i in 0..m {
                // SAFETY: these columns of row i are this task's alone, within y.
                let y = unsafe { out.slice(i * n + here.start, here.len()) };
                y.iter_mut().zip(part.iter()).for_each(|(y, row)| *y = row[i]);
            }
        }
    };
    let tasks = (w.bytes() / GRAIN).min(TASKS * rayon::current_num_threads());
    if tasks < 2 || rayon::current_num_threads() == 1 {
        return run(0..n);
    }
    let rows = n.div_ceil(tasks).next_multiple_of(AT_ONCE);
    let task = |i: usize| run((i * rows).min(n)..((i + 1) * rows).min(n));
    (0..n.div_ceil(rows)).into_par_iter().with_max_len(1).for_each(task);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Stream};
    use half::{bf16, f16};

    fn fill(n: usize, at: u64) -> Vec<f32> {
        let key = Key::new(11, Stream::Bench, &[at]);
        (0..n as u64).map(|i| key.uniform(i) as f32 - 0.5).collect()
    }

    fn bytes<const N: usize>(w: &[f32], store: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
        // One byte in front, so that nothing is aligned.
        std::iter::once(0).chain(w.iter().flat_map(|&v| store(v))).collect()
    }

    fn run(threads: usize, f: impl FnOnce() + Send) {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    }

    #[test]
    fn every_storage_and_shape_gives_the_sum_of_its_definition() {
        for (n, k) in [(1, 1), (3, 16), (5, 40), (64, 33), (301, 576), (40, 1536)] {
            let (w, x, b, t) = (fill(n * k, 1), fill(FEW * k, 2), fill(n * 5, 3), fill(FEW * 5, 4));
            let (single, half, brain) = (
                bytes(&w, f32::to_le_bytes),
                bytes(&w, |v| f16::from_f32(v).to_le_bytes()),
                bytes(&w, |v| bf16::from_f32(v).to_le_bytes()),
            );
            let rounded = |f: &dyn Fn(f32) -> f32| w.iter().map(|&v| f(v)).collect::<Vec<_>>();
            for (source, w) in [
                (Source::Floats(&w), w.clone()),
                (Source::F32(&single[1..]), w.clone()),
                (Source::F16(&half[1..]), rounded(&|v| f16::from_f32(v).to_f32())),
                (Source::Bf16(&brain[1..]), rounded(&|v| bf16::from_f32(v).to_f32())),
            ] {
                for low in [false, true] {
                    let mut alone = vec![0f32; n];
                    for m in 1..=FEW {
                        let low = low.then_some(LowRank { b: &b, r: 5, t: &t[..5 * m], scale: 1.5 });
                        let mut y = vec![f32::NAN; m * n];
                        run(3, || product(source, None, (m, n, k), &x[..m * k], low, &mut y));
                        for i in 0..m {
                            for j in 0..n {
                                let dot = |a: &[f32], b: &[f32]| -> (f64, f64) {
                                    let terms = a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64);
                                    terms.fold((0.0, 0.0), |(s, size), t| (s + t, size + t.abs()))
                                };
                                let (mut want, mut size) = dot(&w[j * k..(j + 1) * k], &x[i * k..(i + 1) * k]);
                                if low.is_some() {
                                    let (l, s) = dot(&b[j * 5..(j + 1) * 5], &t[i * 5..(i + 1) * 5]);
                                    (want, size) = (want + 1.5 * l, size + 1.5 * s);
                                }
                                let error = (y[i * n + j] as f64 - want).abs() / (size + 1e-30);
                                assert!(error < 3e-7, "{m}x{n}x{k} at {i},{j}: {error:e}");
                            }
                        }
                        if m == 1 {
                            alone.copy_from_slice(&y);
                        }
                        assert_eq!(y[..n], alone, "{m}x{n}x{k}: a vector alone and in company");
                        let mut one = vec![f32::NAN; m * n];
                        run(1, || product(source, None, (m, n, k), &x[..m * k], low, &mut one));
                        assert_eq!(y, one, "{m}x{n}x{k}: on one thread and on three");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_may_stand_in_another_order() {
        let (m, n, k, r) = (3, 40, 64, 4);
        let (w, x, b, t) = (fill(n * k, 1), fill(m * k, 2), fill(n * r, 3), fill(m * r, 4));
        let place = |row: usize| (row * 7 + 3) % n;
        let mut ordered = vec![0f32; n * k];
        for row in 0..n {
            ordered[place(row) * k..(place(row) + 1) * k].copy_from_slice(&w[row * k..(row + 1) * k]);
        }
        for low in [None, Some(LowRank { b: &b, r, t: &t, scale: 0.5 })] {
            let (mut got, mut want) = (vec![0f32; m * n], vec![0f32; m * n]);
            run(2, || product(Source::Floats(&w), Some(&place), (m, n, k), &x, low, &mut got));
            run(2, || product(Source::Floats(&ordered), None, (m, n, k), &x, low, &mut want));
            assert_eq!(got, want);
        }
    }

    #[test]
    fn blocks_are_read_exactly_or_with_rounded_vectors() {
        use candle_core::quantized::{GgmlDType, QTensor};
        use candle_core::{Device, Tensor};
        let (m, n, k) = (3, 37, 512);
        let x = fill(m * k, 2);
        let w = Tensor::from_vec(fill(n * k, 1), (n, k), &Device::Cpu).unwrap();
        for (block, dtype) in [
            (Block::Q4_0, GgmlDType::Q4_0),
            (Block::Q5_1, GgmlDType::Q5_1),
            (Block::Q8_0, GgmlDType::Q8_0),
            (Block::Q2K, GgmlDType::Q2K),
            (Block::Q4K, GgmlDType::Q4K),
            (Block::Q6K, GgmlDType::Q6K),
            (Block::Q8K, GgmlDType::Q8K),
        ] {
            let q = QTensor::quantize(&w, dtype).unwrap();
            let bytes = q.data().unwrap();
            let wide = q.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut want = vec![0f32; m * n];
            run(2, || product(Source::Floats(&wide), None, (m, n, k), &x, None, &mut want));
            let size = want.iter().map(|v| v * v).sum::<f32>().sqrt();
            for (rounded, bound) in [(false, 1e-6), (true, 2e-2)] {
                let mut got = vec![0f32; m * n];
                let source = Source::Blocks { block, bytes: &bytes, rounded };
                run(2, || product(source, None, (m, n, k), &x, None, &mut got));
                let error = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt() / size;
                assert!(error < bound, "{block:?} rounded {rounded}: {error}");
                println!("{block:?} rounded {rounded}: off by {error:.1e}");
            }
        }
    }
}
