//! What a run leaves on disk while it goes on and at its end: checkpoints, the adapter, the report.

use super::*;
use crate::disk::replace_dir;
use crate::lora::base::AdapterFacts;

impl Runner<'_> {
    /// The base model's hash; written to `run.json` once it is known.
    pub(super) fn model_hash(&mut self) -> Result<String> {
        let hash = self.hash.get(self.run_file.model_hash.as_deref())?;
        if self.run_file.model_hash.is_none() {
            self.run_file.model_hash = Some(hash.clone());
            self.folder.write(&self.run_file)?;
        }
        Ok(hash)
    }

    /// What the adapter's folder says beside its tensors: the base, and how it was trained.
    pub(super) fn facts(&mut self) -> Result<AdapterFacts> {
        self.model_hash()?;
        let Some(base) = self.hash.base() else {
            return Err(Error::Misuse("the base's hash is asked for before it is taken".into()));
        };
        let base = base.clone().stored_as(&self.inputs.model);
        Ok(AdapterFacts::new(base).with_run(&self.run_file.config, &self.run_file.data_hash))
    }

    pub(super) fn checkpoint(&mut self, t: &Training) -> Result<()> {
        // A checkpoint says on which base it stands.
        let facts = self.facts()?;
        self.state.metrics_bytes = self.metrics.as_ref().map_or(0, Metrics::bytes);
        // What it refers to is on disk before it is.
        if let Some(metrics) = &self.metrics {
            metrics.sync()?;
        }
        if let Some(log) = &mut self.dynamics {
            log.flush()?;
        }
        self.state.dynamics = self.dynamics.as_ref().map(DynamicsWriter::position);
        self.state.elapsed_seconds = self.elapsed();
        let (dir, total) = (self.folder.dir(), self.total_steps);
        let keep = (self.config.keep, self.config.keep_best);
        let path = checkpoint::save(dir, keep, &facts, &t.adapter, &t.adam, &self.state, total)?;
        self.tell(&Event::Checkpoint { path });
        Ok(())
    }

    /// The end of a stopped run: the state of the last whole step is on disk, if there was one.
    pub(super) fn stopped(&mut self, t: &Training) -> Result<()> {
        let at = self.state.global_step;
        let on_disk = checkpoint::list(self.folder.dir())?.pop();
        let path = match on_disk {
            Some(c) if c.global_step == at => Some(c.path),
            _ if at > 0 => {
                self.checkpoint(t)?;
                checkpoint::list(self.folder.dir())?.pop().map(|c| c.path)
            }
            _ => None,
        };
        Err(Error::Stopped { checkpoint: path })
    }

    pub(super) fn finish(&mut self, adapter: Adapter) -> Result<TrainReport> {
        let (path, facts) = (self.folder.adapter(), self.facts()?);
        let best = self.state.best;
        match best.filter(|b| self.config.keep_best && b.global_step != self.state.global_step) {
            Some(b) => {
                drop(adapter);
                let from = checkpoint::folder(self.folder.dir(), b.global_step);
                replace_dir(&path, |dir| {
                    checkpoint::copy_adapter(&from, dir)?;
                    facts.write(dir)
                })?;
            }
            None => replace_dir(&path, |dir| {
                adapter.save(dir, &facts.base.model)?;
                facts.write(dir)
            })?,
        }
        let last = self.state.last_eval.map(|(_, loss)| loss);
        let counts = self.store.counts();
        let report = TrainReport {
            run: self.folder.dir().to_path_buf(),
            adapter: path,
            steps: self.state.global_step,
            train_loss: self.state.stage_nll / (self.state.stage_tokens as f64).max(1.0),
            base_eval_loss: self.state.base_eval_loss,
            eval_loss: best.filter(|_| self.config.keep_best).map(|b| b.eval_loss).or(last),
            best_eval_loss: best.map(|b| b.eval_loss),
            best_step: best.map(|b| b.global_step),
            stopped_early: self.state.stopped_early,
            examples: self.store.len() as u64,
            rows_cut: counts.cut,
            rows_dropped: counts.empty + counts.no_target,
            seconds: self.elapsed(),
            peak_anonymous_bytes: self.peak(),
        };
        self.folder.finish(&report)?;
        Ok(report)
    }
}

/// The newest checkpoint whose state can be read; older ones are tried with a warning.
pub(super) fn newest(folder: &RunFolder) -> Result<(Option<Checkpoint>, State)> {
    for c in checkpoint::list(folder.dir())?.into_iter().rev() {
        match checkpoint::whole(&c) {
            Ok(state) => return Ok((Some(c), state)),
            Err(e) => log::warn!("{e}; an older checkpoint is tried"),
        }
    }
    Ok((None, State::default()))
}
