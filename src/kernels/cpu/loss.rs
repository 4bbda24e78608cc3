//! Softmax cross-entropy and Mixup over a chunk of raw logits, in place.
//!
//! The chunk holds units: a single row, or a confident row followed by its unconfident partner. With
//! `M = λ R^c + (1−λ) R^u` and weights a, b: `G^c = a (p_c − e_yc) + b λ q`, `G^u = a (p_u − e_yu) +
//! b (1−λ) q`, `q = softmax(M) − λ e_yc − (1−λ) e_yu`. R is read, then overwritten by G: the mix of the
//! states needs no product of its own, because the head is linear in them.

use rayon::prelude::*;

use super::loss_rows::{Mix, Normaliser, Row, RowStats, UnitRows};
use super::simd::{exp, fma, simd_kernel, sum_lanes, LANES};
use super::{capped_loss, Shared};

impl Normaliser {
    fn of(x: &[f32]) -> Normaliser {
        let max = max_of(x);
        Normaliser { max, sum: sum_exp(x, max) }
    }
}

simd_kernel! {
    /// Largest element; NaN does not win (the sum of exponentials shows it).
    pub fn max_of(x: &[f32]) -> f32 {
        let mut acc = [f32::NEG_INFINITY; LANES];
        let c = x.chunks_exact(LANES);
        let tail = c.remainder();
        for c in c {
            for i in 0..LANES {
                acc[i] = if c[i] > acc[i] { c[i] } else { acc[i] };
            }
        }
        let mut m = f32::NEG_INFINITY;
        for &v in acc.iter().chain(tail) {
            m = if v > m { v } else { m };
        }
        m
    }
}

simd_kernel! {
    /// Σ exp(x − max): lanes in f32 over 4,096 elements at a time, those sums in f64.
    pub fn sum_exp(x: &[f32], max: f32) -> f64 {
        let mut total = 0f64;
        for part in x.chunks(4096) {
            let mut acc = [0f32; LANES];
            let c = part.chunks_exact(LANES);
            let mut tail = 0f32;
            for &v in c.remainder() {
                tail += exp::<FMA>(v - max);
            }
            for c in c {
                for i in 0..LANES {
                    acc[i] += exp::<FMA>(c[i] - max);
                }
            }
            total += (sum_lanes(acc) + tail) as f64;
        }
        total
    }
}

simd_kernel! {
    /// max and Σ exp of λ·c + (1−λ)·u.
    pub fn mixed_lse(c: &[f32], u: &[f32], l: f32) -> Normaliser {
        let mut m = [f32::NEG_INFINITY; LANES];
        let whole = c.len() / LANES * LANES;
        for (c, u) in c[..whole].chunks_exact(LANES).zip(u[..whole].chunks_exact(LANES)) {
            for i in 0..LANES {
                let v = fma::<FMA>(l, c[i], (1.0 - l) * u[i]);
                m[i] = if v > m[i] { v } else { m[i] };
            }
        }
        let mut max = f32::NEG_INFINITY;
        for &v in &m {
            max = if v > max { v } else { max };
        }
        for (&c, &u) in c[whole..].iter().zip(&u[whole..]) {
            let v = fma::<FMA>(l, c, (1.0 - l) * u);
            max = if v > max { v } else { max };
        }
        let mut total = 0f64;
        for (c, u) in c.chunks(4096).zip(u.chunks(4096)) {
            let mut acc = [0f32; LANES];
            let whole = c.len() / LANES * LANES;
            for (c, u) in c[..whole].chunks_exact(LANES).zip(u[..whole].chunks_exact(LANES)) {
                for i in 0..LANES {
                    acc[i] += exp::<FMA>(fma::<FMA>(l, c[i], (1.0 - l) * u[i]) - max);
                }
            }
            let mut tail = 0f32;
            for (&c, &u) in c[whole..].iter().zip(&u[whole..]) {
                tail += exp::<FMA>(fma::<FMA>(l, c, (1.0 - l) * u) - max);
            }
            total += (sum_lanes(acc) + tail) as f64;
        }
        Normaliser { max, sum: total }
    }
}

