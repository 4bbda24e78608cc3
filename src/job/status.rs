//! A job at a glance.

use std::path::PathBuf;

use serde::Serialize;

use super::event::Event;
use super::limits::Limits;

/// What a job is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// It is not running: not begun, or between two slices.
    #[default]
    Idle,
    /// It reads rows and opens the model.
    Preparing,
    /// It computes.
    Running,
    /// It was asked to pause and finishes a micro-batch and a checkpoint.
    Pausing,
    /// It waits, with what it has done on disk.
    Paused,
    /// It was asked to stop and finishes a micro-batch and a checkpoint.
    Stopping,
    /// It has ended with an adapter.
    Done,
    /// It was stopped before its end; it can be taken up.
    Cancelled,
    /// It has ended with an error.
    Failed,
}

/// A job at a glance: what its events said last.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// What it is at.
    pub state: JobState,
    /// `reference`, `target` or `single`; empty before the first step.
    pub stage: String,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Steps of all stages; 0 until it is known.
    pub total_steps: u64,
    /// Epochs done in the stage.
    pub epoch: f64,
    /// Loss of the last step, nats a token.
    pub loss: Option<f64>,
    /// Held-out loss of the last evaluation, nats a token.
    pub eval_loss: Option<f64>,
    /// Tokens a second of the last step.
    pub tokens_per_second: f64,
    /// Seconds over all resumptions, at the last step.
    pub elapsed_seconds: f64,
    /// Seconds that the rest was expected to take at the last step.
    pub eta_seconds: Option<f64>,
    /// Peak anonymous memory so far, bytes.
    pub peak_anonymous_bytes: u64,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Limits that are in force beside the settings.
    pub limits: Limits,
}

impl JobStatus {
    pub(super) fn tell(&mut self, event: &Event) {
        match event {
            Event::Prepared(p) => {
                (self.total_steps, self.global_step) = (p.total_steps, p.resumed_at);
            }
            Event::Step(s) => {
                self.stage.clone_from(&s.stage);
                (self.global_step, self.total_steps, self.epoch) = (s.global_step, s.total_steps, s.epoch);
                self.loss = Some(s.loss);
                self.tokens_per_second = s.tokens_per_second;
                (self.elapsed_seconds, self.eta_seconds) = (s.elapsed_seconds, Some(s.eta_seconds));
                self.peak_anonymous_bytes = s.peak_anonymous_bytes;
            }
            Event::Evaluated(e) => self.eval_loss = Some(e.eval_loss),
            Event::Checkpoint { path } => self.checkpoint = Some(path.clone()),
            Event::Limits { .. } | Event::StoppedEarly { .. } | Event::Sweep { .. } | Event::Split { .. } => {}
        }
    }
}
