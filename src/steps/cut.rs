//! How the rows of an optimizer step are cut into groups and micro-batches, by their lengths alone.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::data::tokens::TokenStore;
use crate::recipe::Step;

/// How rows and the loss are cut: what the settings left open. It decides bits, so a run keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Most rows whose blocks run together.
    pub micro_batch: usize,
    /// Tokens that they have together at most, unless one row has more; absent is no limit.
    #[serde(default)]
    pub micro_tokens: Option<usize>,
    /// Supervised positions whose logits exist at once.
    pub loss_chunk: usize,
}

impl Cut {
    /// Tokens that may run together.
    pub(crate) fn micro_tokens(&self) -> usize {
        self.micro_tokens.unwrap_or(usize::MAX)
    }
}

/// The rows of a group, by their lengths.
#[derive(Clone, Copy, Debug)]
pub struct GroupRows {
    /// Tokens of all its micro-batches.
    pub tokens: usize,
    /// Tokens of the largest micro-batch.
    pub together: usize,
    /// Tokens of the longest row.
    pub longest: usize,
    /// Supervised tokens.
    pub supervised: usize,
}

/// Runs of neighbours with at most `most` members and, unless one alone has more, at most `limit` tokens
/// together; about equal where more than one run is needed: a short last run would waste its reading of the
/// weights.
fn runs(tokens: &[usize], most: usize, limit: usize) -> Vec<Range<usize>> {
    let mut left: usize = tokens.iter().sum();
    let mut out = Vec::new();
    let mut first = 0;
    while first < tokens.len() {
        let parts = left.div_ceil(limit.max(1)).max((tokens.len() - first).div_ceil(most.max(1))).max(1);
        let aim = left.div_ceil(parts);
        let (mut end, mut sum) = (first + 1, tokens[first]);
        while end < tokens.len() && end - first < most && sum + tokens[end] <= limit {
            // On whichever side of the aim the sum comes nearer.
            if sum + tokens[end] > aim && sum + tokens[end] - aim > aim.saturating_sub(sum) {
                break;
            }
            sum += tokens[end];
            end += 1;
        }
        left -= sum;
        out.push(first..end);
        first = end;
    }
    out
}

/// The pairs and rows of a step by their lengths.
pub(crate) struct Lengths<'a> {
    /// λ, and for both rows tokens and supervised tokens.
    pub pairs: &'a [(f64, [(usize, u32); 2])],
    /// Tokens and supervised tokens.
    pub single: &'a [(usize, u32)],
}

/// One group of a step: its pairs, and the rows of each micro-batch. Rows are numbered: pair after pair, then
/// the single ones.
pub(crate) struct Part {
    pub pairs: Range<usize>,
    pub micros: Vec<Range<usize>>,
}

/// The groups of a step. Pairs stay together; where a pair is more than may run together, its rows run one
/// after the other and meet in the loss.
pub(crate) fn parts(rows: &Lengths, cut: Cut) -> Vec<Part> {
    let mut parts = Vec::new();
    let tokens: Vec<usize> = rows.pairs.iter().map(|(_, [c, u])| c.0 + u.0).collect();
    for pairs in runs(&tokens, (cut.micro_batch / 2).max(1), cut.micro_tokens()) {
        let (first, end) = (2 * pairs.start, 2 * pairs.end);
        let apart = cut.micro_batch == 1 || (pairs.len() == 1 && tokens[pairs.start] > cut.micro_tokens());
        let each = if apart { 1 } else { end - first };
        let micros = (first..end).step_by(each).map(|r| r..r + each).collect();
        parts.push(Part { pairs, micros });
    }
    let (tokens, first) = (rows.single.iter().map(|r| r.0).collect::<Vec<_>>(), 2 * rows.pairs.len());
    for run in runs(&tokens, cut.micro_batch, cut.micro_tokens()) {
        parts.push(Part { pairs: 0..0, micros: std::iter::once(first + run.start..first + run.end).collect() });
    }
    parts
}

/// What the footprints of a step's groups depend on, from the rows' lengths alone.
pub(crate) fn shapes(rows: &Lengths, how: Cut) -> Vec<GroupRows> {
    let row = |i: usize| match i.checked_sub(2 * rows.pairs.len()) {
        Some(single) => rows.single[single],
        None => rows.pairs[i / 2].1[i % 2],
    };
    let of = |part: Part| {
        let tokens = |m: &Range<usize>| m.clone().map(|i| row(i).0).sum::<usize>();
        let all = || part.micros.iter().cloned().flatten().map(row);
        GroupRows {
            tokens: all().map(|r| r.0).sum(),
            together: part.micros.iter().map(tokens).max().unwrap_or(0),
            longest: all().map(|r| r.0).max().unwrap_or(0),
            supervised: all().map(|r| r.1 as usize).sum(),
        }
    };
    parts(rows, how).into_iter().map(of).collect()
}

/// The lengths of a step's rows.
pub(crate) fn with_lengths<T>(store: &TokenStore, step: &Step, f: impl FnOnce(Lengths) -> T) -> T {
    let of = |i: u32| {
        let e = store.example(i as usize);
        (e.tokens.len(), e.n_supervised)
    };
    let pairs: Vec<_> = step.pairs.iter().map(|p| (p.lambda, [of(p.confident), of(p.unconfident)])).collect();
    let single: Vec<_> = step.single.iter().map(|&i| of(i)).collect();
    f(Lengths { pairs: &pairs, single: &single })
}

/// What the footprints of their groups depend on.
pub(crate) fn group_shapes(store: &TokenStore, step: &Step, how: Cut) -> Vec<GroupRows> {
    with_lengths(store, step, |lengths| shapes(&lengths, how))
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn runs_hold_what_may_run_together_and_are_about_equal() {
        assert_eq!(runs(&[100; 8], 8, 4096), vec![0..8]);
        assert_eq!(runs(&[100; 8], 3, 4096), vec![0..3, 3..6, 6..8]);
        // Not 7 and 1.
        assert_eq!(runs(&[100; 8], 8, 750), vec![0..4, 4..8]);
        assert_eq!(runs(&[500, 100, 100, 100], 8, 450), vec![0..1, 1..4]);
        assert_eq!(runs(&[10, 900, 10], 8, 500), vec![0..1, 1..2, 2..3]);
        assert_eq!(runs(&[], 8, 500), Vec::<std::ops::Range<usize>>::new());
        for (most, limit) in [(1, 10), (4, 300), (usize::MAX, 1000), (2, usize::MAX)] {
            let tokens: Vec<usize> = (0..50).map(|i| 20 + (i * 37) % 200).collect();
            let cut = runs(&tokens, most, limit);
            assert_eq!(cut.iter().flat_map(|r| r.clone()).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
            for r in cut {
                assert!(r.len() <= most && (r.len() == 1 || tokens[r].iter().sum::<usize>() <= limit));
            }
        }
    }
}
