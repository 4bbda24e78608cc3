//! A group: the rows that must meet in the loss, run as one or more micro-batches.
//!
//! Blocks run one micro-batch at a time; only the states at supervised positions meet, in one chunked
//! loss. The weights a, b come from the whole optimizer step, so gradients are summed and any split into
//! groups and micro-batches gives the same ones.

use std::ops::Range;

use crate::data::tokens::{Ragged, NONE};
use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::model::{Decoder, Keep};
use crate::ops::elementwise::DropoutKey;
use crate::ops::head_loss::{self, Mix, Supervised, Unit};
use crate::ops::linear::SlotGrad;
use crate::ops::{rows, Engine, Layout};
use crate::plan::footprint::Footprint;
use crate::recipe::entropy;
use crate::steps::cut::GroupRows;

/// Rows that run through the blocks together.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    ids: Vec<u32>,
    layout: Layout,
    /// Positions that predict a supervised token, row after row.
    positions: Vec<u32>,
    targets: Vec<u32>,
    /// Each row's part of `positions`.
    rows: Vec<Range<usize>>,
    examples: Vec<u32>,
}

impl MicroBatch {
    /// The micro-batch of these rows.
    pub fn new(ragged: &Ragged) -> MicroBatch {
        let (mut positions, mut targets, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for w in ragged.offsets.windows(2) {
            let first = positions.len();
            for t in w[0]..w[1] {
                let target = ragged.targets[t as usize];
                if target != NONE {
                    positions.push(t);
                    targets.push(target);
                }
            }
            rows.push(first..positions.len());
        }
        MicroBatch {
            ids: ragged.ids.clone(),
            layout: Layout::new(ragged.offsets.clone(), ragged.examples.iter().map(|&e| e as u64).collect()),
            positions,
            targets,
            rows,
            examples: ragged.examples.clone(),
        }
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Supervised tokens.
    pub fn supervised(&self) -> usize {
        self.positions.len()
    }
}

/// Two rows whose states are mixed.
#[derive(Clone, Copy, Debug)]
pub struct PairSpec {
    /// Number of the confident row in the group.
    pub confident: usize,
    /// Number of the unconfident row.
    pub unconfident: usize,
    /// λ.
    pub lambda: f64,
    /// What the sum of the pair's mixed losses is multiplied with: 1/T_mix, or 1/(P·m).
    pub norm: f64,
}

/// Rows that meet in the loss.
#[derive(Clone, Debug)]
pub struct Group {
    /// The rows, in micro-batches.
    pub micros: Vec<MicroBatch>,
    /// Which rows are mixed; the others take part in next-token prediction only.
    pub pairs: Vec<PairSpec>,
    /// Weight a of each supervised token.
    pub a: f64,
    /// μ.
    pub mu: f64,
}

/// What one row of a group gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowResult {
    /// Number of the example.
    pub example: u32,
    /// Supervised tokens.
    pub tokens: u32,
    /// Those predicted right by arg-max.
    pub correct: u32,
    /// Σ −log p.
    pub nll: f64,
    /// Σ p of the gold token.
    pub prob: f64,
    /// Σ entropy of the prediction, nats (training only).
    pub entropy: f64,
}

/// Claimed against true: predictions by the probability claimed for them, in bins of equal width.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    bins: [(u64, u64, f64); 15],
}

impl Calibration {
    /// Counts a prediction.
    pub fn add(&mut self, claimed: f32, correct: bool) {
        let last = self.bins.len() - 1;
        let bin = &mut self.bins[((claimed * 15.0) as usize).min(last)];
        *bin = (bin.0 + 1, bin.1 + correct as u64, bin.2 + claimed as f64);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Calibration) {
        for (a, b) in self.bins.iter_mut().zip(&other.bins) {
            *a = (a.0 + b.0, a.1 + b.1, a.2 + b.2);
        }
    }

