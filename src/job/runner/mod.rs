//! The loop of a run: stages, steps, sweeps, evaluations, checkpoints. Whatever it does is a function of
//! the settings and the state in a checkpoint, so a resumed run gives the bits of an uninterrupted one.

mod begin;
mod dynamics;
mod evaluation;
mod limits;
mod opened;
mod parts;
mod saving;
mod training;

use std::time::Instant;

use self::begin::{begin, Begun, Found};
use self::opened::Opened;
use self::parts::{Observer, OnDisk, Progress, Runner, Training};
use super::control::JobControl;
use super::event::{Event, Prepared};
use super::rows::{spool, RowSource};
use crate::base::Model;
use crate::config::TrainConfig;
use crate::data::tokens::TokenStore;
use crate::error::{Error, Result};
use crate::lora::initial::check_moved;
use crate::recipe::{Halves, StagePlan};
use crate::run::checkpoint::{best_is_there, newest};
use crate::run::{RunFile, RunFolder, TrainReport};
use crate::steps::stage::{EpochRows, StageRun};
use crate::train::schedule::LearningRate;

pub(crate) use begin::empty;

/// Runs a job to its end; `known` is the run that is taken up, as its settings were read.
pub(crate) fn run(
    config: &TrainConfig,
    model: &mut Option<Model>,
    resume: bool,
    known: Option<&RunFile>,
    rows: &mut Option<RowSource>,
    control: &JobControl,
    observer: Observer,
) -> Result<TrainReport> {
    match begin(config, resume, known)? {
        Found::Finished(report) => {
            let folder = RunFolder::new(&config.out);
            // Events that nobody has dealt with come from the file.
            let bytes = std::fs::metadata(folder.metrics_path()).map_or(0, |m| m.len());
            control.writes_to(&folder, bytes);
            Ok(*report)
        }
        Found::Open(begun) => {
            if let Some(source) = rows.as_mut().filter(|_| begun.before.is_none()) {
                spool(&begun.folder, source, control)?;
                *rows = None;
            }
            let from = begun.before.is_some().then(|| begun.folder.dir().to_path_buf());
            let runner = Runner::open(config, model, *begun, control, observer).map_err(|e| match (e, from) {
                // Stopped before it went on: it stands where it stood.
                (Error::Stopped { checkpoint: None }, Some(run)) => {
                    Error::Stopped { checkpoint: newest(&run).ok().flatten().map(|(checkpoint, _)| checkpoint.path) }
                }
                (e, _) => e,
            });
            let mut runner = runner?;
            runner.run().map_err(|e| runner.opened.inputs.base.blamed(e))
        }
    }
}

impl<'a> Runner<'a> {
    fn open(
        config: &'a TrainConfig,
        model: &mut Option<Model>,
        mut begun: Begun,
        control: &'a JobControl,
        observer: Observer<'a>,
    ) -> Result<Runner<'a>> {
        let started = Instant::now();
        let opened = Opened::new(config, model.as_ref(), &begun, control);
        if matches!(opened, Err(Error::Stopped { .. })) {
            begun.lock.leave();
        }
        let opened = opened?;
        *model = Some(opened.inputs.base.clone());
        let progress = Progress::new(begun.going_on()?, started);
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
            control,
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

    fn run(&mut self) -> Result<TrainReport> {
        let resumed = self.progress.from.is_some();
        if self.opened.run_file.stands_on.model.hash.is_some() {
            // Before anything is written, cut back or trained on another base than the run's.
            self.model_hash()?;
        }
        let name = &self.progress.state.stage.name;
        let first = self.stages.iter().position(|s| s.stage.as_str() == name).unwrap_or(0);
        let mut training = self.begin_stage(first, resumed)?;
        self.begin_writing(resumed)?;
        self.tell_prepared(&training);
        self.know_least_memory();
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
            let kept = self.config.init_adapter.as_ref().map(|_| self.disk.folder.initial_adapter());
            check_moved(&training.adapter, kept.as_deref(), stage.stage.as_str())?;
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

    /// Steps of a stage from where it stands. Between two of them comes what is due there, in this order and each
    /// once: evaluation, checkpoint, stop, sweep.
    fn run_stage(&mut self, stage: &StageRun, t: &mut Training) -> Result<()> {
        let c = self.config;
        let rate = LearningRate::new(c.lr, c.schedule, c.warmup_ratio, stage.steps);
        let mut rows = EpochRows::default();
        loop {
            let step = self.progress.state.stage.step;
            if self.evaluation_due(stage) && !self.control.is_stopped() {
                self.evaluate_stage(stage, t)?;
            }
            if stage.sweeps.contains(&step) {
                // So that the checkpoint knows the log, and a sweep that is cut short goes on.
                self.log()?;
            }
            if self.checkpoint_due(stage) {
                self.checkpoint(stage, t)?;
            }
            if self.control.is_stopped() {
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
