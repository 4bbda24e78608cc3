//! From the rows of an optimizer step to groups of micro-batches.

use super::group::{Group, MicroBatch, PairSpec};
use crate::config::MixReduction;
use crate::data::batch::Ragged;
use crate::data::store::TokenStore;
use crate::recipe::{LossWeights, Step};

/// How steps are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Rows whose blocks run together.
    pub micro_batch: usize,
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

/// Groups of a step's rows. Pairs stay together; with a micro-batch of one row the two rows of a pair run
/// one after the other and meet in the loss.
pub fn groups(store: &TokenStore, step: &Step, cut: Cut) -> StepGroups {
    let n = |i: u32| store.example(i as usize).n_supervised;
    let lengths: Vec<(u32, u32)> = step.pairs.iter().map(|p| (n(p.confident), n(p.unconfident))).collect();
    let singles: Vec<u32> = step.single.iter().map(|&i| n(i)).collect();
    // With μ = 1 the weights b are the norms of the pairs' sums; μ is applied in the loss.
    let w = LossWeights::new(&lengths, &singles, 1.0, cut.reduction);
    let micro = |rows: &[u32]| MicroBatch::new(&Ragged::from_store(store, rows));
    let mut out = Vec::new();
    let per_group = (cut.micro_batch / 2).max(1);
    for (pairs, norms) in step.pairs.chunks(per_group).zip(w.b.chunks(per_group)) {
        let rows: Vec<u32> = pairs.iter().flat_map(|p| [p.confident, p.unconfident]).collect();
        let specs = pairs.iter().zip(norms).enumerate().map(|(i, (p, &norm))| PairSpec {
            confident: 2 * i,
            unconfident: 2 * i + 1,
            lambda: p.lambda,
            norm,
        });
        let micros = if cut.micro_batch == 1 { rows.chunks(1).map(micro).collect() } else { vec![micro(&rows)] };
        out.push(Group { micros, pairs: specs.collect(), a: w.a, mu: cut.mu });
    }
    for rows in step.single.chunks(cut.micro_batch) {
        out.push(Group::plain(vec![micro(rows)], w.a));
    }
    StepGroups { groups: out, supervised: w.t_ntp, mixed: w.t_mix, coverage: w.coverage() }
}