    /// Expected calibration error (Guo et al. 2017): Σ over bins of their share × |accuracy − mean claim|.
    pub fn error(&self) -> f64 {
        let n: u64 = self.bins.iter().map(|b| b.0).sum();
        self.bins.iter().map(|b| (b.1 as f64 - b.2).abs()).sum::<f64>() / (n as f64).max(1.0)
    }
}

/// What a group gave.
#[derive(Clone, Debug, Default)]
pub struct GroupResult {
    /// Blocks that kept their activations.
    pub kept_blocks: usize,
    /// Each row, in order.
    pub rows: Vec<RowResult>,
    /// Claimed against true, over the supervised tokens.
    pub calibration: Calibration,
    /// Σ mixed cross-entropy over each pair's tokens.
    pub pair_sums: Vec<f64>,
    /// Mixed tokens of each pair.
    pub pair_tokens: Vec<usize>,
    /// The group's part of the Mixup loss, without μ.
    pub mixup: f64,
    /// The part of it that no model can go below: the entropy of the mixed targets.
    pub mixup_floor: f64,
}

/// How a group runs.
pub struct GroupRun<'a> {
    /// Where.
    pub engine: &'a Engine,
    /// The model.
    pub model: &'a Decoder,
    /// The adapter, if any.
    pub adapter: Option<&'a Adapter>,
    /// What is kept for the backward pass.
    pub keep: Keep,
    /// Set in training.
    pub dropout: Option<DropoutKey>,
}

/// Where a row's states begin among the group's, and what they predict.
struct RowStates<'a> {
    example: u32,
    first: usize,
    targets: &'a [u32],
}

impl Group {
    /// Rows without mixing.
    pub fn plain(micros: Vec<MicroBatch>, a: f64) -> Group {
        Group { micros, pairs: Vec::new(), a, mu: 0.0 }
    }

    /// What its footprint depends on.
    pub fn shape(&self) -> GroupRows {
        let longest = self.micros.iter().flat_map(|m| m.layout.offsets().windows(2).map(|w| w[1] - w[0])).max();
        GroupRows {
            tokens: self.micros.iter().map(MicroBatch::tokens).sum(),
            together: self.micros.iter().map(MicroBatch::tokens).max().unwrap_or(0),
            longest: longest.unwrap_or(0) as usize,
            supervised: self.micros.iter().map(MicroBatch::supervised).sum(),
        }
    }

