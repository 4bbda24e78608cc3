//! The weights of a step's loss: `Σ_rows a·ntp + Σ_mixed b·l`. They come from the rows of the whole
//! optimizer step, so that gradients of micro-batches are summed, never averaged.
//!
//! `loss = L_NTP + μ L_mix` (arXiv 2410.05248). The averages are ours, the paper is silent: with N
//! the supervised tokens of a row, `m = min(N_c, N_u)` of a pair, `T_ntp = Σ N`, `T_mix = Σ m` and P
//! the pairs with m ≥ 1: `a = 1/T_ntp`; `b = μ/T_mix` (token) or `μ/(P m)` (pair).

use crate::config::MixReduction;

/// Weights of the loss of one optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct LossWeights {
    /// Weight of each supervised token's -ln p.
    pub a: f64,
    /// Weight of each mixed token's cross-entropy, a pair each; holds μ. 0 where nothing is mixed.
    pub b: Vec<f64>,
    /// Supervised tokens of the step.
    pub t_ntp: u64,
    /// Mixed positions of the step, Σ m.
    pub t_mix: u64,
}

impl LossWeights {
    /// The weights of a step of these supervised lengths: (N_c, N_u) of each pair, then N of each row
    /// that is in no pair. A step without supervised tokens has no loss: its weights are 0.
    pub fn new(pairs: &[(u32, u32)], single: &[u32], mu: f64, reduction: MixReduction) -> LossWeights {
        let mixed = |&(c, u): &(u32, u32)| u64::from(c.min(u));
        let t_ntp = pairs.iter().map(|&(c, u)| u64::from(c) + u64::from(u)).sum::<u64>()
            + single.iter().map(|&n| u64::from(n)).sum::<u64>();
        let t_mix = pairs.iter().map(mixed).sum::<u64>();
        let mixing = pairs.iter().filter(|p| mixed(p) > 0).count();
        let b = pairs
            .iter()
            .map(|p| match (mixed(p), reduction) {
                (0, _) => 0.0,
                (_, MixReduction::Token) => mu / t_mix as f64,
                (m, MixReduction::Pair) => mu / (mixing as f64 * m as f64),
            })
            .collect();
        LossWeights { a: if t_ntp > 0 { 1.0 / t_ntp as f64 } else { 0.0 }, b, t_ntp, t_mix }
    }

    /// Share of the supervised tokens that are mixed: each mixed position takes one of either row, so
    /// `2 T_mix / T_ntp`. The longer tails are left to next-token prediction.
    pub fn coverage(&self) -> f64 {
        if self.t_ntp > 0 {
            2.0 * self.t_mix as f64 / self.t_ntp as f64
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_give_the_published_sum() {
        let (pairs, single) = ([(5, 8), (7, 4), (0, 3)], [6]);
        let t = LossWeights::new(&pairs, &single, 0.2, MixReduction::Token);
        assert_eq!((t.t_ntp, t.t_mix, t.a), (33, 9, 1.0 / 33.0));
        assert_eq!(t.b, [0.2 / 9.0, 0.2 / 9.0, 0.0]);
        assert_eq!(t.coverage(), 18.0 / 33.0);
        let p = LossWeights::new(&pairs, &single, 0.2, MixReduction::Pair);
        assert_eq!(p.b, [0.2 / (2.0 * 5.0), 0.2 / (2.0 * 4.0), 0.0]);
        // Σ over mixed positions of b is μ either way: the mean of a constant loss is that constant.
        for w in [t, p] {
            let sum: f64 = w.b.iter().zip(&pairs).map(|(b, &(c, u))| b * f64::from(c.min(u))).sum();
            assert!((sum - 0.2).abs() < 1e-15);
        }
    }

    #[test]
    fn plain_and_empty_steps() {
        let plain = LossWeights::new(&[], &[3, 1], 0.2, MixReduction::Token);
        assert_eq!((plain.a, plain.b.len(), plain.coverage()), (0.25, 0, 0.0));
        let empty = LossWeights::new(&[(0, 0)], &[], 0.2, MixReduction::Pair);
        assert_eq!((empty.a, empty.b, empty.t_ntp), (0.0, vec![0.0], 0));
    }
}
