//! The loop of a run: stages, steps, sweeps, evaluations, checkpoints. Whatever it does is a function of
//! the settings and the state in a checkpoint, so a resumed run gives the bits of an uninterrupted one.

mod dynamics;
mod evaluation;
mod saving;
mod training;

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::event::{Control, Event, Prepared, StepEvent};
use crate::base::open::{hex, stopped, Inputs, ModelHash};
use crate::base::Model;
use crate::config::{Dynamics, Recipe, TrainConfig};
use crate::data::tokens::row_name;
use crate::data::tokens::select::{open_sets, Sets};
use crate::data::tokens::TokenStore;
use crate::device;
use crate::dynamics::import_confidences;
use crate::dynamics::DynamicsLog;
use crate::dynamics::Record;
use crate::dynamics::{confidences, split_checkpoints};
use crate::dynamics::{CheckpointInfo, Header, Kind, Stage};
use crate::dynamics::{DynamicsWriter, Position};
use crate::error::{Error, Result};
use crate::memory::Charge;
use crate::model::Adapter;
use crate::model::Keep;
use crate::ops::engine::available_threads;
use crate::ops::{Engine, EngineOptions};
use crate::plan::choice::SCORE_ROWS;
use crate::plan::settle::{limits_are_kept, refuse_early, settle, RowFacts, WeightFacts, EXAMPLE};
use crate::recipe::Halves;
use crate::recipe::StagePlan;
use crate::recipe::Step;
use crate::run::atomic::clean_temporaries;
use crate::run::checkpoint::{self, Best, Checkpoint, State};
use crate::run::folder::Metrics;
use crate::run::TrainReport;
use crate::run::{Resolved, RunFile, RunFolder};
use crate::steps::cut::Cut;
use crate::steps::stage::{Rows, StageRun};
use crate::stop::StopHandle;
use crate::train::batches::Mixing;
use crate::train::group::RowResult;
use crate::train::optimizer::AdamW;
use crate::train::schedule::LearningRate;
use crate::train::score::{evaluate, score, Evaluation, Together};

use saving::newest;
use training::Training;

type Observer<'a> = &'a mut (dyn FnMut(&Event) -> Control + Send);

/// Runs a job to its end.
pub(crate) fn run(
    config: &TrainConfig,
    model: Option<&Model>,
    resume: bool,
    stop: &StopHandle,
    observer: Observer,
) -> Result<TrainReport> {
    let folder = RunFolder::new(&config.out);
    let _lock = folder.lock()?;
    let before = folder.read()?;
    if resume {
        if let Some(report) = folder.report()? {
            return Ok(report);
        }
    }
    clean_temporaries(folder.dir())?;
    let mut runner = Runner::open(config, model, folder, before, stop, observer)?;
    runner.run()
}

struct Runner<'a> {
    config: &'a TrainConfig,
    folder: RunFolder,
    run_file: RunFile,
    inputs: Inputs,
    /// Why it runs on the CPU where any device would do.
    device_instead: Option<String>,
    store: TokenStore,
    valid: Option<TokenStore>,
    hash: ModelHash,
    stages: Vec<StageRun>,
    total_steps: u64,
    keep: Keep,
    together: Together,
    /// The rows' order, halves and confidences in the account.
    _rows: Charge,
    cut: Cut,
    mixing: Mixing,
    /// Open once the run has begun.
    metrics: Option<Metrics>,
    dynamics: Option<DynamicsWriter>,
    halves: Option<Halves>,
    /// Imported confidences, until they are on disk.
    imported: Option<Vec<f32>>,
    state: State,
    /// The checkpoint that the state was read from, until its weights are.
    from: Option<Checkpoint>,
    stop: &'a StopHandle,
    observer: Observer<'a>,
    started: Instant,
    elapsed_before: f64,
    steps_before: u64,
}