    fn rows(&self) -> Vec<RowStates<'_>> {
        let mut out = Vec::new();
        let mut before = 0;
        for m in &self.micros {
            for (r, &example) in m.rows.iter().zip(&m.examples) {
                out.push(RowStates { example, first: before + r.start, targets: &m.targets[r.clone()] });
            }
            before += m.positions.len();
        }
        out
    }

    /// Units of the loss and the row each of their positions belongs to.
    fn units(&self, rows: &[RowStates]) -> Result<(Vec<Unit>, Vec<usize>)> {
        let (mut units, mut owners) = (Vec::new(), Vec::new());
        let at = |row: usize, n: usize| Supervised {
            state: (rows[row].first + n) as u32,
            target: rows[row].targets[n],
            a: self.a as f32,
        };
        let mut paired = vec![false; rows.len()];
        for p in &self.pairs {
            for row in [p.confident, p.unconfident] {
                if row >= rows.len() || std::mem::replace(&mut paired[row], true) {
                    return Err(Error::config("batch_size", "a row stands in two pairs, or in none of the group's"));
                }
            }
            let (nc, nu) = (rows[p.confident].targets.len(), rows[p.unconfident].targets.len());
            let mixed = nc.min(nu);
            let mix = Mix { lambda: p.lambda as f32, b: (self.mu * p.norm) as f32 };
            for n in 0..mixed {
                units.push(Unit::Mixed(at(p.confident, n), at(p.unconfident, n), mix));
                owners.extend([p.confident, p.unconfident]);
            }
            for row in [p.confident, p.unconfident] {
                for n in mixed..rows[row].targets.len() {
                    units.push(Unit::Single(at(row, n)));
                    owners.push(row);
                }
            }
        }
        for (row, paired) in paired.into_iter().enumerate() {
            for n in 0..if paired { 0 } else { rows[row].targets.len() } {
                units.push(Unit::Single(at(row, n)));
                owners.push(row);
            }
        }
        Ok((units, owners))
    }

    /// Runs the group forward and, with `grads`, backward, adding to them. Call inside [`Engine::run`].
    ///
    /// # Errors
    /// When an operation fails, or a pair names a row twice.
    pub fn run(&self, run: &GroupRun, grads: Option<&mut [SlotGrad]>) -> Result<GroupResult> {
        let GroupRun { engine, model, adapter, .. } = *run;
        if grads.is_some() && adapter.is_none() {
            return Err(Error::Misuse("gradients are asked for, but there is no adapter".into()));
        }
        let keep = match adapter {
            Some(adapter) if grads.is_some() => {
                let chunk = engine.loss_chunk(model.config.vocab_size);
                let footprint = Footprint::of(engine, &model.config, adapter);
                Keep::Top(footprint.kept_blocks(run.keep, self.shape(), chunk))
            }
            _ => Keep::Nothing,
        };
        let (mut passes, mut states) = (Vec::new(), Vec::new());
        // Nothing is predicted in the others, and devices have no tensors without rows.
        for m in self.micros.iter().filter(|m| m.supervised() > 0) {
            let mut pass = model.forward(engine, adapter, &m.ids, m.layout.clone(), keep, run.dropout)?;
            states.push(engine.passing(|| model.states(engine, &mut pass, m.positions.clone()))?);
            passes.push(pass);
        }
        let rows = self.rows();
        let (units, owners) = self.units(&rows)?;
        let (stats, dh) = match units.is_empty() {
            true => (Vec::new(), None),
            false => {
                let h = engine.passing(|| rows::stack(engine, states, model.config.hidden_size))?;
                model.unchanged()?;
                let loss = || head_loss::forward_backward(engine, model.head(), &h, &units, grads.is_some());
                engine.passing(loss)?
            }
        };
        model.leave_head();

        let mut out = GroupResult {
            kept_blocks: if let Keep::Top(k) = keep { k } else { 0 },
            rows: rows.iter().map(|r| RowResult { example: r.example, ..Default::default() }).collect(),
            ..Default::default()
        };
        for (&row, s) in owners.iter().zip(&stats) {
            let r = &mut out.rows[row];
            r.tokens += 1;
            r.correct += s.correct as u32;
            r.nll += s.nll;
            r.prob += s.prob as f64;
            r.entropy += s.entropy as f64;
            out.calibration.add(s.max_prob, s.correct);
        }
        let mut at = 0;
        for p in &self.pairs {
            let (c, u) = (&rows[p.confident], &rows[p.unconfident]);
            let mixed = c.targets.len().min(u.targets.len());
            let sum: f64 = (0..mixed).map(|n| stats[at + 2 * n].mix_nll).sum();
            let differ = (0..mixed).filter(|&n| c.targets[n] != u.targets[n]).count();
            out.pair_sums.push(sum);
            out.pair_tokens.push(mixed);
            out.mixup += p.norm * sum;
            out.mixup_floor += p.norm * entropy(p.lambda) * differ as f64;
            at += c.targets.len() + u.targets.len();
        }
        if let (Some(grads), Some(dh), Some(adapter)) = (grads, dh, adapter) {
            let mut first = 0;
            for pass in passes {
                let n = pass.states();
                model.backward(engine, adapter, pass, &dh, first, grads)?;
                first += n;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::Calibration;

    #[test]
    fn calibration_error_is_the_gap_of_each_bin() {
        let mut c = Calibration::default();
        // Ten claims of 0.9, six of them right; ten of 0.1, one right.
        (0..10).for_each(|i| c.add(0.9, i < 6));
        (0..10).for_each(|i| c.add(0.1, i < 1));
        assert!((c.error() - 0.5 * 0.3).abs() < 1e-6);
        let mut twice = c;
        twice.merge(&c);
        assert!((twice.error() - c.error()).abs() < 1e-12);
        c.add(1.0, true);
    }
}