simd_kernel! {
    /// `x = a·p`, `p = exp(x − max)/sum`: from max and sum rather than from their lse, whose rounding in
    /// f32 would scale the whole row. Returns Σ p·(x − max), which gives the entropy.
    pub fn to_probabilities(x: &mut [f32], z: Normaliser, a: f32) -> f64 {
        let (max, inv) = (z.max, (1.0 / z.sum) as f32);
        let mut total = 0f64;
        for part in x.chunks_mut(4096) {
            let mut acc = [0f32; LANES];
            let whole = part.len() / LANES * LANES;
            for c in part[..whole].chunks_exact_mut(LANES) {
                for i in 0..LANES {
                    let p = exp::<FMA>(c[i] - max) * inv;
                    acc[i] = fma::<FMA>(p, c[i] - max, acc[i]);
                    c[i] = a * p;
                }
            }
            let mut tail = 0f32;
            for v in part[whole..].iter_mut() {
                let p = exp::<FMA>(*v - max) * inv;
                tail += p * (*v - max);
                *v = a * p;
            }
            total += (sum_lanes(acc) + tail) as f64;
        }
        total
    }
}

simd_kernel! {
    /// Both rows of a mixed unit to gradients but for the one-hot terms; returns Σ p·(x − max) of each.
    #[allow(clippy::too_many_arguments)]
    pub fn to_mixed_gradients(c: &mut [f32], u: &mut [f32], l: f32, zc: Normaliser, zu: Normaliser, zm: Normaliser, ac: f32, au: f32, b: f32) -> (f64, f64) {
        let (mut tc, mut tu) = (0f64, 0f64);
        let (ic, iu, im) = ((1.0 / zc.sum) as f32, (1.0 / zu.sum) as f32, (1.0 / zm.sum) as f32);
        let (bc, bu) = (b * l * im, b * (1.0 - l) * im);
        for (c, u) in c.chunks_mut(4096).zip(u.chunks_mut(4096)) {
            let (mut ec, mut eu) = ([0f32; LANES], [0f32; LANES]);
            let whole = c.len() / LANES * LANES;
            for (c, u) in c[..whole].chunks_exact_mut(LANES).zip(u[..whole].chunks_exact_mut(LANES)) {
                for i in 0..LANES {
                    let q = exp::<FMA>(fma::<FMA>(l, c[i], (1.0 - l) * u[i]) - zm.max);
                    let (pc, pu) = (exp::<FMA>(c[i] - zc.max) * ic, exp::<FMA>(u[i] - zu.max) * iu);
                    ec[i] = fma::<FMA>(pc, c[i] - zc.max, ec[i]);
                    eu[i] = fma::<FMA>(pu, u[i] - zu.max, eu[i]);
                    c[i] = fma::<FMA>(bc, q, ac * pc);
                    u[i] = fma::<FMA>(bu, q, au * pu);
                }
            }
            let (mut rc, mut ru) = (0f32, 0f32);
            for (c, u) in c[whole..].iter_mut().zip(u[whole..].iter_mut()) {
                let q = exp::<FMA>(fma::<FMA>(l, *c, (1.0 - l) * *u) - zm.max);
                let (pc, pu) = (exp::<FMA>(*c - zc.max) * ic, exp::<FMA>(*u - zu.max) * iu);
                rc += pc * (*c - zc.max);
                ru += pu * (*u - zu.max);
                *c = fma::<FMA>(bc, q, ac * pc);
                *u = fma::<FMA>(bu, q, au * pu);
            }
            tc += (sum_lanes(ec) + rc) as f64;
            tu += (sum_lanes(eu) + ru) as f64;
        }
        (tc, tu)
    }
}

/// The row's figures.
fn measure(x: &[f32], target: usize) -> (Normaliser, RowStats) {
    let z = Normaliser::of(x);
    let nll = z.lse() - x[target] as f64;
    let correct = x[target] == z.max && x[..target].iter().all(|&v| v < z.max);
    let prob = libm::exp(-nll) as f32;
    (z, RowStats { nll, prob, correct, max_prob: (1.0 / z.sum) as f32, ..Default::default() })
}

