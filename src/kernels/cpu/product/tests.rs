//! Products against their definition in f64, in every form.

use super::*;
use crate::rng::{Key, Stream};

fn fill(n: usize, at: u64) -> Vec<f32> {
    let key = Key::new(7, Stream::Bench, &[at]);
    (0..n as u64).map(|i| key.uniform(i) as f32 - 0.5).collect()
}

fn lend(n: usize) -> Vec<f32> {
    vec![f32::NAN; n]
}

#[test]
fn matches_the_definition_in_every_shape_and_with_two_terms() {
    for m in [1, 2, 5, 12, 13, 31] {
        for n in [1, 3, 16, 17, 32, 100] {
            for k in [1, 7, 512, 520] {
                let r = 4;
                let (x, wk, t, br) = (fill(m * k, 1), fill(n * k, 2), fill(m * r, 3), fill(n * r, 4));
                let (wt, bt) = (transpose(&wk, k), transpose(&br, r));
                let (w2, b2) = (Columns(Plain::new(&wk, k)), Columns(Plain::new(&br, r)));
                let (w3, b3) = (Rows(Plain::new(&wt, n)), Rows(Plain::new(&bt, n)));
                for (w, b) in [(&w2 as &dyn Right, &b2 as &dyn Right), (&w3, &b3)] {
                    let terms = [
                        Term { a: View::rows(&x, k), k, b: w, alpha: 1.0 },
                        Term { a: View::rows(&t, r), k: r, b, alpha: 2.0 },
                    ];
                    let mut dst = vec![1f32; m * (n + 3)];
                    product(&mut dst, n + 3, true, (m, n), &terms, lend);
                    for i in 0..m {
                        for j in 0..n {
                            let dot = |a: &[f32], b: &[f32]| -> f64 {
                                a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
                            };
                            let want = 1.0
                                + dot(&x[i * k..(i + 1) * k], &wk[j * k..(j + 1) * k])
                                + 2.0 * dot(&t[i * r..(i + 1) * r], &br[j * r..(j + 1) * r]);
                            let found = dst[i * (n + 3) + j] as f64;
                            assert!((found - want).abs() < 1e-4, "{m}x{n}x{k} at {i},{j}: {found} {want}");
                        }
                        assert!(dst[i * (n + 3) + n..(i + 1) * (n + 3)].iter().all(|&v| v == 1.0));
                    }
                }
            }
        }
    }
}

fn transpose(x: &[f32], cols: usize) -> Vec<f32> {
    let rows = x.len() / cols;
    (0..cols * rows).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// bf16 numbers as they are stored.
struct Halves {
    bits: Vec<u8>,
    cols: usize,
    units: bool,
}

impl Halves {
    fn new(x: &[f32], cols: usize, units: bool) -> Halves {
        let bits = x.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        Halves { bits, cols, units: units && units_available() }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        let i = 2 * (row * self.cols + column);
        f32::from_bits((u16::from_le_bytes([self.bits[i], self.bits[i + 1]]) as u32) << 16)
    }
}

impl Stored for Halves {
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        out.iter_mut().zip(columns).for_each(|(o, c)| *o = self.at(row, c));
    }

    fn bf16(&self) -> Option<(&[u8], usize)> {
        Some((&self.bits, self.cols))
    }

    fn cut(&self) -> Option<Cut> {
        self.units.then_some(Cut::BF16)
    }
}

