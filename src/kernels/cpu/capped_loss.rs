//! The loss of [`super::loss`] behind a softcap of the logits, `L = c·tanh(R/c)` (Gemma 2). Mixup blends the raw
//! logits R and caps the blend: with `S = 1 − (L/c)²`,
//!
//! `G^c = a S^c (p_c − e_yc) + b λ S^m (p_m − Y)`, `G^u = a S^u (p_u − e_yu) + b (1−λ) S^m (p_m − Y)`.
//!
//! A capped logit is made again wherever it is needed: nothing as large as a row is stored beside the logits.

use super::loss_rows::{Mix, Normaliser, Row, RowStats};
use super::simd::{exp, fma, simd_kernel, softcap, sum_lanes, LANES};

simd_kernel! {
    /// max and Σ exp of the capped λ·c + (1−λ)·u.
    pub fn capped_lse(c: &[f32], u: &[f32], l: f32, cap: f32) -> Normaliser {
        let mut total = 0f64;
        // The cap is monotonous: the largest blend is the largest when capped.
        let mut most = [f32::NEG_INFINITY; LANES];
        for (c, u) in c.chunks(LANES).zip(u.chunks(LANES)) {
            for ((m, &c), &u) in most.iter_mut().zip(c).zip(u) {
                let v = fma::<FMA>(l, c, (1.0 - l) * u);
                *m = if v > *m { v } else { *m };
            }
        }
        let mut max = f32::NEG_INFINITY;
        for v in most {
            max = if v > max { v } else { max };
        }
        let max = softcap::<FMA>(max, cap);
        for (c, u) in c.chunks(4096).zip(u.chunks(4096)) {
            let mut acc = [0f32; LANES];
            let whole = c.len() / LANES * LANES;
            for (c, u) in c[..whole].chunks_exact(LANES).zip(u[..whole].chunks_exact(LANES)) {
                for i in 0..LANES {
                    acc[i] += exp::<FMA>(softcap::<FMA>(fma::<FMA>(l, c[i], (1.0 - l) * u[i]), cap) - max);
                }
            }
            let mut tail = 0f32;
            for (&c, &u) in c[whole..].iter().zip(&u[whole..]) {
                tail += exp::<FMA>(softcap::<FMA>(fma::<FMA>(l, c, (1.0 - l) * u), cap) - max);
            }
            total += (sum_lanes(acc) + tail) as f64;
        }
        Normaliser { max, sum: total }
    }
}

simd_kernel! {
    /// `x = a·p·S` of raw logits x; returns Σ p·(L − max).
    pub fn to_capped_probabilities(x: &mut [f32], z: Normaliser, a: f32, cap: f32) -> f64 {
        let (max, inv, inv_cap) = (z.max, (1.0 / z.sum) as f32, 1.0 / cap);
        let mut total = 0f64;
        for part in x.chunks_mut(4096) {
            let mut acc = [0f32; LANES];
            let whole = part.len() / LANES * LANES;
            for c in part[..whole].chunks_exact_mut(LANES) {
                for i in 0..LANES {
                    let v = softcap::<FMA>(c[i], cap);
                    let (p, t) = (exp::<FMA>(v - max) * inv, v * inv_cap);
                    acc[i] = fma::<FMA>(p, v - max, acc[i]);
                    c[i] = a * p * (1.0 - t * t);
                }
            }
            let mut tail = 0f32;
            for x in part[whole..].iter_mut() {
                let v = softcap::<FMA>(*x, cap);
                let (p, t) = (exp::<FMA>(v - max) * inv, v * inv_cap);
                tail += p * (v - max);
                *x = a * p * (1.0 - t * t);
            }
            total += (sum_lanes(acc) + tail) as f64;
        }
        total
    }
}

