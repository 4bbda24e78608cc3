//! An epoch of pairs: each half shuffled by itself, the k-th of one with the k-th of the other, each
//! pair with its λ (arXiv 2410.05248: as many confident as unconfident examples in every batch,
//! paired at random inside it).
//!
//! Everything is a function of (seed, epoch, which rows are in which half), so a resumed run needs
//! only the number of its step.

use super::{beta, split::Halves};
use crate::rng::{Key, Stream};

/// A confident and an unconfident example that meet in the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Example of the confident half.
    pub confident: u32,
    /// Example of the unconfident half.
    pub unconfident: u32,
    /// Number of the pair in its epoch, from 0.
    pub index: u64,
    /// Share of the confident one in states and targets, 0 ≤ λ ≤ 1.
    pub lambda: f64,
}

/// The rows of one optimizer step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Rows that are mixed; they take part in next-token prediction too.
    pub pairs: Vec<Pair>,
    /// Rows for next-token prediction alone.
    pub single: Vec<u32>,
}

/// The pairs of one epoch. 4 bytes a row.
#[derive(Clone, Debug)]
pub struct EpochPairs {
    confident: Vec<u32>,
    unconfident: Vec<u32>,
    neither: Vec<u32>,
    pairs_per_step: usize,
    seed: u64,
    epoch: u64,
    alpha: f64,
}

impl EpochPairs {
    /// The pairs of `epoch`, with λ ~ Beta(α, α). `pairs_per_step` is half the batch; 0 counts as 1.
    pub fn new(halves: &Halves, seed: u64, epoch: u64, pairs_per_step: usize, alpha: f64) -> EpochPairs {
        let shuffled = |rows: &[u32], half: u64| {
            let mut rows = rows.to_vec();
            // Start from the order of the set: the pairing then depends on who is in a half, not on the
            // last bits of the confidences that order it.
            rows.sort_unstable();
            Key::new(seed, Stream::HalfOrder, &[epoch, half]).shuffle(&mut rows);
            rows
        };
        EpochPairs {
            confident: shuffled(halves.confident(), 0),
            unconfident: shuffled(halves.unconfident(), 1),
            neither: shuffled(halves.neither(), 2),
            pairs_per_step: pairs_per_step.max(1),
            seed,
            epoch,
            alpha,
        }
    }

    /// Steps in the epoch; see [`mixed_steps`].
    pub fn steps_per_epoch(&self) -> u64 {
        mixed_steps(self.confident.len() as u64, self.neither.len() as u64, self.pairs_per_step as u64)
    }

    /// The rows of step `k`, from 0; empty past the last. The last step may hold fewer pairs. Rows of
    /// neither half ride along from the last step backwards, at most a batch's worth a step.
    pub fn step(&self, k: u64) -> Step {
        let steps = self.steps_per_epoch();
        if k >= steps {
            return Step::default();
        }
        let per_step = self.pairs_per_step as u64;
        let n = self.confident.len() as u64;
        let pairs = (k * per_step).min(n)..((k + 1) * per_step).min(n);
        let pairs = pairs
            .map(|index| Pair {
                confident: self.confident[index as usize],
                unconfident: self.unconfident[index as usize],
                index,
                lambda: beta::sample(Key::new(self.seed, Stream::Lambda, &[self.epoch, index]), self.alpha),
            })
            .collect();
        let batch = 2 * per_step;
        let singles = self.neither.len() as u64;
        let from = ((steps - 1 - k) * batch).min(singles);
        let to = (from + batch).min(singles);
        Step { pairs, single: self.neither[from as usize..to as usize].to_vec() }
    }
}

/// Steps of an epoch of `pairs`, `pairs_per_step` at a time, with `singles` rows that ride along:
/// `⌈pairs / pairs_per_step⌉`, more only if the singles fill more batches than that.
pub fn mixed_steps(pairs: u64, singles: u64, pairs_per_step: u64) -> u64 {
    let per_step = pairs_per_step.max(1);
    pairs.div_ceil(per_step).max(singles.div_ceil(2 * per_step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(known: usize, unknown: usize) -> Halves {
        let mut conf: Vec<f32> = (0..known).map(|i| -((i * 7919 % known) as f32)).collect();
        conf.extend(vec![f32::NAN; unknown]);
        Halves::split(&conf).unwrap()
    }

    #[test]
    fn every_row_comes_once_and_from_its_half() {
        for (known, unknown, per_step) in [(20, 0, 2), (21, 0, 3), (23, 9, 2), (4, 40, 1), (2, 0, 16), (1001, 7, 4)] {
            let h = halves(known, unknown);
            let labels = h.labels();
            let e = EpochPairs::new(&h, 5, 1, per_step, 0.5);
            let steps = e.steps_per_epoch();
            let mut seen = vec![0; known + unknown];
            let mut index = 0;
            for k in 0..steps {
                let s = e.step(k);
                assert!(!s.pairs.is_empty() || !s.single.is_empty());
                assert!(s.pairs.len() <= per_step && s.single.len() <= 2 * per_step);
                for p in &s.pairs {
                    assert_eq!(p.index, index);
                    index += 1;
                    assert_eq!(labels[p.confident as usize], crate::recipe::split::Half::Confident);
                    assert_eq!(labels[p.unconfident as usize], crate::recipe::split::Half::Unconfident);
                    assert!((0.0..=1.0).contains(&p.lambda));
                    seen[p.confident as usize] += 1;
                    seen[p.unconfident as usize] += 1;
                }
                s.single.iter().for_each(|&i| seen[i as usize] += 1);
            }
            assert_eq!(seen, vec![1; known + unknown], "{known} {unknown} {per_step}");
            assert_eq!(e.step(steps), Step::default());
        }
    }

    #[test]
    fn one_odd_row_rides_in_the_last_step() {
        let e = EpochPairs::new(&halves(9, 0), 0, 0, 3, 0.5);
        assert_eq!(e.steps_per_epoch(), 2);
        assert_eq!((e.step(0).pairs.len(), e.step(0).single.len()), (3, 0));
        assert_eq!((e.step(1).pairs.len(), e.step(1).single.len()), (1, 1));
    }

    #[test]
    fn pairs_follow_from_seed_epoch_and_membership() {
        let h = halves(64, 0);
        let all = |h: &Halves, seed, epoch, per_step| {
            let e = EpochPairs::new(h, seed, epoch, per_step, 0.5);
            (0..e.steps_per_epoch()).flat_map(|k| e.step(k).pairs).collect::<Vec<_>>()
        };
        let a = all(&h, 1, 0, 4);
        assert_eq!(a, all(&h, 1, 0, 7), "λ and partner do not depend on the batch");
        assert_ne!(a, all(&h, 2, 0, 4));
        let b = all(&h, 1, 1, 4);
        assert!(a.iter().zip(&b).any(|(x, y)| x.lambda != y.lambda && x.confident != y.confident));
        // The same halves in another order inside.
        let reversed: Vec<f32> = h
            .labels()
            .iter()
            .enumerate()
            .map(|(i, l)| if *l == crate::recipe::split::Half::Confident { 100.0 + i as f32 } else { i as f32 })
            .collect();
        assert_eq!(a, all(&Halves::split(&reversed).unwrap(), 1, 0, 4));
    }
}