/// Losses of raw `logits[K,V]`, behind any softcap, and, with `gradient`, the logits overwritten by their gradients.
pub fn units(
    logits: &mut [f32],
    vocab: usize,
    rows: &[Row],
    units: &[UnitRows],
    softcap: Option<f32>,
    gradient: bool,
    stats: &mut [RowStats],
) {
    assert_eq!(logits.len(), rows.len() * vocab);
    assert_eq!(stats.len(), rows.len());
    let mut next = 0;
    for u in units {
        assert!(u.first >= next && u.first < rows.len(), "units of the loss overlap");
        next = u.first + if u.mix.is_some() { 2 } else { 1 };
    }
    assert!(next <= rows.len(), "a unit of the loss lacks its second row");
    let out = Shared(logits.as_mut_ptr());
    let stats_out = SharedStats(stats.as_mut_ptr());
    units.par_iter().for_each(|unit| {
        let count = if unit.mix.is_some() { 2 } else { 1 };
        // SAFETY: units do not overlap, so these rows and their figures are this task's alone.
        let (x, stats) = unsafe { (out.slice(unit.first * vocab, count * vocab), stats_out.slice(unit.first, count)) };
        let rows = &rows[unit.first..unit.first + count];
        match (unit.mix, softcap) {
            (None, None) => single(x, rows[0], gradient, &mut stats[0]),
            (Some(mix), None) => mixed(x, vocab, rows, mix, gradient, stats),
            (None, Some(cap)) => capped_loss::single(x, rows[0], cap, gradient, &mut stats[0]),
            (Some(mix), Some(cap)) => {
                capped_loss::mixed(x.split_at_mut(vocab), rows, mix, cap, gradient, stats);
            }
        }
    });
}

#[derive(Clone, Copy)]
struct SharedStats(*mut RowStats);
// SAFETY: see `units`: tasks write disjoint elements.
unsafe impl Send for SharedStats {}
unsafe impl Sync for SharedStats {}

impl SharedStats {
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [RowStats] {
        std::slice::from_raw_parts_mut(self.0.add(start), len)
    }
}

fn single(x: &mut [f32], row: Row, gradient: bool, stats: &mut RowStats) {
    let y = row.target as usize;
    let (z, s) = measure(x, y);
    *stats = s;
    if gradient {
        stats.entropy = z.entropy(to_probabilities(x, z, row.a));
        x[y] -= row.a;
    }
}

