//! Rows of random tokens, and the groups of a step.
//!
//! Packed rows have the same length and train every token. Otherwise lengths follow those of Alpaca under
//! Stanford's template: the prompt is log-normal with mean 70 and deviation 30 tokens, at least 20; the
//! response is log-normal with mean 65 and σ = 1.1 (median 35), at least 2; the row is cut at `seq`
//! tokens, and the response is what is trained. Rows are a function of (seed, number).

use crate::config::{MixReduction, Recipe};
use crate::data::tokens::Ragged;
use crate::recipe::beta::sample as sample_beta;
use crate::rng::{Key, Stream};
use crate::steps::cut::{Cut, Lengths};
use crate::train::batches::{cut, Mixing};
use crate::train::group::{Group, MicroBatch};

/// What random rows look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowShape {
    pub seed: u64,
    pub packed: bool,
    pub seq: usize,
    pub vocab: usize,
}

/// Ids, and whether each is trained.
pub(super) type Row = (Vec<u32>, Vec<bool>);

impl RowShape {
    /// Row `number`.
    pub fn row(&self, number: u64) -> Row {
        let key = Key::new(self.seed, Stream::Bench, &[1, number]);
        let (prompt, length) = if self.packed {
            (0, self.seq)
        } else {
            let (p, r) = key.normal2(0);
            let prompt = log_normal(70.0, (1.0f64 + (30.0f64 / 70.0).powi(2)).ln().sqrt(), p).max(20);
            (prompt, (prompt + log_normal(65.0, 1.1, r).max(2)).min(self.seq))
        };
        let ids = (0..length as u64).map(|i| key.below(2 + i, self.vocab as u64) as u32).collect();
        (ids, (0..length).map(|i| i >= prompt).collect())
    }

    /// Mean length, of some rows.
    pub fn mean(&self) -> f64 {
        let some = if self.packed { 1 } else { 200 };
        (0..some).map(|n| self.row(n).0.len()).sum::<usize>() as f64 / some as f64
    }

    /// The rows of step `step`.
    pub fn batch(&self, step: u64, batch_size: usize) -> Vec<Row> {
        let first = step * batch_size as u64;
        (first..first + batch_size as u64).map(|n| self.row(n)).collect()
    }
}

/// Rounded exp(μ + σz) where μ is such that the mean is `mean`.
fn log_normal(mean: f64, sigma: f64, z: f64) -> usize {
    libm::exp(libm::log(mean) - sigma * sigma / 2.0 + sigma * z).round() as usize
}

/// A step as it is run.
pub(super) struct Step {
    pub groups: Vec<Group>,
    pub lengths: Vec<usize>,
    /// Positions that predict a trained token.
    pub supervised: usize,
}

impl Step {
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The tokens of each micro-batch.
    pub fn micro_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.groups.iter().flat_map(|g| &g.micros).map(MicroBatch::tokens)
    }

    /// Groups as training makes them: with SFTMix neighbours are pairs, λ ~ Beta(½, ½) and μ = 0.2.
    pub fn new(rows: &[Row], number: u64, recipe: Recipe, how: Cut, seed: u64) -> Step {
        let micro = |rows: &[Row]| MicroBatch::new(&Ragged::from_rows(rows));
        let of = |row: &Row| (row.0.len(), micro(std::slice::from_ref(row)).supervised() as u32);
        let mixed = match recipe {
            Recipe::Sftmix => rows.len() / 2 * 2,
            Recipe::Ntp => 0,
        };
        let (pairs, single) = rows.split_at(mixed);
        let lambda = |i: usize| sample_beta(Key::new(seed, Stream::Lambda, &[number, i as u64]), 0.5);
        let pairs: Vec<_> =
            pairs.chunks_exact(2).enumerate().map(|(i, p)| (lambda(i), [of(&p[0]), of(&p[1])])).collect();
        let single: Vec<_> = single.iter().map(of).collect();
        let mixing = Mixing { mu: 0.2, reduction: MixReduction::Token };
        let made = cut(Lengths { pairs: &pairs, single: &single }, how, mixing, |r| micro(&rows[r]));
        let lengths = rows.iter().map(|r| r.0.len()).collect();
        Step { groups: made.groups, lengths, supervised: made.supervised as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_the_stated_distribution() {
        let shape = RowShape { seed: 1, packed: false, seq: 512, vocab: 1000 };
        let rows: Vec<Row> = (0..20_000).map(|n| shape.row(n)).collect();
        let mean = |f: &dyn Fn(&Row) -> usize| rows.iter().map(f).sum::<usize>() as f64 / rows.len() as f64;
        let prompt = mean(&|r| r.1.iter().filter(|&&t| !t).count());
        let response = mean(&|r| r.1.iter().filter(|&&t| t).count());
        assert!((prompt - 70.0).abs() < 1.0, "{prompt}");
        // The cut takes a little off the tail.
        assert!((60.0..65.0).contains(&response), "{response}");
        assert!(rows.iter().all(|r| (22..=512).contains(&r.0.len())));
        assert!(rows.iter().any(|r| r.0.len() == 512));
        assert_eq!(rows[7], shape.row(7));
        let packed = RowShape { packed: true, ..shape }.row(0);
        assert_eq!((packed.0.len(), packed.1.iter().all(|&t| t)), (512, true));
    }

    #[test]
    fn every_row_is_run_once_however_the_step_is_cut() {
        let shape = RowShape { seed: 1, packed: false, seq: 512, vocab: 1000 };
        let rows = shape.batch(2, 7);
        for recipe in [Recipe::Ntp, Recipe::Sftmix] {
            for micro_batch in [1, 2, 3, 8] {
                let how = Cut { micro_batch, micro_tokens: None, loss_chunk: 32 };
                let s = Step::new(&rows, 2, recipe, how, 0);
                assert_eq!(s.micro_tokens().sum::<usize>(), s.tokens());
                let n: usize = s.groups.iter().flat_map(|g| &g.micros).map(MicroBatch::supervised).sum();
                assert_eq!(n, s.supervised);
                let pairs: usize = s.groups.iter().map(|g| g.pairs.len()).sum();
                assert_eq!(pairs, if recipe == Recipe::Sftmix { 3 } else { 0 });
            }
        }
    }
}