impl<'a> Runner<'a> {
    fn open(
        config: &'a TrainConfig,
        model: Option<&Model>,
        folder: RunFolder,
        before: Option<RunFile>,
        stop: &'a StopHandle,
        observer: Observer<'a>,
    ) -> Result<Runner<'a>> {
        let started = Instant::now();
        let cache = config.cache_dir.clone().unwrap_or_else(|| folder.cache());
        let chosen = config.device.open()?;
        let device = device::setting(&chosen.device, chosen.form);
        let mut options = EngineOptions { threads: config.threads, ..EngineOptions::on(&chosen) };
        match before.as_ref().map(|b| &b.resolved) {
            Some(r) if r.device == device => {
                options.threads = Some(r.threads);
                options.attention_tile = r.attention_tile;
            }
            Some(r) => log::warn!(
                "the run was begun on {} and goes on on {device}: the same numbers but for rounding, not the same bits",
                r.device
            ),
            None => {}
        }
        limits_are_kept(config, options.form)?;
        let model = &model.map_or_else(|| Model::at(&config.model), |m| Ok(m.clone()))?;
        refuse_early(config, model, options.threads.unwrap_or_else(available_threads))?;
        let hash = ModelHash::start(model, &cache)?;
        let (mut inputs, tokenizer) = Inputs::open(model, config.max_length, options, cache)?;
        let open =
            |data: &Path| inputs.store(&tokenizer, data, &config.data_options, config.max_length, &stopped(stop));
        let Sets { train: store, valid } = open_sets(config, &inputs.cache_dir, open)?;
        let tokenizer_hash = hex(&tokenizer.tokenizer.content_hash());
        drop(tokenizer);
        inputs.room(&std::iter::once(&store).chain(&valid).collect::<Vec<_>>())?;
        let rows = RowFacts::of(&store, valid.as_ref());
        let rows_charge = inputs.engine.account().charge(EXAMPLE * rows.examples);
        let settled = before.as_ref().map(|b| b.resolved.cut);
        let (weights, threads) = (WeightFacts::of(model, inputs.model.weight_bytes())?, inputs.engine.threads());
        let (_, choice) = settle(config, &inputs.model.config, weights, threads, rows, settled)?;
        inputs.engine.options.loss_chunk = Some(choice.cut.loss_chunk);
        if let Some(pinned) = choice.pinned {
            inputs.model.give_up_weights(pinned);
        }
        let resolved =
            Resolved { device, threads, cut: choice.cut, attention_tile: inputs.engine.options.attention_tile };
        let data_hash = hex(&store.hash());
        let run_file = match before {
            Some(run) => {
                for (what, had, now) in
                    [("data", &run.data_hash, &data_hash), ("tokenizer", &run.tokenizer_hash, &tokenizer_hash)]
                {
                    if had != now {
                        let reason = format!("the run was begun with another {what}: content hash {had}, now {now}");
                        return Err(Error::Checkpoint { path: folder.dir().to_path_buf(), reason });
                    }
                }
                // What may be another on resume: the file says what the run goes on with.
                let (device, memory_limit, resident_limit) =
                    (config.device, config.memory_limit, config.resident_limit);
                RunFile { config: TrainConfig { device, memory_limit, resident_limit, ..run.config }, ..run }
            }
            None => RunFile {
                sources: store.sources().to_vec(),
                chat: store.chat().cloned(),
                ..RunFile::new(config.clone(), resolved, data_hash, tokenizer_hash, store.counts().clone())
            },
        };
        let (from, state) = newest(&folder)?;
        let mixing = Mixing { mu: config.mu, reduction: config.mix_reduction };
        let mut runner = Runner {
            config,
            elapsed_before: state.elapsed_seconds,
            steps_before: state.global_step,
            folder,
            run_file,
            inputs,
            device_instead: chosen.instead,
            store,
            valid,
            hash,
            stages: Vec::new(),
            total_steps: 0,
            keep: choice.keep,
            together: Together { rows: SCORE_ROWS, tokens: choice.score_tokens },
            _rows: rows_charge,
            cut: choice.cut,
            mixing,
            metrics: None,
            dynamics: None,
            halves: None,
            imported: None,
            state,
            from,
            stop,
            observer,
            started,
        };
        runner.plan()?;
        Ok(runner)
    }

    fn tell(&mut self, event: &Event) {
        if (self.observer)(event) == Control::Stop {
            self.stop.stop();
        }
    }

    fn engine(&self) -> &Engine {
        &self.inputs.engine
    }

    fn run(&mut self) -> Result<TrainReport> {
        let first = match self.stages.iter().position(|s| s.stage.as_str() == self.state.stage) {
            Some(i) => i,
            None if self.state.stage.is_empty() => 0,
            None => {
                let reason = format!("stage {:?} of the checkpoint is none of the run's", self.state.stage);
                return Err(Error::Checkpoint { path: self.folder.dir().to_path_buf(), reason });
            }
        };
        let resumed = self.from.is_some();
        let mut training = self.begin_stage(first, resumed)?;
        self.begin(resumed)?;
        self.tell(&Event::Prepared(Prepared {
            examples: self.store.len(),
            rows: self.store.counts().clone(),
            sources: self.store.sources().to_vec(),
            valid_examples: self.valid.as_ref().map(TokenStore::len),
            tokens: self.store.total_tokens(),
            supervised_tokens: self.store.supervised_tokens(),
            parameters: training.adapter.parameters(),
            total_steps: self.total_steps,
            micro_batch: self.run_file.resolved.cut.micro_batch,
            micro_tokens: self.run_file.resolved.cut.micro_tokens,
            keep: self.keep,
            threads: self.engine().threads(),
            device: self.engine().setting(),
            device_instead: self.device_instead.clone(),
            resumed_at: self.state.global_step,
        }));
        if self.valid.is_some() && self.state.base_eval_loss.is_none() {
            let base = self.evaluate(None)?;
            self.state.base_eval_loss = Some(base.nll);
            self.report_evaluation("base", 0.0, base)?;
        }
        for i in first..self.stages.len() {
            if i > first {
                // The stage before and its moments go before the next one's are made.
                drop(training);
                self.state.stage = self.stages[i].stage.as_str().into();
                (self.state.step, self.state.stage_nll, self.state.stage_tokens) = (0, 0.0, 0);
                (self.state.last_eval, self.state.best) = (None, None);
                (self.state.without_improvement, self.state.stopped_early) = (0, false);
                training = self.begin_stage(i, false)?;
            }
            let stage = self.stages[i].clone();
            self.run_stage(&stage, &mut training)?;
        }
        self.finish(training.adapter)
    }

    /// The first that is written, once settings and inputs are known to be good: what is refused before can
    /// be given again, corrected.
    fn begin(&mut self, resumed: bool) -> Result<()> {
        if resumed {
            // Before anything is trained on another base than the run's.
            self.model_hash()?;
        } else if self.folder.dynamics().exists() {
            // Nothing vouches for a log that no checkpoint knows.
            std::fs::remove_dir_all(self.folder.dynamics()).map_err(Error::io(self.folder.dynamics()))?;
        }
        if let Some(confidence) = self.imported.take() {
            self.folder.keep_confidence(&confidence)?;
        }
        self.folder.write(&self.run_file)?;
        self.metrics = Some(self.folder.metrics(self.state.metrics_bytes)?);
        for stage in &self.stages {
            if LearningRate::new(1.0, self.config.schedule, self.config.warmup_ratio, stage.steps).at(stage.steps - 1)
                == 0.0
            {
                log::warn!(
                    "the {} stage has {} step(s), all with learning rate 0: warm-up begins at 0",
                    stage.stage.as_str(),
                    stage.steps
                );
            }
        }
        Ok(())
    }

    fn write_metrics(&mut self, line: &impl serde::Serialize) -> Result<()> {
        match &mut self.metrics {
            Some(m) => m.append(line),
            None => Ok(()),
        }
    }

    fn run_stage(&mut self, stage: &StageRun, t: &mut Training) -> Result<()> {
        let rate = {
            let c = self.config;
            LearningRate::new(c.lr, c.schedule, c.warmup_ratio, stage.steps)
        };
        let mut rows = Rows::default();
        loop {
            let step = self.state.step;
            if let Some(number) = stage.sweeps.iter().position(|&s| s == step) {
                self.sweep(stage, number, t)?;
            }
            // Also an evaluation that a stop cut short.
            if self.evaluation_due(stage) {
                self.evaluate_stage(stage, t)?;
                if self.keeps_best() {
                    self.checkpoint(t)?;
                }
            }
            if step == stage.steps || self.state.stopped_early {
                return Ok(());
            }
            if stage.place(step).mixed && self.halves.is_none() {
                let log = DynamicsLog::open(self.folder.dynamics())?;
                let which = split_checkpoints(&log)?;
                let confidence = confidences(&log, self.config.confidence, &which)?;
                self.set_halves(&confidence)?;
            }
            let taken = rows.step(stage, self.config, self.store.len() as u32, step, self.halves.as_ref());
            if stage.online && self.log()?.current().is_none() {
                let p = stage.place(step);
                let end = ((p.epoch + 1) * p.of).min(stage.steps);
                let info = CheckpointInfo::new(stage.stage, Kind::Online, end, (p.epoch + 1) as f64, "");
                self.log()?.begin(info)?;
            }
            self.step(stage, t, &taken, rate.at(step))?;
            let ends_epoch = stage.ends_epoch(self.state.step);
            if stage.online && ends_epoch {
                self.log()?.finish()?;
            }
            if self.evaluation_due(stage) && !self.stop.is_stopped() {
                self.evaluate_stage(stage, t)?;
            }
            let sweep_next = stage.sweeps.contains(&self.state.step);
            if sweep_next {
                // So that the checkpoint knows the log, and a sweep that is cut short goes on.
                self.log()?;
            }
            let save = self.state.global_step.is_multiple_of(self.config.save_every) || self.state.step == stage.steps;
            let ends = self.state.stopped_early || self.stop.is_stopped();
            if save || sweep_next || ends || self.keeps_best() {
                self.checkpoint(t)?;
            }
            if self.stop.is_stopped() {
                return self.stopped(t);
            }
        }
    }

    fn elapsed(&self) -> f64 {
        self.elapsed_before + self.started.elapsed().as_secs_f64()
    }

    /// The most that the library has held.
    fn peak(&self) -> u64 {
        self.engine().account().peak() as u64
    }
}
