//! A run at work, in its parts: what it works on, what it has on disk, what it is to do, and how far it is.

use std::time::Instant;

use super::begin::Begun;
use super::opened::Opened;
use crate::config::TrainConfig;
use crate::dynamics::DynamicsWriter;
use crate::error::Result;
use crate::job::control::JobControl;
use crate::job::event::{Control, Event};
use crate::model::Adapter;
use crate::ops::linear::SlotGrad;
use crate::ops::Engine;
use crate::recipe::Halves;
use crate::run::checkpoint::{Checkpoint, LogEntry, State};
use crate::run::folder::Metrics;
use crate::run::RunFolder;
use crate::steps::stage::StageRun;
use crate::train::optimizer::AdamW;

pub(super) type Observer<'a> = &'a mut (dyn FnMut(&Event) -> Control + Send);

/// A run at work: what it works on, what it has on disk, what it is to do, and how far it is.
pub(super) struct Runner<'a> {
    pub config: &'a TrainConfig,
    pub opened: Opened,
    pub disk: OnDisk,
    pub stages: Vec<StageRun>,
    /// Steps of all stages.
    pub total_steps: u64,
    /// Which examples mix with which, once it is known.
    pub halves: Option<Halves>,
    pub progress: Progress,
    pub control: &'a JobControl,
    pub observer: Observer<'a>,
}

/// How far a run is.
pub(super) struct Progress {
    pub state: State,
    /// The checkpoint that the state was read from, until its weights are.
    pub from: Option<Checkpoint>,
    /// Whether something happened since the last checkpoint.
    pub unsaved: bool,
    /// What the log's next entry says of the last step.
    pub last_step: Option<LogEntry>,
    pub started: Instant,
    /// Seconds and steps of earlier processes.
    pub elapsed_before: f64,
    pub steps_before: u64,
}

impl Progress {
    pub fn new(from: Option<(Checkpoint, State)>, started: Instant) -> Progress {
        let (from, state) = from.map_or_else(Default::default, |(c, state)| (Some(c), state));
        Progress {
            from,
            unsaved: false,
            last_step: None,
            started,
            elapsed_before: state.elapsed_seconds,
            steps_before: state.global_step,
            state,
        }
    }
}

/// The run folder and what is open in it.
pub(super) struct OnDisk {
    pub folder: RunFolder,
    /// Open once the run has begun.
    pub metrics: Option<Metrics>,
    pub log: Option<DynamicsWriter>,
    /// Last, so that the lock goes when all else is closed.
    pub begun: Begun,
}

impl OnDisk {
    pub fn new(begun: Begun) -> OnDisk {
        OnDisk { folder: begun.folder.clone(), metrics: None, log: None, begun }
    }
}

/// The weights in training and what moves them.
pub(super) struct Training {
    pub adapter: Adapter,
    pub adam: AdamW,
    pub grads: Vec<SlotGrad>,
}

impl Runner<'_> {
    pub fn tell(&mut self, event: &Event) {
        self.control.told(event, self.disk.metrics.as_ref().map_or(0, Metrics::bytes));
        if (self.observer)(event) == Control::Stop {
            self.control.stop();
        }
    }

    /// An event that stands in `metrics.jsonl`.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        if let Some(metrics) = &mut self.disk.metrics {
            metrics.append(event)?;
        }
        self.tell(event);
        Ok(())
    }

    /// Seconds over all resumptions, without pauses.
    pub fn elapsed(&self) -> f64 {
        let now = self.progress.started.elapsed().saturating_sub(self.control.paused());
        self.progress.elapsed_before + now.as_secs_f64()
    }

    pub fn engine(&self) -> &Engine {
        &self.opened.inputs.engine
    }

    /// The most that the library has held.
    pub fn peak(&self) -> u64 {
        self.engine().account().peak() as u64
    }

    pub fn tell_split(&mut self) {
        if let Some(halves) = &self.halves {
            let [confident, unconfident, neither] =
                [halves.confident(), halves.unconfident(), halves.neither()].map(|half| half.len());
            self.tell(&Event::Split { confident, unconfident, neither });
        }
    }
}
