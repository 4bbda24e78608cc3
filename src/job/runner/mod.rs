//! The loop of a run: stages, steps, sweeps, evaluations, checkpoints. Whatever it does is a function of
//! the settings and the state in a checkpoint, so a resumed run gives the bits of an uninterrupted one.

mod begin;
mod dynamics;
mod evaluation;
mod opened;
mod saving;
mod training;

use std::time::Instant;

use self::begin::{begin, Begun, Found};
use self::opened::Opened;
use self::saving::OnDisk;
use self::training::Training;
use super::event::{Control, Event, Prepared, StepEvent};
use crate::config::TrainConfig;
use crate::data::tokens::TokenStore;
use crate::error::{Error, Result};
use crate::ops::Engine;
use crate::recipe::{Halves, StagePlan};
use crate::run::checkpoint::{best_is_there, Checkpoint, LogEntry, StageState, State};
use crate::run::{RunFile, TrainReport};
use crate::steps::stage::{EpochRows, StageRun};
use crate::stop::StopHandle;
use crate::train::schedule::LearningRate;

pub(crate) use begin::empty;

type Observer<'a> = &'a mut (dyn FnMut(&Event) -> Control + Send);

/// Runs a job to its end; `known` is the run that is taken up, as its settings were read.
pub(crate) fn run(
    config: &TrainConfig,
    resume: bool,
    known: Option<&RunFile>,
    stop: &StopHandle,
    observer: Observer,
) -> Result<TrainReport> {
    match begin(config, resume, known)? {
        Found::Finished(report) => Ok(*report),
        Found::Open(begun) => Runner::open(config, *begun, stop, observer)?.run(),
    }
}

/// A run at work: what it works on, what it has on disk, what it is to do, and how far it is.
struct Runner<'a> {
    config: &'a TrainConfig,
    opened: Opened,
    disk: OnDisk,
    stages: Vec<StageRun>,
    /// Steps of all stages.
    total_steps: u64,
    /// Which examples mix with which, once it is known.
    halves: Option<Halves>,
    progress: Progress,
    stop: &'a StopHandle,
    observer: Observer<'a>,
}

/// How far a run is.
struct Progress {
    state: State,
    /// The checkpoint that the state was read from, until its weights are.
    from: Option<Checkpoint>,
    /// Whether something happened since the last checkpoint.
    unsaved: bool,
    /// What the log's next entry says of the last step.
    last_step: Option<LogEntry>,
    started: Instant,
    /// Seconds and steps of earlier processes.
    elapsed_before: f64,
    steps_before: u64,
}

impl Progress {
    fn new(from: Option<(Checkpoint, State)>) -> Progress {
        let (from, state) = from.map_or_else(Default::default, |(c, state)| (Some(c), state));
        Progress {
            from,
            unsaved: false,
            last_step: None,
            started: Instant::now(),
            elapsed_before: state.elapsed_seconds,
            steps_before: state.global_step,
            state,
        }
    }

    /// Seconds over all resumptions.
    fn elapsed(&self) -> f64 {
        self.elapsed_before + self.started.elapsed().as_secs_f64()
    }
}

