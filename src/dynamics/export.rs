//! The log in the layouts of other tools: the JSONL files of `allenai/cartography`, with sums in place
//! of logits, and a table as CSV. `guid` is the source row; of several data files, the i-th (from 0) has i · 2^40
//! added to it.

use std::io::Write;

use serde::Serialize;

use super::log::DynamicsLog;
use super::metrics::Metrics;
use crate::data::tokens::file_and_row;
use crate::error::{Error, Result};
use crate::recipe::Half;

/// Name of the file of the `c`-th exported checkpoint, from 0.
pub fn checkpoint_file_name(c: usize) -> String {
    format!("dynamics_epoch_{c}.jsonl")
}

/// Name of the file of [`td_metrics`].
pub const TD_METRICS: &str = "td_metrics.jsonl";

/// Name of the file of [`csv()`].
pub const CSV: &str = "metrics.csv";

#[derive(Serialize)]
struct CheckpointLine {
    guid: u64,
    n_tokens: u32,
    nll_sum: f64,
    n_correct: u32,
}

#[derive(Serialize)]
struct MetricsLine {
    guid: u64,
    index: usize,
    threshold_closeness: f64,
    confidence: f64,
    variability: f64,
    correctness: u32,
    forgetfulness: u32,
}

/// Writes one checkpoint, a line a record in the order of the log: `guid, n_tokens, nll_sum,
/// n_correct`. `name` is for errors alone.
///
/// # Errors
/// The log is damaged, or `out` refused.
pub fn checkpoint(log: &DynamicsLog, checkpoint: usize, name: &str, out: &mut dyn Write) -> Result<()> {
    for record in log.records(checkpoint)? {
        let r = record?;
        let guid = log.example(r.example).map_or(0, |(row, _)| row);
        line(&CheckpointLine { guid, n_tokens: r.n_tokens, nll_sum: r.nll_sum, n_correct: r.n_correct }, name, out)?;
    }
    Ok(())
}

/// Writes cartography's measures, a line an example: `guid, index, threshold_closeness, confidence,
/// variability, correctness, forgetfulness`; `confidence` is its p̄.
///
/// # Errors
/// `out` refused.
pub fn td_metrics(log: &DynamicsLog, metrics: &[Metrics], out: &mut dyn Write) -> Result<()> {
    for (index, (m, (guid, _))) in metrics.iter().zip(log.examples()).enumerate() {
        let row = MetricsLine {
            guid,
            index,
            threshold_closeness: m.threshold_closeness(),
            confidence: m.confidence,
            variability: m.variability,
            correctness: m.correctness,
            forgetfulness: m.forgetfulness,
        };
        line(&row, TD_METRICS, out)?;
    }
    Ok(())
}

/// Writes every measure as a table. `hash` is that of the text; `confidence` is cartography's p̄
/// (SFTMix's is minus `mean_perplexity` or `mean_nll`); `half` is empty where `half` has no label; `row` of the
/// second data file on is written `file:row`.
///
/// # Errors
/// `out` refused.
pub fn csv(log: &DynamicsLog, metrics: &[Metrics], half: &[Half], out: &mut dyn Write) -> Result<()> {
    let mut write = || {
        out.write_all(
            b"index,row,hash,mean_perplexity,mean_nll,confidence,variability,correctness,forgetfulness,half\n",
        )?;
        for (i, (m, (row, hash))) in metrics.iter().zip(log.examples()).enumerate() {
            let half = half.get(i).map_or("", |h| h.as_str());
            match file_and_row(row) {
                (0, row) => write!(out, "{i},{row},")?,
                (file, row) => write!(out, "{i},{}:{row},", file + 1)?,
            }
            for byte in hash {
                write!(out, "{byte:02x}")?;
            }
            writeln!(
                out,
                ",{},{},{},{},{},{},{half}",
                m.mean_perplexity, m.mean_nll, m.confidence, m.variability, m.correctness, m.forgetfulness
            )?;
        }
        Ok(())
    };
    write().map_err(Error::io(CSV))
}

fn line(value: &impl Serialize, name: &str, out: &mut dyn Write) -> Result<()> {
    let mut text = serde_json::to_vec(value).map_err(|e| Error::io(name)(e.into()))?;
    text.push(b'\n');
    out.write_all(&text).map_err(Error::io(name))
}
