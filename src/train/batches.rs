//! From the rows of an optimizer step to groups of micro-batches.

use std::ops::Range;

use super::group::{Group, MicroBatch, PairSpec};
use crate::config::MixReduction;
use crate::data::tokens::Ragged;
use crate::data::tokens::TokenStore;
use crate::recipe::LossWeights;
use crate::recipe::Step;
use crate::steps::cut::{parts, with_lengths, Cut, Lengths, Part};

/// How the halves of a pair are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixing {
    /// μ.
    pub mu: f64,
    /// How Mixup terms are averaged.
    pub reduction: MixReduction,
}

/// The groups of one step, and the weights of its loss.
#[derive(Debug)]
pub struct StepGroups {
    /// In the order they run.
    pub groups: Vec<Group>,
    /// Supervised tokens.
    pub supervised: u64,
    /// Mixed positions.
    pub mixed: u64,
    /// Share of the supervised tokens that are mixed.
    pub coverage: f64,
}

/// Groups of a step whose rows are numbered: pair after pair, then the single ones.
pub(crate) fn cut(rows: Lengths, cut: Cut, mixing: Mixing, micro: impl Fn(Range<usize>) -> MicroBatch) -> StepGroups {
    let supervised: Vec<(u32, u32)> = rows.pairs.iter().map(|(_, [c, u])| (c.1, u.1)).collect();
    let alone: Vec<u32> = rows.single.iter().map(|r| r.1).collect();
    // With μ = 1 the weights b are the norms of the pairs' sums; μ is applied in the loss.
    let w = LossWeights::new(&supervised, &alone, 1.0, mixing.reduction);
    let group = |part: Part| {
        let specs = part.pairs.enumerate().map(|(i, pair)| PairSpec {
            confident: 2 * i,
            unconfident: 2 * i + 1,
            lambda: rows.pairs[pair].0,
            norm: w.b[pair],
        });
        let pairs: Vec<PairSpec> = specs.collect();
        let mu = if pairs.is_empty() { 0.0 } else { mixing.mu };
        Group { micros: part.micros.into_iter().map(&micro).collect(), pairs, a: w.a, mu }
    };
    let groups = parts(&rows, cut).into_iter().map(group).collect();
    StepGroups { groups, supervised: w.t_ntp, mixed: w.t_mix, coverage: w.coverage() }
}

/// The groups of a step over a store.
pub fn groups(store: &TokenStore, step: &Step, how: Cut, mixing: Mixing) -> StepGroups {
    let numbered: Vec<u32> =
        step.pairs.iter().flat_map(|p| [p.confident, p.unconfident]).chain(step.single.iter().copied()).collect();
    let micro = |rows: Range<usize>| MicroBatch::new(&Ragged::from_store(store, &numbered[rows]));
    with_lengths(store, step, |lengths| cut(lengths, how, mixing, micro))
}
