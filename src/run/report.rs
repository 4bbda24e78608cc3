//! The report of a finished run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a finished run says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainReport {
    /// Run folder.
    pub run: PathBuf,
    /// The adapter.
    pub adapter: PathBuf,
    /// Optimizer steps of all stages.
    pub steps: u64,
    /// Mean −log p of the supervised tokens over the final stage, each before its update.
    pub train_loss: f64,
    /// Held-out loss of the untouched base.
    pub base_eval_loss: Option<f64>,
    /// Held-out loss of the adapter.
    pub eval_loss: Option<f64>,
    /// The lowest held-out loss of the evaluations that count; the adapter's with `keep_best`.
    #[serde(default)]
    pub best_eval_loss: Option<f64>,
    /// Steps of all stages that were done then.
    #[serde(default)]
    pub best_step: Option<u64>,
    /// Whether the run ended because the held-out loss no longer improved.
    #[serde(default)]
    pub stopped_early: bool,
    /// Examples trained on.
    pub examples: u64,
    /// Rows that lost their tail to the limit of length.
    pub rows_cut: u64,
    /// Rows that gave no example.
    pub rows_dropped: u64,
    /// Rows that are no examples and were left out, as `bad_rows` allows; run.json has the reasons.
    #[serde(default)]
    pub rows_skipped: u64,
    /// Seconds, over all resumptions.
    pub seconds: f64,
    /// Peak anonymous memory of the process.
    pub peak_anonymous_bytes: u64,
}
