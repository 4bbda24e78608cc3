//! The runner's dealings with the dynamics: the log, its sweeps, and the split that follows.

use super::*;

impl Runner<'_> {
    /// Imports dynamics where they come from elsewhere, and lays out the stages.
    pub(super) fn plan(&mut self) -> Result<()> {
        let mut unmatched = 0;
        if let Some(kept) = self.folder.confidence()?.filter(|c| c.len() == self.store.len()) {
            unmatched = kept.iter().filter(|c| c.is_nan()).count() as u64;
            self.set_halves(&kept)?;
        } else if let Some((confidence, missing)) = imported(self.config, &self.store)? {
            unmatched = missing;
            self.set_halves(&confidence)?;
            self.imported = Some(confidence);
        }
        let plan = StagePlan::new(self.config, self.store.len() as u64, unmatched)?;
        self.total_steps = plan.steps();
        self.stages = StageRun::from_plan(&plan.stages);
        Ok(())
    }

    pub(super) fn set_halves(&mut self, confidence: &[f32]) -> Result<()> {
        let halves = Halves::split(confidence)?;
        let (confident, unconfident, neither) =
            (halves.confident().len(), halves.unconfident().len(), halves.neither().len());
        self.halves = Some(halves);
        self.tell(&Event::Split { confident, unconfident, neither });
        Ok(())
    }

    /// Takes the log up where the checkpoint knew it to stand; a sweep of just this state that went on
    /// after the checkpoint was written is kept.
    pub(super) fn resume_dynamics(&mut self, stage: usize, position: Position, adapter: &Adapter) -> Result<()> {
        if !self.folder.dynamics().exists() && position == Position::default() {
            return Ok(());
        }
        let mut writer = DynamicsWriter::open(self.folder.dynamics())?;
        let hash = hex(&adapter.hash()?);
        let (stage, step) = (self.stages[stage].stage, self.state.step);
        let further = writer.header().checkpoints.get(position.complete).filter(|c| {
            position.records == 0
                && c.kind == Kind::Sweep
                && (c.stage, c.step) == (stage, step)
                && c.adapter_hash == hash
        });
        let to = match further {
            Some(c) if c.complete => Position { complete: position.complete + 1, records: 0 },
            Some(_) => Position { complete: position.complete, records: writer.records() },
            None => position,
        };
        if writer.position() != to {
            writer.rewind(to)?;
        }
        self.dynamics = Some(writer);
        Ok(())
    }

    /// The log, begun where there is none.
    pub(super) fn log(&mut self) -> Result<&mut DynamicsWriter> {
        let writer = match self.dynamics.take() {
            Some(w) => w,
            None => {
                let model_hash = self.model_hash()?;
                let header = Header::new(model_hash, self.run_file.data_hash.clone());
                let dir = self.folder.dynamics();
                if dir.exists() {
                    std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
                }
                let store = &self.store;
                let examples = (0..store.len()).map(|i| {
                    let e = store.example(i);
                    (e.source_row, e.text_hash)
                });
                DynamicsWriter::create(&dir, header, examples)?
            }
        };
        Ok(self.dynamics.insert(writer))
    }

    /// A forward pass over the set at this state, unless the log has it.
    pub(super) fn sweep(&mut self, stage: &StageRun, number: usize, t: &Training) -> Result<()> {
        let step = self.state.step;
        let had = |w: &DynamicsWriter| {
            w.header().checkpoints.iter().any(|c| (c.stage, c.step, c.complete) == (stage.stage, step, true))
        };
        if self.dynamics.as_ref().is_some_and(had) {
            return Ok(());
        }
        let hash = hex(&t.adapter.hash()?);
        let log = self.log()?;
        if log.current().is_none() {
            log.begin(CheckpointInfo::new(stage.stage, Kind::Sweep, step, stage.epochs(step), hash))?;
        }
        let total = self.store.len() as u64;
        let Some(mut writer) = self.dynamics.take() else {
            return Err(Error::Dynamics { path: self.folder.dynamics(), reason: "the log is not open".into() });
        };
        let from = writer.records() as u32;
        let (stop, observer, sweeps) = (self.stop, &mut self.observer, stage.sweeps.len());
        let Inputs { engine, model, .. } = &self.inputs;
        score(engine, model, Some(&t.adapter), &self.store, from, self.together, |result| {
            for r in &result.rows {
                writer.append(&record(r))?;
            }
            let event = Event::Sweep { number: number + 1, of: sweeps, done: writer.records(), total };
            if observer(&event) == Control::Stop {
                stop.stop();
            }
            Ok(!stop.is_stopped())
        })?;
        if writer.records() == total {
            writer.finish()?;
        } else {
            writer.flush()?;
        }
        self.dynamics = Some(writer);
        if self.stop.is_stopped() {
            return self.stopped(t);
        }
        Ok(())
    }
}

pub(super) fn record(r: &RowResult) -> Record {
    Record {
        example: r.example,
        n_tokens: r.tokens,
        n_correct: r.correct,
        mean_prob: (r.prob / r.tokens.max(1) as f64) as f32,
        nll_sum: r.nll,
    }
}
