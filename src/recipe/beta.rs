//! λ ~ Beta(α, α), a function of a key, and the entropy of the targets it makes.
//!
//! α = ½: `λ = sin²(πU/2)`, the arcsine law; α = 1: `λ = U`; else `λ = 1/(1 + exp(g₂ - g₁))` with
//! g = ln Gamma(α, 1) by Marsaglia and Tsang (2000), for α < 1 drawn at α + 1 with `ln(U)/α` added:
//! in logarithms, so that a small α cannot give 0/0. Published: Beta(α, α), α = 0.5 (arXiv
//! 2410.05248); how to draw it is ours.

use std::f64::consts::{LN_2, PI};

use crate::rng::Key;

/// λ in [0, 1] of this key.
pub fn sample(key: Key, alpha: f64) -> f64 {
    if alpha == 0.5 {
        let s = libm::sin(PI * key.uniform(0) / 2.0);
        return s * s;
    }
    if alpha == 1.0 {
        return key.uniform(0);
    }
    let shape = if alpha < 1.0 { alpha + 1.0 } else { alpha };
    let (g1, u1) = ln_gamma_variate(key, 0, shape);
    let (g2, u2) = ln_gamma_variate(key, 1 << 32, shape);
    let mut difference = g2 - g1;
    if alpha < 1.0 {
        // Subtracted before the division: where α is so small that each overflows, ∞ - ∞ is not a number.
        difference += (u2 - u1) / alpha;
    }
    1.0 / (1.0 + libm::exp(difference))
}

/// ln of a Gamma(shape, 1) variate, shape ≥ 1, and the logarithm of an independent uniform number.
/// Attempt t uses the key's numbers `base + 4t ..= base + 4t + 2`; the uniform one is `base + 3`.
fn ln_gamma_variate(key: Key, base: u64, shape: f64) -> (f64, f64) {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    let ln_u = libm::log(1.0 - key.uniform(base + 3));
    // More than 95 in 100 attempts succeed, so the bound only guards against a shape that is no number.
    for t in 0..1000 {
        let at = base + 4 * t;
        let x = key.normal2(at / 2).0;
        let v = 1.0 + c * x;
        if v <= 0.0 {
            continue;
        }
        let ln_v = 3.0 * libm::log(v);
        let v = v * v * v;
        if libm::log(1.0 - key.uniform(at + 2)) < 0.5 * x * x + d * (1.0 - v + ln_v) {
            return (libm::log(d) + ln_v, ln_u);
        }
    }
    (libm::log(d), ln_u)
}

/// Entropy `H(λ) = -λ ln λ - (1-λ) ln(1-λ)` in nats: below it the loss of a mixed row with two
/// different tokens cannot go.
pub fn entropy(lambda: f64) -> f64 {
    let term = |p: f64| if p > 0.0 { -p * libm::log(p) } else { 0.0 };
    term(lambda) + term(1.0 - lambda)
}

/// E[H(λ)] for λ ~ Beta(α, α): `ψ(2α+1) - ψ(α+1)`, 2 ln 2 - 1 at α = ½.
pub fn expected_entropy(alpha: f64) -> f64 {
    if alpha > 1e15 {
        return LN_2; // the difference would cancel
    }
    digamma(2.0 * alpha + 1.0) - digamma(alpha + 1.0)
}