simd_kernel! {
    /// To each row the gradient of the blend: `c += b·λ·S^m·p_m`, `u += b·(1−λ)·S^m·p_m`, where `rc`, `ru` hold the
    /// raw logits and `c`, `u` the gradients so far.
    #[allow(clippy::too_many_arguments)]
    pub fn add_blend(rc: &[f32], ru: &[f32], c: &mut [f32], u: &mut [f32], l: f32, z: Normaliser, b: f32, cap: f32) {
        let (inv, inv_cap) = (b * (1.0 / z.sum) as f32, 1.0 / cap);
        for (((&x, &y), c), u) in rc.iter().zip(ru).zip(c.iter_mut()).zip(u.iter_mut()) {
            let v = softcap::<FMA>(fma::<FMA>(l, x, (1.0 - l) * y), cap);
            let t = v * inv_cap;
            let q = exp::<FMA>(v - z.max) * inv * (1.0 - t * t);
            *c = fma::<FMA>(l, q, *c);
            *u = fma::<FMA>(1.0 - l, q, *u);
        }
    }
}

/// L and S of one raw logit.
fn capped(x: f64, cap: f32) -> (f64, f64) {
    let t = libm::tanh(x / cap as f64);
    (t * cap as f64, 1.0 - t * t)
}

/// The row's figures.
fn measure(x: &[f32], target: usize, cap: f32) -> (Normaliser, RowStats) {
    let z = capped_lse(x, x, 1.0, cap);
    let nll = z.lse() - capped(x[target] as f64, cap).0;
    let correct = x[..target].iter().all(|&v| v < x[target]) && x[target..].iter().all(|&v| v <= x[target]);
    let prob = libm::exp(-nll) as f32;
    (z, RowStats { nll, prob, correct, max_prob: (1.0 / z.sum) as f32, ..Default::default() })
}

/// A row alone.
pub(super) fn single(x: &mut [f32], row: Row, cap: f32, gradient: bool, stats: &mut RowStats) {
    let y = row.target as usize;
    let (z, s) = measure(x, y, cap);
    *stats = s;
    if gradient {
        let slope = capped(x[y] as f64, cap).1 as f32;
        stats.entropy = z.entropy(to_capped_probabilities(x, z, row.a, cap));
        x[y] -= row.a * slope;
    }
}

/// Elements of a pair's rows that are turned to gradients at once: their raw values are copied aside.
const PART: usize = 1024;

/// A confident row and its partner.
pub(super) fn mixed(
    (c, u): (&mut [f32], &mut [f32]),
    rows: &[Row],
    mix: Mix,
    cap: f32,
    gradient: bool,
    stats: &mut [RowStats],
) {
    let targets = [rows[0].target as usize, rows[1].target as usize];
    let l = mix.lambda;
    let (zc, sc) = measure(c, targets[0], cap);
    let (zu, su) = measure(u, targets[1], cap);
    (stats[0], stats[1]) = (sc, su);
    let zm = capped_lse(c, u, l, cap);
    let blend = |i: usize| capped(l as f64 * c[i] as f64 + (1.0 - l as f64) * u[i] as f64, cap);
    let at = targets.map(blend);
    stats[0].mix_nll = zm.lse() - l as f64 * at[0].0 - (1.0 - l as f64) * at[1].0;
    if !gradient {
        return;
    }
    let own = [capped(c[targets[0]] as f64, cap).1 as f32, capped(u[targets[1]] as f64, cap).1 as f32];
    let (mut ec, mut eu) = (0.0, 0.0);
    let (mut rc, mut ru) = ([0f32; PART], [0f32; PART]);
    for (c, u) in c.chunks_mut(PART).zip(u.chunks_mut(PART)) {
        let (rc, ru) = (&mut rc[..c.len()], &mut ru[..u.len()]);
        rc.copy_from_slice(c);
        ru.copy_from_slice(u);
        ec += to_capped_probabilities(c, zc, rows[0].a, cap);
        eu += to_capped_probabilities(u, zu, rows[1].a, cap);
        add_blend(rc, ru, c, u, l, zm, mix.b, cap);
    }
    (stats[0].entropy, stats[1].entropy) = (zc.entropy(ec), zu.entropy(eu));
    c[targets[0]] -= rows[0].a * own[0];
    u[targets[1]] -= rows[1].a * own[1];
    for ((y, share), (_, slope)) in targets.into_iter().zip([l, 1.0 - l]).zip(at) {
        let q = mix.b * share * slope as f32;
        c[y] -= l * q;
        u[y] -= (1.0 - l) * q;
    }
}
