//! What a job tells its observer, and its report.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::config::DeviceSetting;
use crate::data::tokens::RowCounts;
use crate::data::tokens::SourceCounts;
use crate::model::Keep;
use crate::train::score::Evaluation;

/// What an observer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Write a checkpoint and stop.
    Stop,
}

/// Something that happened in a job. As JSON, `event` names which: the words are those of `metrics.jsonl` and of every
/// binding.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The data are tokenised and the model is open.
    Prepared(Prepared),
    /// An optimizer step is done.
    Step(StepEvent),
    /// The held-out rows were evaluated.
    Evaluated(EvaluatedEvent),
    /// The held-out loss has not improved for so many evaluations that the run ends here.
    StoppedEarly {
        /// Steps done in all stages.
        global_step: u64,
        /// Steps done in all stages at the best evaluation.
        best_step: u64,
        /// Held-out loss at it.
        best_eval_loss: f64,
    },
    /// A sweep goes on.
    Sweep {
        /// Number of the sweep, from 1.
        number: usize,
        /// Sweeps of the run.
        of: usize,
        /// Examples scored.
        done: u64,
        /// Examples in all.
        total: u64,
    },
    /// The set is split.
    Split {
        /// Confident examples.
        confident: usize,
        /// Unconfident examples.
        unconfident: usize,
        /// Examples of neither half.
        neither: usize,
    },
    /// A checkpoint is on disk.
    Checkpoint {
        /// Its folder.
        path: PathBuf,
    },
    /// Limits that were asked for came into force, or could not.
    Limits {
        /// All that are in force.
        limits: Limits,
        /// Why what was asked for is not in force.
        refused: Option<String>,
    },
}

/// What a job found when it opened its inputs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Prepared {
    /// Examples of the training set.
    pub examples: usize,
    /// How rows became examples.
    pub rows: RowCounts,
    /// The same of each data file, with what was held out and what its weight takes.
    pub sources: Vec<SourceCounts>,
    /// Examples that are held out, given or split off.
    pub valid_examples: Option<usize>,
    /// Tokens of the training set.
    pub tokens: u64,
    /// Supervised tokens of the training set.
    pub supervised_tokens: u64,
    /// Trained parameters.
    pub parameters: usize,
    /// Optimizer steps of all stages.
    pub total_steps: u64,
    /// Rows whose blocks run together.
    pub micro_batch: usize,
    /// Tokens that they have together at most, unless one row has more; `None` is no limit.
    pub micro_tokens: Option<usize>,
    /// What blocks keep of their activations for the backward pass; the others run forward twice.
    pub keep: Keep,
    /// Worker threads.
    pub threads: usize,
    /// Where it computes.
    pub device: DeviceSetting,
    /// Why `auto` went on with the CPU.
    pub device_instead: Option<String>,
    /// Steps done before: more than 0 when a run is resumed.
    pub resumed_at: u64,
}

/// One optimizer step. Written to `metrics.jsonl` as it is (names: TRL's where it has them).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepEvent {
    /// `reference`, `target` or `single`.
    pub stage: String,
    /// Steps done in the stage.
    pub step: u64,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Steps of all stages.
    pub total_steps: u64,
    /// Epochs done in the stage.
    pub epoch: f64,
    /// `ntp_loss + mu · mixup_loss`, nats a token.
    pub loss: f64,
    /// Mean −log p of the supervised tokens.
    pub ntp_loss: f64,
    /// Mixup loss, where the step mixes.
    pub mixup_loss: Option<f64>,
    /// What no model can push it below: the entropy of the mixed targets.
    pub mixup_floor: Option<f64>,
    /// Mixed positions.
    pub mix_tokens: u64,
    /// Share of the supervised tokens that are mixed.
    pub mix_coverage: f64,
    /// Gradient norm before clipping; JSON has no infinity and says `null`.
    #[serde(deserialize_with = "infinite")]
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens seen since the run began.
    pub num_tokens: u64,
    /// Supervised tokens of the step.
    pub supervised_tokens: u64,
    /// Share of supervised tokens that are the arg-max.
    pub mean_token_accuracy: f64,
    /// Mean entropy of the predictions, nats.
    pub entropy: f64,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// Seconds since the run began, over its resumptions.
    pub elapsed_seconds: f64,
    /// Seconds that the rest of the steps is expected to take.
    pub eta_seconds: f64,
    /// Peak anonymous memory of the process so far.
    pub peak_anonymous_bytes: u64,
}

/// The held-out rows under the weights as they are. Written to `metrics.jsonl` as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EvaluatedEvent {
    /// `base` (the untouched model), `reference`, `target` or `single`.
    pub stage: String,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Epochs done in the stage.
    pub epoch: f64,
    /// Mean −log p of a supervised token, nats.
    pub eval_loss: f64,
    /// exp(eval_loss); JSON has no infinity and says `null`.
    #[serde(deserialize_with = "infinite")]
    pub eval_perplexity: f64,
    /// Share of supervised tokens that are the arg-max.
    pub eval_token_accuracy: f64,
    /// Share of examples all of whose supervised tokens are.
    pub eval_exact_match: f64,
    /// Expected calibration error of the arg-max tokens, 15 bins.
    pub eval_ece: f64,
    /// Whether it is the lowest held-out loss of those that count.
    pub is_best: bool,
    /// Seconds since the run began, over its resumptions.
    pub elapsed_seconds: f64,
}

impl EvaluatedEvent {
    /// The figures, without a place.
    pub(super) fn of(e: &Evaluation) -> EvaluatedEvent {
        EvaluatedEvent {
            eval_loss: e.nll,
            eval_perplexity: e.perplexity,
            eval_token_accuracy: e.token_accuracy,
            eval_exact_match: e.exact_match,
            eval_ece: e.ece,
            ..Default::default()
        }
    }
}

/// What JSON wrote as `null`.
fn infinite<'de, D: serde::Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::INFINITY))
}

/// A line of `metrics.jsonl`.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum MetricsLine {
    Step(StepEvent),
    Evaluated(EvaluatedEvent),
}

impl From<MetricsLine> for Event {
    fn from(line: MetricsLine) -> Event {
        match line {
            MetricsLine::Step(s) => Event::Step(s),
            MetricsLine::Evaluated(e) => Event::Evaluated(e),
        }
    }
}
