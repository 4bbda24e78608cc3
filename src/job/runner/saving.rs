//! What a run leaves on disk while it goes on and at its end: settings, metrics, checkpoints, the adapter, the report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::parts::{Runner, Training};
use crate::base::facts::AdapterFacts;
use crate::data::text::chat::stored::{write_templates, DEFAULT};
use crate::disk::replace_dir;
use crate::dynamics::DynamicsWriter;
use crate::error::{Error, Result};
use crate::job::event::Event;
use crate::model::Adapter;
use crate::run::checkpoint::{self, Checkpoint, Contents};
use crate::run::folder::Metrics;
use crate::run::TrainReport;
use crate::steps::stage::{drawn_into_log, StageRun};

impl Runner<'_> {
    /// The first that is written, once settings and inputs are known to be good: what is refused before can
    /// be given again, corrected. `run.json` comes first: from then on the folder is a run's, and whatever is not
    /// there yet when it is taken up is made again.
    pub(super) fn begin_writing(&mut self, resumed: bool) -> Result<()> {
        let folder = self.disk.folder.clone();
        self.disk.begun.lock.keep();
        folder.write(&self.opened.run_file)?;
        folder.rows_are_claimed();
        if !resumed && folder.dynamics().exists() {
            // Nothing vouches for a log that no checkpoint knows.
            std::fs::remove_dir_all(folder.dynamics()).map_err(Error::io(folder.dynamics()))?;
        }
        if let Some(confidence) = &self.opened.imported {
            let bits = |all: &[f32]| all.iter().map(|c| c.to_bits()).collect::<Vec<_>>();
            if folder.confidence()?.is_none_or(|kept| bits(&kept) != bits(confidence)) {
                folder.keep_confidence(confidence)?;
            }
        }
        if let Some(from) = self.config.init_adapter.as_ref().filter(|_| !folder.initial_adapter().exists()) {
            replace_dir(&folder.initial_adapter(), |dir| {
                checkpoint::copy_adapter(from, dir)?;
                AdapterFacts::read(from)?.map_or(Ok(()), |facts| facts.write(dir))
            })?;
        }
        let metrics = folder.metrics(self.progress.state.metrics_bytes)?;
        self.control.writes_to(&folder, metrics.bytes());
        self.disk.metrics = Some(metrics);
        let dropout = self.opened.run_file.config.lora.as_ref().map_or(0.0, |l| l.lora_dropout);
        if let Some(drawn) = drawn_into_log(&self.stages, dropout, self.config.neftune_noise_alpha) {
            log::warn!("{drawn}");
        }
        Ok(())
    }

    /// The base model's hash; written to `run.json` once it is known.
    pub(super) fn model_hash(&mut self) -> Result<String> {
        let model = &self.opened.run_file.stands_on.model;
        let hash = self.opened.hash.get(model.hash.as_deref())?;
        if model.hash.is_none() {
            self.opened.run_file.stands_on.model.hash = Some(hash.clone());
            self.disk.folder.write(&self.opened.run_file)?;
        }
        Ok(hash)
    }

    /// What the adapter's folder says beside its tensors: the base, and how it was trained.
    fn facts(&mut self) -> Result<AdapterFacts> {
        self.model_hash()?;
        let Some(base) = self.opened.hash.base() else {
            return Err(Error::Misuse("the base's hash is asked for before it is taken".into()));
        };
        let base = base.clone().stored_as(&self.opened.inputs.model);
        let run = &self.opened.run_file;
        let template = run.chat.as_ref().and_then(|c| c.hash.as_deref());
        Ok(AdapterFacts::new(base).with_run(&run.config, run.stands_on.data.hash.as_deref(), template))
    }

    /// The chat template that conversations were written with, to lie beside the adapter.
    fn templates(&self) -> BTreeMap<String, String> {
        let text = self.opened.run_file.chat.as_ref().and_then(|c| c.template.clone());
        text.map(|text| (DEFAULT.to_string(), text)).into_iter().collect()
    }

    /// Whether a checkpoint is due at this step that is not on disk yet.
    pub(super) fn checkpoint_due(&self, stage: &StageRun) -> bool {
        let state = &self.progress.state;
        let at_step = state.global_step.is_multiple_of(self.config.save_every)
            || state.stage.step == stage.steps
            || stage.sweeps.contains(&state.stage.step);
        let ends = state.stage.stopped_early || self.control.is_stopped() && !self.control.discards();
        self.progress.unsaved && (at_step || ends || self.keeps_best())
    }

    pub(super) fn checkpoint(&mut self, stage: &StageRun, t: &Training) -> Result<PathBuf> {
        // A checkpoint says on which base it stands.
        let facts = self.facts()?;
        // What it refers to is on disk before it is.
        if let Some(metrics) = &self.disk.metrics {
            metrics.sync()?;
        }
        if let Some(log) = &mut self.disk.log {
            log.flush()?;
        }
        let (elapsed, templates) = (self.elapsed(), self.templates());
        let state = &mut self.progress.state;
        state.metrics_bytes = self.disk.metrics.as_ref().map_or(0, Metrics::bytes);
        state.dynamics = self.disk.log.as_ref().map(DynamicsWriter::position);
        state.elapsed_seconds = elapsed;
        // A stop's own checkpoint leaves no entry: the log is that of the run without the stop.
        if state.global_step.is_multiple_of(self.config.save_every) || state.stage.step == stage.steps {
            state.log_history.extend(self.progress.last_step.take());
            // As in a run without a stop, which evaluates before it saves.
            state.log_history.sort_by_key(|entry| (entry.step, entry.eval_loss.is_some()));
        }
        let contents = Contents {
            facts: &facts,
            templates: &templates,
            adapter: &t.adapter,
            adam: &t.adam,
            state,
            epoch: stage.epochs(state.stage.step),
            total_steps: self.total_steps,
        };
        let keep = (self.config.keep, self.config.keep_best);
        let path = checkpoint::save(self.disk.folder.dir(), keep, &contents)?;
        self.progress.unsaved = false;
        self.tell(&Event::Checkpoint { path: path.clone() });
        Ok(path)
    }

    /// The end of a stopped run: the state of the last whole step is on disk, if there was one, unless it was to be left.
    pub(super) fn stopped(&mut self, stage: &StageRun, t: &Training) -> Error {
        let saved = match self.progress.unsaved && !self.control.discards() {
            true => self.checkpoint(stage, t).map(Some),
            false => {
                let step = self.progress.state.global_step;
                let stands = |c: &Checkpoint| c.global_step <= step;
                checkpoint::list(self.disk.folder.dir()).map(|all| all.into_iter().rfind(stands).map(|c| c.path))
            }
        };
        saved.map_or_else(|e| e, |checkpoint| Error::Stopped { checkpoint })
    }

    pub(super) fn finish(&mut self, adapter: Adapter) -> Result<TrainReport> {
        let (path, facts) = (self.disk.folder.adapter(), self.facts()?);
        let state = &self.progress.state;
        let best = state.stage.best;
        let templates = self.templates();
        let other = best.filter(|b| self.config.keep_best && b.global_step != state.global_step);
        replace_dir(&path, |dir| {
            match other {
                Some(b) => {
                    drop(adapter);
                    checkpoint::copy_adapter(&checkpoint::folder(self.disk.folder.dir(), b.global_step), dir)?;
                }
                None => adapter.save(dir, &facts.base.model)?,
            }
            write_templates(&templates, dir)?;
            facts.write(dir)
        })?;
        let last = state.stage.last_eval.map(|(_, loss)| loss);
        let counts = self.opened.store.counts();
        let report = TrainReport {
            run: self.disk.folder.dir().to_path_buf(),
            adapter: path,
            steps: state.global_step,
            train_loss: state.stage.nll / (state.stage.tokens as f64).max(1.0),
            base_eval_loss: state.base_eval_loss,
            eval_loss: best.filter(|_| self.config.keep_best).map(|b| b.eval_loss).or(last),
            best_eval_loss: best.map(|b| b.eval_loss),
            best_step: best.map(|b| b.global_step),
            stopped_early: state.stage.stopped_early,
            examples: self.opened.store.len() as u64,
            rows_cut: counts.cut,
            rows_dropped: counts.empty + counts.no_target,
            rows_skipped: counts.skipped,
            seconds: self.elapsed(),
            peak_anonymous_bytes: self.peak(),
        };
        self.disk.folder.finish(&report)?;
        Ok(report)
    }
}

#[cfg(test)]
#[path = "saving_tests.rs"]
mod tests;
