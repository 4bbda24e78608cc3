//! What the checkpoints say together: SFTMix's confidence (arXiv 2410.05248) and the measures of
//! dataset cartography (arXiv 2009.10795).
//!
//! With `nll[i,c]` the mean negative log-likelihood of example i's response under checkpoint c:
//! confidence `Conf_i = -(1/C) Σ_c exp(nll[i,c])` as published, or `-(1/C) Σ_c nll[i,c]` (ours).
//! Cartography on generation (ours: the probability of the answer is `p = exp(-nll)`, the geometric
//! mean of its tokens): confidence `p̄ = (1/C) Σ p`, variability `σ = √((1/C) Σ (p - p̄)²)`,
//! correctness `Σ k` with `k = [n_correct/N ≥ ½]`, forgetfulness the number of changes of k from 1 to
//! 0, or 1000 if k is never 1.

use super::fault::fault;
use super::header::{Kind, Stage};
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
    let all = || log.checkpoints().iter().enumerate().filter(|(_, c)| c.stage != Stage::Target);
    if let Some((_, c)) = all().find(|(_, c)| !c.complete) {
        return Err(fault(log.dir(), format!("{} is incomplete: let that run finish", c.id)));
    }
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
    check(log, which)?;
    let mut sum = vec![0f32; log.len() as usize];
    for &c in which {
        log.visit(c, |r| {
            let term = match kind {
                Confidence::Perplexity => r.perplexity(),
                Confidence::Nll => r.nll(),
            };
            let s = &mut sum[r.example as usize];
            *s = (f64::from(*s) + term) as f32;
        })?;
    }
    let count = which.len() as f64;
    for s in &mut sum {
        *s = (-f64::from(*s) / count) as f32;
    }
    Ok(sum)
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
    check(log, which)?;
    let mut all = vec![Metrics::default(); log.len() as usize];
    let mut was_correct = vec![false; all.len()];
    for (visit, &c) in which.iter().enumerate() {
        let mut differs = None;
        let count = (visit + 1) as f64;
        log.visit(c, |r| {
            let m = &mut all[r.example as usize];
            let was = &mut was_correct[r.example as usize];
            if visit > 0 && m.n_tokens != r.n_tokens {
                differs = differs.or(Some((r.example, m.n_tokens, r.n_tokens)));
            }
            m.n_tokens = r.n_tokens;
            m.mean_perplexity += r.perplexity();
            m.mean_nll += r.nll();
            // Welford: equal probabilities give a variability of exactly 0.
            let p = libm::exp(-r.nll());
            let delta = p - m.confidence;
            m.confidence += delta / count;
            m.variability += delta * (p - m.confidence);
            let is = r.is_correct();
            m.correctness += u32::from(is);
            m.forgetfulness += u32::from(*was && !is);
            *was = is;
        })?;
        if let Some((example, before, now)) = differs {
            let id = &log.checkpoints()[c].id;
            let reason = format!("{}: {before} tokens before {id}, {now} in it", log.name(example));
            return Err(fault(log.dir(), reason));
        }
    }
    let count = which.len() as f64;
    for m in &mut all {
        m.mean_perplexity /= count;
        m.mean_nll /= count;
        m.variability = (m.variability / count).sqrt();
        if m.correctness == 0 {
            m.forgetfulness = 1000;
        }
    }
    Ok(all)
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
