//! What the checkpoints say together: SFTMix's confidence (arXiv 2410.05248) and the measures of
//! dataset cartography (arXiv 2009.10795).
//!
//! With `nll[i,c]` the mean negative log-likelihood of example i's response under checkpoint c:
//! confidence `Conf_i = -(1/C) Σ_c exp(nll[i,c])` as published, or `-(1/C) Σ_c nll[i,c]` (ours).
//! Cartography on generation (ours: the probability of the answer is `p = exp(-nll)`, the geometric
//! mean of its tokens): confidence `p̄ = (1/C) Σ p`, variability `σ = √((1/C) Σ (p - p̄)²)`,
//! correctness `Σ k` with `k = [n_correct/N ≥ ½]`, forgetfulness the number of changes of k from 1 to
//! 0, or 1000 if k is never 1.

use super::block::Record;
use super::fault::fault;
use super::header::{CheckpointInfo, Kind, Stage};
use super::log::DynamicsLog;
use crate::config::Confidence;
use crate::error::Result;

/// The checkpoints the split is made from: those of the reference run, or of the one run of dynamics
/// `single`. Of an online log the first epoch is left out, whose losses mostly measure when a row was
/// visited (ours, not the paper's), and so is an epoch that did not reach every example.
///
/// # Errors
/// There is none, or the log is not finished.
pub fn split_checkpoints(log: &DynamicsLog) -> Result<Vec<usize>> {
    if let Some(c) = incomplete(log) {
        return Err(fault(log.dir(), format!("{} is incomplete: let that run finish", c.id)));
    }
    whole_checkpoints(log)
}

/// The checkpoint that the split will be made from, too, and that is still written.
pub(crate) fn incomplete(log: &DynamicsLog) -> Option<&CheckpointInfo> {
    log.checkpoints().iter().find(|c| c.stage != Stage::Target && !c.complete)
}

/// As [`split_checkpoints`] of a log that may not be finished: those that are whole so far.
///
/// # Errors
/// There is none.
pub(crate) fn whole_checkpoints(log: &DynamicsLog) -> Result<Vec<usize>> {
    let all = || log.checkpoints().iter().enumerate().filter(|(_, c)| c.stage != Stage::Target && c.complete);
    let sweeps: Vec<usize> = all().filter(|(_, c)| c.kind == Kind::Sweep).map(|(i, _)| i).collect();
    if !sweeps.is_empty() {
        return Ok(sweeps);
    }
    let mut online = Vec::new();
    for (i, c) in all().filter(|(_, c)| c.epoch > 1.0) {
        if c.records == log.len() {
            online.push(i);
        } else {
            ::log::warn!("{}: {} left out, {} of {} examples", log.dir().display(), c.id, c.records, log.len());
        }
    }
    if online.is_empty() {
        let reason = "no checkpoint to split by: expected a sweep, or a whole epoch after the first of an online log";
        return Err(fault(log.dir(), reason));
    }
    Ok(online)
}

/// Confidence of every example over the checkpoints `which` (places in
/// [`DynamicsLog::checkpoints`]), in order of the set: minus the mean perplexity, or minus the mean
/// NLL.
///
/// 4 bytes an example. A checkpoint's term is computed in f64 and added to an f32 sum in the order of
/// `which`, so the result is within C·2⁻²⁴ of exact and does not depend on the order of the records.
/// Beyond f32's range it is -∞ and ranks last: perplexity is not capped.
///
/// # Errors
/// [`crate::error::Error::Dynamics`] names the row without tokens, with a non-finite NLL, absent or twice
/// there.
pub fn confidences(log: &DynamicsLog, kind: Confidence, which: &[usize]) -> Result<Vec<f32>> {
    let mut sum = vec![0f32; log.len() as usize];
    visit_all(log, which, |_, r| {
        let s = &mut sum[r.example as usize];
        *s = plus(*s, kind, r);
    })?;
    for s in &mut sum {
        *s = minus_mean(*s, which.len());
    }
    Ok(sum)
}

fn plus(sum: f32, kind: Confidence, r: &Record) -> f32 {
    let term = match kind {
        Confidence::Perplexity => r.perplexity(),
        Confidence::Nll => r.nll(),
    };
    (f64::from(sum) + term) as f32
}

fn minus_mean(sum: f32, checkpoints: usize) -> f32 {
    (-f64::from(sum) / checkpoints as f64) as f32
}

/// What the checkpoints say about one example.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// `(1/C) Σ exp(nll)`; SFTMix's confidence is minus this.
    pub mean_perplexity: f64,
    /// `(1/C) Σ nll`, nats per token.
    pub mean_nll: f64,
    /// Cartography's confidence p̄, the mean of `exp(-nll)`.
    pub confidence: f64,
    /// Population standard deviation of `exp(-nll)`.
    pub variability: f64,
    /// Checkpoints that predict at least half of the tokens.
    pub correctness: u32,
    /// Changes from such a checkpoint to one that does not, or 1000 if there is none.
    pub forgetfulness: u32,
    /// Supervised tokens.
    pub n_tokens: u32,
}

impl Metrics {
    /// Threshold closeness `p̄ (1 - p̄)`.
    pub fn threshold_closeness(&self) -> f64 {
        self.confidence * (1.0 - self.confidence)
    }
}