/// As exact as sums in f32 are: the error relative to the sum of the sizes of the terms.
#[test]
fn weights_in_bf16_are_multiplied_as_exactly_as_in_f32() {
    if !units_available() {
        println!("no matrix units here: their products are not tested");
    }
    let of = |t: &dyn Right, x: &[f32], (m, n, k): (usize, usize, usize), add: bool| {
        let mut dst = vec![0.5f32; m * n];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let term = Term { a: View::rows(x, k), k, b: t, alpha: 1.0 };
        pool.install(|| product(&mut dst, n, add, (m, n), &[term], lend));
        dst
    };
    for (m, n, k) in [(1, 1, 1), (2, 40, 33), (31, 32, 64), (33, 100, 31), (300, 65, 1300), (5, 17, 641)] {
        let (x, w) = (fill(m * k, 1), fill(n * k, 2));
        for units in [false, true] {
            for add in [false, true] {
                let (tall, wide) = (Halves::new(&w, k, units), Halves::new(&w, n, units));
                let weight = |p: usize, j: usize, transposed: bool| match transposed {
                    true => tall.at(j, p) as f64,
                    false => wide.at(p, j) as f64,
                };
                for transposed in [true, false] {
                    let got = match transposed {
                        true => of(&Columns(Halves::new(&w, k, units)), &x, (m, n, k), add),
                        false => of(&Rows(Halves::new(&w, n, units)), &x, (m, n, k), add),
                    };
                    for i in (0..m).step_by(3) {
                        for j in 0..n {
                            let terms = (0..k).map(|p| x[i * k + p] as f64 * weight(p, j, transposed));
                            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
                            let want = sum + if add { 0.5 } else { 0.0 };
                            let error = (got[i * n + j] as f64 - want).abs() / (size + 0.5);
                            assert!(error < 2e-7, "{m}x{n}x{k} units {units} {transposed} {add}: {error:e}");
                        }
                    }
                }
            }
        }
    }
}

/// f32 numbers that are to be cut for the units.
struct ToCut<'a> {
    data: &'a [f32],
    cols: usize,
    cut: Option<Cut>,
}

impl Stored for ToCut<'_> {
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        Plain::new(self.data, self.cols).read(row, columns, out);
    }

    fn cut(&self) -> Option<Cut> {
        self.cut
    }
}

/// Worst error and root mean square, relative to the sum of the sizes of the terms.
fn errors_when_cut(cut: Option<Cut>) -> (f64, f64) {
    // Halves have 16 bits at most.
    let bits = if cut == Some(Cut::HALVES) { !0xff } else { !0 };
    let (mut worst, mut squares, mut count) = (0f64, 0f64, 0.0);
    for (m, n, k) in [(1, 1, 1), (5, 33, 7), (33, 40, 289), (70, 64, 576), (3, 100, 1100)] {
        let x = fill(m * k, 1);
        let w: Vec<f32> = fill(n * k, 2).iter().map(|v| f32::from_bits(v.to_bits() & bits)).collect();
        for transposed in [true, false] {
            let mut got = vec![0.5f32; m * n];
            let (tall, wide) = (Columns(ToCut { data: &w, cols: k, cut }), Rows(ToCut { data: &w, cols: n, cut }));
            let b: &dyn Right = if transposed { &tall } else { &wide };
            let term = Term { a: View::rows(&x, k), k, b, alpha: 1.0 };
            product(&mut got, n, true, (m, n), &[term], lend);
            for (at, got) in got.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let of = |p: usize| if transposed { w[j * k + p] } else { w[p * n + j] };
                let terms = (0..k).map(|p| x[i * k + p] as f64 * of(p) as f64);
                let (sum, size) = terms.fold((0.5, 0.5), |(s, a), t| (s + t, a + t.abs()));
                let error = (*got as f64 - sum).abs() / size;
                (worst, squares, count) = (worst.max(error), squares + error * error, count + 1.0);
            }
        }
    }
    println!("{cut:?}: worst {worst:e}, root mean square {:e}", (squares / count).sqrt());
    (worst, (squares / count).sqrt())
}

#[test]
fn weights_that_are_cut_are_multiplied_as_exactly_as_their_kind_promises() {
    if !units_available() {
        println!("no matrix units here: their products are not tested");
        return;
    }
    let (worst, mean) = errors_when_cut(None);
    assert!(worst < 2e-7 && mean < 3e-8, "f32 tiles: {worst:e} {mean:e}");
    let (worst, mean) = errors_when_cut(Some(Cut::HALVES));
    assert!(worst < 2e-7 && mean < 3e-8, "halves: {worst:e} {mean:e}");
    // One term alone may be off by 2^-17; over a sum the errors even out.
    let (worst, mean) = errors_when_cut(Some(Cut::BLOCKS));
    assert!(worst < 7.7e-6 && mean < 3e-7, "blocks: {worst:e} {mean:e}");
}