impl<'a> Runner<'a> {
    fn open(
        config: &'a TrainConfig,
        mut begun: Begun,
        stop: &'a StopHandle,
        observer: Observer<'a>,
    ) -> Result<Runner<'a>> {
        let progress = Progress::new(begun.from.take());
        let opened = Opened::new(config, &begun, stop)?;
        let halves = opened.imported.as_deref().map(Halves::split).transpose()?;
        let unmatched = opened.imported.iter().flatten().filter(|c| c.is_nan()).count() as u64;
        let plan = StagePlan::new(config, opened.store.len() as u64, unmatched)?;
        let runner = Runner {
            config,
            disk: OnDisk::new(begun),
            stages: StageRun::from_plan(&plan.stages),
            total_steps: plan.steps(),
            halves,
            opened,
            progress,
            stop,
            observer,
        };
        runner.can_go_on()?;
        Ok(runner)
    }

    /// Refuses a checkpoint that is none of this run's as its settings are.
    fn can_go_on(&self) -> Result<()> {
        let state = &self.progress.state;
        if self.progress.from.is_none() {
            return Ok(());
        }
        let refuse = |reason: String| Err(Error::Checkpoint { path: self.disk.folder.dir().to_path_buf(), reason });
        let Some(stage) = self.stages.iter().find(|s| s.stage.as_str() == state.stage.name) else {
            return refuse(format!("stage {:?} of the checkpoint is none of the run's", state.stage.name));
        };
        if state.stage.step > stage.steps {
            let (name, done) = (&state.stage.name, state.stage.step);
            return refuse(format!(
                "the checkpoint has {done} steps of stage {name}, which has {} by the settings: run.json was changed",
                stage.steps
            ));
        }
        match state.stage.best.filter(|b| self.config.keep_best && b.global_step != state.global_step) {
            Some(best) => best_is_there(self.disk.folder.dir(), best),
            None => Ok(()),
        }
    }

    fn tell(&mut self, event: &Event) {
        if (self.observer)(event) == Control::Stop {
            self.stop.stop();
        }
    }

    fn engine(&self) -> &Engine {
        &self.opened.inputs.engine
    }

    /// The most that the library has held.
    fn peak(&self) -> u64 {
        self.engine().account().peak() as u64
    }

    fn run(&mut self) -> Result<TrainReport> {
        let resumed = self.progress.from.is_some();
        let name = &self.progress.state.stage.name;
        let first = self.stages.iter().position(|s| s.stage.as_str() == name).unwrap_or(0);
        let mut training = self.begin_stage(first, resumed)?;
        self.begin_writing(resumed)?;
        self.tell_prepared(&training);
        if self.opened.valid.is_some() && self.progress.state.base_eval_loss.is_none() {
            let base = self.evaluate(None)?;
            self.progress.state.base_eval_loss = Some(base.nll);
            self.report_evaluation("base", 0.0, base)?;
        }
        for i in first..self.stages.len() {
            if i > first {
                // The stage before and its moments go before the next one's are made.
                drop(training);
                training = self.begin_stage(i, false)?;
            }
            let stage = self.stages[i].clone();
            self.run_stage(&stage, &mut training)?;
        }
        self.finish(training.adapter)
    }

    /// The first that is told: what was found; then the halves, where they are known from the start.
    fn tell_prepared(&mut self, training: &Training) {
        let Opened { store, valid, run_file, .. } = &self.opened;
        let prepared = Prepared {
            examples: store.len(),
            rows: store.counts().clone(),
            sources: store.sources().to_vec(),
            valid_examples: valid.as_ref().map(TokenStore::len),
            tokens: store.total_tokens(),
            supervised_tokens: store.supervised_tokens(),
            parameters: training.adapter.parameters(),
            total_steps: self.total_steps,
            micro_batch: run_file.resolved.cut.micro_batch,
            micro_tokens: run_file.resolved.cut.micro_tokens,
            keep: self.opened.keep,
            threads: self.engine().threads(),
            device: self.engine().setting(),
            device_instead: self.opened.device_instead.clone(),
            resumed_at: self.progress.state.global_step,
        };
        self.tell(&Event::Prepared(prepared));
        self.tell_split();
    }

    fn tell_split(&mut self) {
        if let Some(halves) = &self.halves {
            let [confident, unconfident, neither] =
                [halves.confident(), halves.unconfident(), halves.neither()].map(|half| half.len());
            self.tell(&Event::Split { confident, unconfident, neither });
        }
    }

    /// Steps of a stage from where it stands. Between two of them comes what is due there, in this order and each
    /// once: evaluation, checkpoint, stop, sweep.
    fn run_stage(&mut self, stage: &StageRun, t: &mut Training) -> Result<()> {
        let c = self.config;
        let rate = LearningRate::new(c.lr, c.schedule, c.warmup_ratio, stage.steps);
        let mut rows = EpochRows::default();
        loop {
            let step = self.progress.state.stage.step;
            if self.evaluation_due(stage) && !self.stop.is_stopped() {
                self.evaluate_stage(stage, t)?;
            }
            if stage.sweeps.contains(&step) {
                // So that the checkpoint knows the log, and a sweep that is cut short goes on.
                self.log()?;
            }
            if self.checkpoint_due(stage) {
                self.checkpoint(stage, t)?;
            }
            if self.stop.is_stopped() {
                return Err(self.stopped(stage, t));
            }
            if let Some(number) = stage.sweeps.iter().position(|&s| s == step) {
                self.sweep(stage, number, t)?;
            }
            if step == stage.steps || self.progress.state.stage.stopped_early {
                return Ok(());
            }
            if stage.place(step).mixed && self.halves.is_none() {
                self.split()?;
            }
            let taken = rows.step(stage, c, self.opened.store.len() as u32, step, self.halves.as_ref());
            self.begin_online_epoch(stage)?;
            self.step(stage, t, &taken, rate.at(step))?;
            self.progress.unsaved = true;
            if stage.online && stage.ends_epoch(self.progress.state.stage.step) {
                self.log()?.finish()?;
            }
        }
    }
}

impl StageRun {
    /// The beginning of this stage.
    fn begins(&self) -> StageState {
        StageState::begin(self.stage.as_str())
    }
}
