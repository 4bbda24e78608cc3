//! The runner's dealings with the dynamics: the log, its sweeps, and the split that follows.

use super::parts::{Runner, Training};
use crate::base::open::{hex, Inputs};
use crate::dynamics::{
    confidences, split_checkpoints, CheckpointInfo, DynamicsLog, DynamicsWriter, Header, Kind, Position, Record, Stage,
};
use crate::error::{Error, Result};
use crate::job::event::{Control, Event};
use crate::job::gate::{Gate, Turn};
use crate::model::Adapter;
use crate::recipe::Halves;
use crate::run::folder::Metrics;
use crate::steps::stage::StageRun;
use crate::train::group::RowResult;
use crate::train::score::score;

impl Runner<'_> {
    /// Splits the set by the run's own log.
    pub(super) fn split(&mut self) -> Result<()> {
        let log = DynamicsLog::open(self.disk.folder.dynamics())?;
        let which = split_checkpoints(&log)?;
        let confidence = confidences(&log, self.config.confidence, &which)?;
        self.halves = Some(Halves::split(&confidence)?);
        self.tell_split();
        Ok(())
    }

    /// Takes the log up where the checkpoint knew it to stand; a sweep of just this state that went on
    /// after the checkpoint was written is kept.
    pub(super) fn resume_dynamics(&mut self, stage: Stage, position: Position, adapter: &Adapter) -> Result<()> {
        let dir = self.disk.folder.dynamics();
        if !dir.exists() && position == Position::default() {
            return Ok(());
        }
        let mut writer = DynamicsWriter::open(dir)?;
        let hash = hex(&adapter.hash()?);
        let step = self.progress.state.stage.step;
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
        self.disk.log = Some(writer);
        Ok(())
    }

    /// The log, begun where there is none.
    pub(super) fn log(&mut self) -> Result<&mut DynamicsWriter> {
        let writer = match self.disk.log.take() {
            Some(w) => w,
            None => {
                let model_hash = self.model_hash()?;
                let data = self.opened.run_file.stands_on.data.hash.clone().unwrap_or_default();
                let header = Header::new(model_hash, data);
                let dir = self.disk.folder.dynamics();
                if dir.exists() {
                    std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
                }
                let store = &self.opened.store;
                let examples = (0..store.len()).map(|i| {
                    let e = store.example(i);
                    (e.source_row, e.text_hash)
                });
                DynamicsWriter::create(&dir, header, examples)?
            }
        };
        Ok(self.disk.log.insert(writer))
    }

    /// Begins the log of an epoch whose own losses are logged. One that the last step cuts is logged as what it is.
    pub(super) fn begin_online_epoch(&mut self, stage: &StageRun) -> Result<()> {
        if !stage.online || self.log()?.current().is_some() {
            return Ok(());
        }
        let p = stage.place(self.progress.state.stage.step);
        let end = ((p.epoch + 1) * p.of).min(stage.steps);
        self.log()?.begin(CheckpointInfo::new(stage.stage, Kind::Online, end, stage.epochs(end), ""))
    }

    /// A forward pass over the set at this state, unless the log has it.
    pub(super) fn sweep(&mut self, stage: &StageRun, number: usize, t: &Training) -> Result<()> {
        let step = self.progress.state.stage.step;
        let had = |w: &DynamicsWriter| {
            w.header().checkpoints.iter().any(|c| (c.stage, c.step, c.complete) == (stage.stage, step, true))
        };
        if self.disk.log.as_ref().is_some_and(had) {
            return Ok(());
        }
        let hash = hex(&t.adapter.hash()?);
        let log = self.log()?;
        if log.current().is_none() {
            log.begin(CheckpointInfo::new(stage.stage, Kind::Sweep, step, stage.epochs(step), hash))?;
        }
        let total = self.opened.store.len() as u64;
        self.tend(Some((stage, t)))?;
        while self.go_on_sweeping((number, stage.sweeps.len()), t)? < total && !self.control.is_stopped() {
            self.tend(Some((stage, t)))?;
        }
        match self.control.is_stopped() {
            true => Err(self.stopped(stage, t)),
            false => Ok(()),
        }
    }

    /// Scores what the log does not have, until there is something else to do, and gives how many it has.
    fn go_on_sweeping(&mut self, (number, of): (usize, usize), t: &Training) -> Result<u64> {
        let total = self.opened.store.len() as u64;
        let Some(mut writer) = self.disk.log.take() else {
            return Err(Error::Dynamics { path: self.disk.folder.dynamics(), reason: "the log is not open".into() });
        };
        let from = writer.records() as u32;
        let (control, observer, unsaved) = (self.control, &mut self.observer, self.progress.unsaved);
        let bytes = self.disk.metrics.as_ref().map_or(0, Metrics::bytes);
        let Inputs { engine, model, .. } = &self.opened.inputs;
        score(engine, model, Some(&t.adapter), &self.opened.store, from, self.opened.together, |result| {
            for r in &result.rows {
                writer.append(&record(r))?;
            }
            let event = Event::Sweep { number: number + 1, of, done: writer.records(), total };
            control.told(&event, bytes);
            if observer(&event) == Control::Stop {
                control.stop();
            }
            if control.is_pausing() {
                // What a pause holds up is on disk.
                writer.flush()?;
            }
            Ok(control.gate(Gate::Sweep, unsaved) == Turn::Go)
        })?;
        let records = writer.records();
        if records == total {
            writer.finish()?;
        } else {
            writer.flush()?;
        }
        self.disk.log = Some(writer);
        Ok(records)
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