#[test]
fn numbers_that_are_none_and_the_largest_are_cut_without_harm() {
    if !units_available() {
        println!("no matrix units here: their products are not tested");
        return;
    }
    let large = 3.3e38f32;
    let weird = f32::from_bits(0x7fff_ffff);
    for (x, want) in [(large, large), (-large, -large), (weird, f32::NAN), (f32::INFINITY, f32::NAN)] {
        for cut in [Cut::BF16, Cut::HALVES, Cut::BLOCKS] {
            let (mut got, one) = ([0f32], [1f32]);
            let halves;
            let cut_b;
            let b: &dyn Right = if cut == Cut::BF16 {
                halves = Columns(Halves::new(&one, 1, true));
                &halves
            } else {
                cut_b = Columns(ToCut { data: &one, cols: 1, cut: Some(cut) });
                &cut_b
            };
            product(&mut got, 1, false, (1, 1), &[Term { a: View::rows(&[x], 1), k: 1, b, alpha: 1.0 }], lend);
            let close = (got[0] - want).abs() <= want.abs() / 65536.0;
            assert!(close || (want.is_nan() && !got[0].is_finite()), "{cut:?}: {x} gives {}", got[0]);
        }
    }
}

#[test]
fn matrix_units_give_a_row_the_same_bits_alone_and_in_company() {
    // So many rows do not stay in the cache for the whole sum; a few do.
    let (m, n, k) = (600, 200, 1100);
    let (x, w) = (fill(m * k, 1), fill(n * k, 2));
    let cut = |cut| units_available().then_some(cut);
    let weights: [Box<dyn Right>; 3] = [
        Box::new(Columns(Halves::new(&w, k, true))),
        Box::new(Columns(ToCut { data: &w, cols: k, cut: cut(Cut::HALVES) })),
        Box::new(Columns(ToCut { data: &w, cols: k, cut: cut(Cut::BLOCKS) })),
    ];
    for b in &weights {
        let run = |threads: usize, rows: Range<usize>| -> Vec<f32> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut dst = vec![0.25f32; rows.len() * n];
            let terms = [Term { a: View::rows(&x[rows.start * k..], k), k, b: &**b, alpha: 1.0 }];
            pool.install(|| product(&mut dst, n, true, (rows.len(), n), &terms, lend));
            dst
        };
        let all = run(1, 0..m);
        assert!(all == run(2, 0..m) && all == run(5, 0..m));
        for rows in [0..1, 3..5, 10..17, 20..63, 7..302, 279..600] {
            assert!(all[rows.start * n..rows.end * n] == run(3, rows.clone()), "{:?} {rows:?}", b.cut());
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company_on_one_thread_and_on_many() {
    let (n, k) = (200, 1100);
    let (x, w) = (fill(64 * k, 1), fill(n * k, 2));
    let run = |threads: usize, rows: Range<usize>| -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut dst = vec![0f32; rows.len() * n];
        let b = Columns(Plain::new(&w, k));
        let terms = [Term { a: View::rows(&x[rows.start * k..], k), k, b: &b, alpha: 1.0 }];
        pool.install(|| product(&mut dst, n, false, (rows.len(), n), &terms, lend));
        dst
    };
    let all = run(1, 0..64);
    assert!(all == run(2, 0..64) && all == run(5, 0..64));
    for rows in [0..1, 3..5, 10..17, 20..63] {
        assert!(all[rows.start * n..rows.end * n] == run(3, rows.clone()), "{rows:?}");
    }
}

#[test]
fn no_terms_are_zero() {
    let mut dst = vec![3f32; 6];
    product(&mut dst, 3, false, (2, 2), &[], lend);
    assert_eq!(dst, [0.0, 0.0, 3.0, 0.0, 0.0, 3.0]);
}
