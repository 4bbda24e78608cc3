//! The order in which rows are seen, and rows laid end to end without padding.
//!
//! The order is a function of (seed, stage, epoch), so a resumed run draws it again instead of
//! reading it back; it is all that training holds in memory per example, four bytes each.

use std::ops::Range;

use super::store::TokenStore;
use super::tokenizer::TARGET;
use crate::rng::{Key, Stream};

/// In [`Ragged::targets`]: nothing is predicted here.
pub const NONE: u32 = u32::MAX;

/// The examples `0..n` shuffled for one epoch of one stage.
pub fn epoch_order(n: u32, seed: u64, stage: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    Key::new(seed, Stream::RowOrder, &[stage, epoch]).shuffle(&mut order);
    order
}

/// Rows of several lengths end to end. `N` is the sum of their lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ragged {
    /// Token ids, `[N]`.
    pub ids: Vec<u32>,
    /// `[N]`: at position t the id at t + 1 of the same row, if that token is trained, else
    /// [`NONE`]. The last position of a row predicts nothing.
    pub targets: Vec<u32>,
    /// Where rows begin, and N: `[rows + 1]`.
    pub offsets: Vec<u32>,
    /// Number of each row in the store it came from (its place, for [`Ragged::from_rows`]).
    pub examples: Vec<u32>,
}

impl Ragged {
    /// Lays examples of a store end to end, in the given order; one may occur twice. Together they
    /// have fewer than 2^32 tokens.
    ///
    /// # Panics
    /// When a number is not below [`TokenStore::len`].
    pub fn from_store(store: &TokenStore, examples: &[u32]) -> Ragged {
        let tokens = examples.iter().map(|i| store.example(*i as usize).tokens.len()).sum();
        let mut out = Ragged::with_capacity(tokens, examples.len());
        for &i in examples {
            let tokens = store.example(i as usize).tokens;
            out.push(i, tokens.iter().map(|t| (t & !TARGET, t & TARGET != 0)));
        }
        out
    }

    /// Lays rows of (ids, whether each is trained) end to end. A row's mask that is shorter than its
    /// ids leaves the rest untrained.
    pub fn from_rows(rows: &[(Vec<u32>, Vec<bool>)]) -> Ragged {
        let mut out = Ragged::with_capacity(rows.iter().map(|r| r.0.len()).sum(), rows.len());
        for (i, (ids, trained)) in rows.iter().enumerate() {
            out.push(i as u32, ids.iter().copied().zip(trained.iter().copied().chain(std::iter::repeat(false))));
        }
        out
    }

    fn with_capacity(tokens: usize, rows: usize) -> Ragged {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let (ids, targets) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        Ragged { ids, targets, offsets, examples: Vec::with_capacity(rows) }
    }

    fn push(&mut self, example: u32, tokens: impl Iterator<Item = (u32, bool)>) {
        for (position, (id, trained)) in tokens.enumerate() {
            if position > 0 {
                self.targets.push(if trained { id } else { NONE });
            }
            self.ids.push(id);
        }
        // One target short of the ids: the row's last position, unless the row is empty.
        self.targets.resize(self.ids.len(), NONE);
        self.offsets.push(self.ids.len() as u32);
        self.examples.push(example);
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.examples.len()
    }

    /// Number of tokens, N.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest row.
    pub fn longest(&self) -> usize {
        (0..self.n_rows()).map(|i| self.row(i).len()).max().unwrap_or(0)
    }

    /// Positions of the `i`-th row.
    ///
    /// # Panics
    /// When `i` is not below [`Ragged::n_rows`].
    pub fn row(&self, i: usize) -> Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// The `i`-th row's positions that predict a trained token, counted from the start of the batch,
    /// each with its target.
    ///
    /// # Panics
    /// When `i` is not below [`Ragged::n_rows`].
    pub fn supervised(&self, i: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.row(i).map(|t| (t, self.targets[t])).filter(|(_, target)| *target != NONE)
    }

    /// Number of positions that predict a trained token.
    pub fn n_supervised(&self) -> usize {
        self.targets.iter().filter(|t| **t != NONE).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_of_its_own() {
        let order = epoch_order(1000, 1, 0, 0);
        assert_eq!(order, epoch_order(1000, 1, 0, 0));
        for other in [epoch_order(1000, 2, 0, 0), epoch_order(1000, 1, 1, 0), epoch_order(1000, 1, 0, 1)] {
            assert_ne!(order, other);
        }
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert!(epoch_order(0, 1, 0, 0).is_empty());
    }

    #[test]
    fn targets_are_the_next_token_of_the_same_row() {
        let batch = Ragged::from_rows(&[
            (vec![1, 5, 6], vec![true, false, true]),
            (vec![], vec![]),
            (vec![7], vec![true]),
            (vec![1, 8, 9], vec![false, true]),
        ]);
        assert_eq!(batch.ids, [1, 5, 6, 7, 1, 8, 9]);
        assert_eq!(batch.targets, [NONE, 6, NONE, NONE, 8, NONE, NONE]);
        assert_eq!(batch.offsets, [0, 3, 3, 4, 7]);
        assert_eq!((batch.n_rows(), batch.n_tokens(), batch.n_supervised(), batch.longest()), (4, 7, 2, 3));
        assert_eq!(batch.supervised(0).collect::<Vec<_>>(), [(1, 6)]);
        assert_eq!(batch.supervised(3).collect::<Vec<_>>(), [(4, 8)]);
        assert_eq!(batch.supervised(1).count() + batch.supervised(2).count(), 0);
        assert_eq!(Ragged::from_rows(&[]).offsets, [0]);
    }
}