/// ψ(x), x > 0: recurrence up to 10, then the asymptotic series (DLMF 5.11.2).
fn digamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 10.0 {
        sum -= 1.0 / x;
        x += 1.0;
    }
    let i = 1.0 / (x * x);
    let series = i * (1.0 / 12.0 - i * (1.0 / 120.0 - i * (1.0 / 252.0 - i * (1.0 / 240.0 - i / 132.0))));
    sum + libm::log(x) - 0.5 / x - series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn draws(alpha: f64, n: u64) -> Vec<f64> {
        (0..n).map(|i| sample(Key::new(11, Stream::Lambda, &[0, i]), alpha)).collect()
    }

    #[test]
    fn mean_variance_and_entropy_follow_alpha() {
        for alpha in [0.05, 0.2, 0.5, 0.8, 1.0, 1.5, 4.0, 50.0] {
            let v = draws(alpha, 40_000);
            let n = v.len() as f64;
            let mean = v.iter().sum::<f64>() / n;
            let var = v.iter().map(|x| (x - 0.5) * (x - 0.5)).sum::<f64>() / n;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 4.0 * (expected / n).sqrt(), "α {alpha}: mean {mean}");
            assert!((var / expected - 1.0).abs() < 0.03, "α {alpha}: variance {var}, expected {expected}");
            let h = v.iter().map(|&x| entropy(x)).sum::<f64>() / n;
            assert!((h - expected_entropy(alpha)).abs() < 0.007, "α {alpha}: {h} {}", expected_entropy(alpha));
        }
        let fold = draws(0.5, 40_000).iter().map(|x| x.min(1.0 - x)).sum::<f64>() / 40_000.0;
        assert!((fold - (0.5 - 1.0 / PI)).abs() < 0.005, "{fold}");
    }

    /// Largest distance between the empirical and the given distribution function.
    fn kolmogorov_smirnov(mut v: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
        v.sort_by(f64::total_cmp);
        let n = v.len() as f64;
        v.iter().enumerate().fold(0.0, |d: f64, (i, &x)| {
            let f = cdf(x);
            d.max(f - i as f64 / n).max((i + 1) as f64 / n - f)
        })
    }

    #[test]
    fn the_laws_with_a_closed_form_are_met() {
        let n = 20_000;
        let bound = 1.63 / (n as f64).sqrt(); // 1 %
        let arcsine = |x: f64| 2.0 / PI * x.sqrt().asin();
        assert!(kolmogorov_smirnov(draws(0.5, n), arcsine) < bound);
        assert!(kolmogorov_smirnov(draws(1.0, n), |x| x) < bound);
        assert!(kolmogorov_smirnov(draws(2.0, n), |x| x * x * (3.0 - 2.0 * x)) < bound);
        // Just beside the closed forms the general way must give nearly the same law.
        assert!(kolmogorov_smirnov(draws(0.5 + 1e-9, n), arcsine) < bound);
        assert!(kolmogorov_smirnov(draws(1.0 - 1e-9, n), |x| x) < bound);
        assert!(kolmogorov_smirnov(draws(1.0 + 1e-9, n), |x| x) < bound);
    }

    #[test]
    fn extreme_alpha_gives_numbers_in_range() {
        assert!(draws(1e300, 100).iter().all(|&x| x == 0.5));
        for alpha in [f64::MIN_POSITIVE, 1e-300, 1e-6, 0.01, 1e6] {
            let v = draws(alpha, 2_000);
            assert!(v.iter().all(|x| (0.0..=1.0).contains(x)), "α {alpha}");
            let ones = v.iter().filter(|&&x| x > 0.5).count();
            assert!((850..1150).contains(&ones), "α {alpha}: {ones} of 2000 above ½");
        }
    }

    #[test]
    fn entropy_values() {
        assert_eq!((entropy(0.0), entropy(1.0), entropy(0.5)), (0.0, 0.0, LN_2));
        for (alpha, expected) in [(0.5, 2.0 * LN_2 - 1.0), (1.0, 0.5), (0.2, 0.2277), (1e16, LN_2)] {
            assert!((expected_entropy(alpha) - expected).abs() < 5e-5, "α {alpha}: {}", expected_entropy(alpha));
        }
        assert!((expected_entropy(0.5) - (2.0 * LN_2 - 1.0)).abs() < 1e-12);
    }

    #[test]
    fn draws_are_pinned() {
        // A change here changes every mixed run that anybody wants to repeat.
        let key = Key::new(0, Stream::Lambda, &[1, 2]);
        let found = [0.5, 1.0, 0.2, 2.0].map(|alpha| sample(key, alpha).to_bits());
        assert_eq!(found, [0x3f8c_5e7c_699c_5861, 0x3fb3_39d1_5811_6b28, 0x3fef_84b8_6ba5_762d, 0x3fe1_c267_9883_ae81]);
    }
}