fn mixed(x: &mut [f32], vocab: usize, rows: &[Row], mix: Mix, gradient: bool, stats: &mut [RowStats]) {
    let (c, u) = x.split_at_mut(vocab);
    let (yc, yu) = (rows[0].target as usize, rows[1].target as usize);
    let (zc, sc) = measure(c, yc);
    let (zu, su) = measure(u, yu);
    (stats[0], stats[1]) = (sc, su);
    let l = mix.lambda;
    let zm = mixed_lse(c, u, l);
    let at = |i: usize| l as f64 * c[i] as f64 + (1.0 - l as f64) * u[i] as f64;
    stats[0].mix_nll = zm.lse() - l as f64 * at(yc) - (1.0 - l as f64) * at(yu);
    if gradient {
        let (ec, eu) = to_mixed_gradients(c, u, l, zc, zu, zm, rows[0].a, rows[1].a, mix.b);
        (stats[0].entropy, stats[1].entropy) = (zc.entropy(ec), zu.entropy(eu));
        c[yc] -= rows[0].a;
        u[yu] -= rows[1].a;
        for (y, share) in [(yc, l), (yu, 1.0 - l)] {
            c[y] -= mix.b * l * share;
            u[y] -= mix.b * (1.0 - l) * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize, v: usize) -> Vec<f32> {
        let k = crate::rng::Key::new(1, crate::rng::Stream::Bench, &[]);
        (0..n * v).map(|i| (k.uniform(i as u64) as f32 - 0.5) * 8.0).collect()
    }

    /// Total loss in f64 from the definition.
    fn loss(x: &[f64], v: usize, rows: &[Row], us: &[UnitRows], cap: Option<f32>) -> f64 {
        let cap = |x: f64| cap.map_or(x, |c| c as f64 * libm::tanh(x / c as f64));
        let lse = |r: &[f64]| libm::log(r.iter().map(|&v| libm::exp(cap(v))).sum::<f64>());
        let mut total = 0.0;
        for u in us {
            let n = if u.mix.is_some() { 2 } else { 1 };
            for i in u.first..u.first + n {
                let r = &x[i * v..(i + 1) * v];
                total += rows[i].a as f64 * (lse(r) - cap(r[rows[i].target as usize]));
            }
            if let Some(m) = u.mix {
                let l = m.lambda as f64;
                let (c, d) = (&x[u.first * v..(u.first + 1) * v], &x[(u.first + 1) * v..(u.first + 2) * v]);
                let mixed: Vec<f64> = c.iter().zip(d).map(|(c, d)| l * c + (1.0 - l) * d).collect();
                let (yc, yu) = (rows[u.first].target as usize, rows[u.first + 1].target as usize);
                total += m.b as f64 * (lse(&mixed) - l * cap(mixed[yc]) - (1.0 - l) * cap(mixed[yu]));
            }
        }
        total
    }

    #[test]
    fn gradients_match_finite_differences() {
        // More than one part of a mixed pair's rows, and a tail behind the lanes.
        for (v, cap) in [(37, None), (37, Some(3.0)), (1061, Some(5.0))] {
            let rows = [3, 5, 5, 0, 36].map(|target| Row { target, a: 0.3 });
            let us = [
                UnitRows { first: 0, mix: Some(Mix { lambda: 0.3, b: 0.7 }) },
                UnitRows { first: 2, mix: None },
                UnitRows { first: 3, mix: Some(Mix { lambda: 0.9, b: 0.1 }) },
            ];
            let x = logits(5, v);
            let mut g = x.clone();
            let mut stats = [RowStats::default(); 5];
            units(&mut g, v, &rows, &us, cap, true, &mut stats);
            let x64: Vec<f64> = x.iter().map(|&v| v as f64).collect();
            for i in (0..x.len()).step_by(if v > 100 { 13 } else { 1 }) {
                let mut p = x64.clone();
                p[i] += 1e-4;
                let up = loss(&p, v, &rows, &us, cap);
                p[i] -= 2e-4;
                let fd = (up - loss(&p, v, &rows, &us, cap)) / 2e-4;
                assert!((fd - g[i] as f64).abs() < 2e-6, "{cap:?} at {i}: {fd} against {}", g[i]);
            }
            if cap.is_none() {
                for row in g.chunks(v) {
                    assert!(row.iter().sum::<f32>().abs() < 1e-6, "rows of the gradient sum to zero");
                }
            }
            let ours: f64 = rows.iter().zip(&stats).map(|(r, s)| r.a as f64 * s.nll).sum::<f64>()
                + 0.7f32 as f64 * stats[0].mix_nll
                + 0.1f32 as f64 * stats[3].mix_nll;
            assert!((ours - loss(&x64, v, &rows, &us, cap)).abs() < 2e-6);
        }
    }

    #[test]
    fn a_row_mixed_with_itself_or_with_share_one_gives_its_own_loss() {
        let v = 50;
        let mut x = logits(1, v);
        x.extend_from_within(..);
        for lambda in [0.0, 0.37, 1.0] {
            let rows = [Row { target: 7, a: 1.0 }; 2];
            let mut stats = [RowStats::default(); 2];
            units(
                &mut x.clone(),
                v,
                &rows,
                &[UnitRows { first: 0, mix: Some(Mix { lambda, b: 1.0 }) }],
                None,
                false,
                &mut stats,
            );
            assert!((stats[0].mix_nll - stats[0].nll).abs() < 1e-6);
        }
        let x = logits(2, v);
        let rows = [Row { target: 7, a: 1.0 }, Row { target: 9, a: 1.0 }];
        for (lambda, want) in [(1.0, 0), (0.0, 1)] {
            let mut stats = [RowStats::default(); 2];
            units(
                &mut x.clone(),
                v,
                &rows,
                &[UnitRows { first: 0, mix: Some(Mix { lambda, b: 1.0 }) }],
                None,
                false,
                &mut stats,
            );
            assert!((stats[0].mix_nll - stats[want].nll).abs() < 1e-6);
        }
    }

    #[test]
    fn ties_go_to_the_lowest_index_and_nan_is_seen() {
        let mut stats = [RowStats::default()];
        let row = |target| [Row { target, a: 1.0 }];
        let one = [UnitRows { first: 0, mix: None }];
        units(&mut [1.0, 1.0, 0.0], 3, &row(0), &one, None, false, &mut stats);
        assert!(stats[0].correct);
        units(&mut [1.0, 1.0, 0.0], 3, &row(1), &one, None, false, &mut stats);
        assert!(!stats[0].correct);
        units(&mut [1.0, f32::NAN, 0.0], 3, &row(0), &one, None, false, &mut stats);
        assert!(stats[0].nll.is_nan());
    }
}
