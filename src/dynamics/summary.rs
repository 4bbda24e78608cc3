//! The halves side by side. They may differ by length alone, so their lengths are part of any report,
//! as is how far the two kinds of confidence agree.

use serde::Serialize;

use super::metrics::Metrics;
use crate::recipe::Half;

/// Means over the examples of one half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HalfSummary {
    /// Examples.
    #[serde(rename = "examples")]
    pub rows: u64,
    /// Supervised tokens an example.
    pub mean_tokens: f64,
    /// Mean of the mean NLL, nats per token.
    pub mean_nll: f64,
    /// Mean of the mean perplexity.
    pub mean_perplexity: f64,
    /// Mean of cartography's confidence p̄.
    pub mean_probability: f64,
    /// Mean of its variability σ.
    pub mean_variability: f64,
    /// Examples that no checkpoint predicts for at least half of the tokens.
    pub never_correct: u64,
}

/// What a report says about a split.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The confident half.
    pub confident: HalfSummary,
    /// The unconfident half.
    pub unconfident: HalfSummary,
    /// What belongs to neither.
    pub neither: HalfSummary,
    /// Rank correlation of confidence by perplexity and by NLL.
    pub spearman: f64,
}

impl Summary {
    /// Means over each half; `half` is one label an example, as
    /// [`Halves::labels`](crate::recipe::Halves::labels) gives them.
    pub fn new(metrics: &[Metrics], half: &[Half]) -> Summary {
        let mut s = Summary::default();
        for (m, h) in metrics.iter().zip(half) {
            let t = s.half_mut(*h);
            t.rows += 1;
            t.mean_tokens += f64::from(m.n_tokens);
            t.mean_perplexity += m.mean_perplexity;
            t.mean_nll += m.mean_nll;
            t.mean_probability += m.confidence;
            t.mean_variability += m.variability;
            t.never_correct += u64::from(m.correctness == 0);
        }
        s.sums_to_means();
        let of = |f: fn(&Metrics) -> f64| metrics.iter().map(|m| -f(m) as f32).collect::<Vec<f32>>();
        s.spearman = rank_correlation(of(|m| m.mean_perplexity), of(|m| m.mean_nll));
        s
    }

    /// One of the three.
    pub(crate) fn half_mut(&mut self, half: Half) -> &mut HalfSummary {
        match half {
            Half::Confident => &mut self.confident,
            Half::Unconfident => &mut self.unconfident,
            Half::Neither => &mut self.neither,
        }
    }

    /// Divides what was added up by the number of examples.
    pub(crate) fn sums_to_means(&mut self) {
        for t in [&mut self.confident, &mut self.unconfident, &mut self.neither] {
            let n = t.rows.max(1) as f64;
            for v in [
                &mut t.mean_tokens,
                &mut t.mean_perplexity,
                &mut t.mean_nll,
                &mut t.mean_probability,
                &mut t.mean_variability,
            ] {
                *v /= n;
            }
        }
    }
}

/// Spearman's rank correlation, ties at their mean rank; over the places where neither is NaN, up to
/// the shorter of the two. 0 where it is undefined (fewer than two places, or one side constant).
pub fn spearman(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len().min(b.len());
    rank_correlation(a[..n].to_vec(), b[..n].to_vec())
}

/// As [`spearman`], of two lists of one length, in 24 bytes a place with the lists themselves.
pub(crate) fn rank_correlation(mut a: Vec<f32>, mut b: Vec<f32>) -> f64 {
    let mut kept = 0;
    for i in 0..a.len().min(b.len()) {
        if !a[i].is_nan() && !b[i].is_nan() {
            (a[kept], b[kept]) = (a[i], b[i]);
            kept += 1;
        }
    }
    a.truncate(kept);
    b.truncate(kept);
    let (ra, rb) = (ranks(a), ranks(b));
    // Mean ranks are the same on both sides whatever the ties.
    let mean = (ra.len() as f64 - 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in ra.iter().zip(&rb) {
        let (x, y) = (x - mean, y - mean);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa > 0.0 && bb > 0.0 {
        ab / (aa * bb).sqrt()
    } else {
        0.0
    }
}

/// The places of a log are u32, and so are these: 16 bytes a place.
fn ranks(values: Vec<f32>) -> Vec<f64> {
    let mut order: Vec<u32> = (0..=u32::MAX).take(values.len()).collect();
    let value = |i: u32| values[i as usize];
    order.sort_unstable_by(|&i, &j| value(i).total_cmp(&value(j)));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tie in order.chunk_by(|&i, &j| value(i) == value(j)) {
        let rank = start as f64 + (tie.len() as f64 - 1.0) / 2.0;
        for &i in tie {
            ranks[i as usize] = rank;
        }
        start += tie.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spearman_by_hand() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 400.0]), 1.0);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, -1.0]), -1.0);
        // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5).
        assert!((spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]) - 0.9486832980505138).abs() < 1e-15);
        assert_eq!(spearman(&[1.0, f32::NAN, 3.0], &[1.0, 9.0, 2.0]), 1.0);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
        assert_eq!(spearman(&[], &[]), 0.0);
    }

    #[test]
    fn each_half_has_its_own_means() {
        let row = |n_tokens, correctness| Metrics { n_tokens, correctness, mean_nll: 1.0, ..Default::default() };
        let half = [Half::Confident, Half::Unconfident, Half::Confident];
        let s = Summary::new(&[row(4, 1), row(10, 0), row(6, 0)], &half);
        assert_eq!((s.confident.rows, s.confident.mean_tokens, s.confident.never_correct), (2, 5.0, 1));
        assert_eq!((s.unconfident.rows, s.unconfident.mean_tokens, s.unconfident.mean_nll), (1, 10.0, 1.0));
        assert_eq!(s.neither, HalfSummary::default());
    }
}