/// [`Metrics`] of every example over the checkpoints `which`, in order of the set. 48 bytes an
/// example; the split needs only [`confidences`].
///
/// # Errors
/// As [`confidences`]; also where a row's token count differs between checkpoints.
pub fn metrics(log: &DynamicsLog, which: &[usize]) -> Result<Vec<Metrics>> {
    sum_up(log, which, log.len() as usize, |example| Some(example as usize), |_, _| ())
}

/// [`Metrics`] and SFTMix's confidence of some examples, one an entry of `examples`: what [`metrics`] and
/// [`confidences`] say of them, bit for bit, in the memory of these alone.
///
/// # Errors
/// As [`metrics`], of differing token counts for these examples alone.
pub(crate) fn metrics_of(
    log: &DynamicsLog,
    kind: Confidence,
    which: &[usize],
    examples: &[u32],
) -> Result<Vec<(Metrics, f32)>> {
    let mut unique = examples.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let mut sums = vec![0f32; unique.len()];
    let place = |example: u32| unique.binary_search(&example).ok();
    let found = sum_up(log, which, unique.len(), place, |at, r| sums[at] = plus(sums[at], kind, r))?;
    let of = |at: usize| (found[at], minus_mean(sums[at], which.len()));
    Ok(examples.iter().filter_map(|&example| place(example)).map(of).collect())
}

/// [`Metrics`] of the examples that have a place; `also` is shown each of their records.
fn sum_up(
    log: &DynamicsLog,
    which: &[usize],
    len: usize,
    place: impl Fn(u32) -> Option<usize>,
    mut also: impl FnMut(usize, &Record),
) -> Result<Vec<Metrics>> {
    let mut all = vec![Metrics::default(); len];
    let mut was_correct = vec![false; len];
    let mut lengths = Lengths::default();
    visit_all(log, which, |visit, r| {
        let Some(at) = place(r.example) else { return };
        also(at, r);
        let (m, was) = (&mut all[at], &mut was_correct[at]);
        lengths.compare(visit, r, &mut m.n_tokens);
        m.mean_perplexity += r.perplexity();
        m.mean_nll += r.nll();
        spread(&mut m.confidence, &mut m.variability, visit, r);
        let is = r.is_correct();
        m.correctness += u32::from(is);
        m.forgetfulness += u32::from(*was && !is);
        *was = is;
    })?;
    lengths.check(log, which)?;
    let count = which.len() as f64;
    for m in &mut all {
        m.mean_perplexity /= count;
        m.mean_nll /= count;
        m.variability = (m.variability / count).sqrt();
        if m.correctness == 0 {
            m.forgetfulness = NEVER_CORRECT;
        }
    }
    Ok(all)
}

/// Forgetfulness of an example that no checkpoint predicts.
pub(crate) const NEVER_CORRECT: u32 = 1000;

/// Adds a record to the mean of `exp(-nll)` and to the sum of its squared differences from that.
pub(crate) fn spread(mean: &mut f64, squares: &mut f64, visit: usize, r: &Record) {
    // Welford: equal probabilities give a variability of exactly 0.
    let p = libm::exp(-r.nll());
    let delta = p - *mean;
    *mean += delta / (visit + 1) as f64;
    *squares += delta * (p - *mean);
}

/// Whether every example has as many tokens under each checkpoint: the first that has not.
#[derive(Default)]
pub(crate) struct Lengths(Option<(usize, u32, u32, u32)>);

impl Lengths {
    /// Compares with the count of the checkpoint before, which becomes this one's.
    pub(crate) fn compare(&mut self, visit: usize, r: &Record, tokens: &mut u32) {
        if visit > 0 && *tokens != r.n_tokens {
            self.0 = self.0.or(Some((visit, r.example, *tokens, r.n_tokens)));
        }
        *tokens = r.n_tokens;
    }

    /// # Errors
    /// A count differs, naming row and checkpoint.
    pub(crate) fn check(&self, log: &DynamicsLog, which: &[usize]) -> Result<()> {
        let Some((visit, example, before, now)) = self.0 else { return Ok(()) };
        let id = which.get(visit).and_then(|&c| log.checkpoints().get(c)).map_or("", |c| &c.id);
        let reason = format!("{}: {before} tokens before {id}, {now} in it", log.name(example));
        Err(fault(log.dir(), reason))
    }
}

/// Calls `each` on every record of the checkpoints `which`, one after the other, with the checkpoint's place in `which`.
///
/// # Errors
/// As [`confidences`].
pub(crate) fn visit_all(log: &DynamicsLog, which: &[usize], mut each: impl FnMut(usize, &Record)) -> Result<()> {
    check(log, which)?;
    which.iter().enumerate().try_for_each(|(visit, &c)| log.visit(c, |r| each(visit, r)))
}

/// A mean over the rest would need a count per example, so every checkpoint must hold every example.
fn check(log: &DynamicsLog, which: &[usize]) -> Result<()> {
    if which.is_empty() {
        return Err(fault(log.dir(), "no checkpoint is chosen"));
    }
    for (i, &c) in which.iter().enumerate() {
        let Some(info) = log.checkpoints().get(c) else {
            return Err(fault(log.dir(), format!("no checkpoint {c}; there are {}", log.checkpoints().len())));
        };
        if which[..i].contains(&c) {
            return Err(fault(log.dir(), format!("{} is chosen twice", info.id)));
        }
        if info.complete && info.records != log.len() {
            let reason = format!("{} holds {} of {} examples", info.id, info.records, log.len());
            return Err(fault(log.dir(), reason));
        }
    }
    Ok(())
}
