//! What happens between two micro-batches when somebody steers: a pause behind a checkpoint, other limits, a stop.

use super::parts::{Runner, Training};
use crate::config::TrainConfig;
use crate::error::{Error, Result};

use crate::job::event::Event;
use crate::job::gate::{Gate, Turn};
use crate::job::limits::Limits;
use crate::plan::settle::{limits_are_kept, settle, RowFacts, WeightFacts};
use crate::steps::stage::StageRun;
use crate::train::score::Together;

impl Runner<'_> {
    /// Before a micro-batch of training.
    ///
    /// # Errors
    /// [`Error::Stopped`], with the checkpoint.
    pub(super) fn gate(&mut self, stage: &StageRun, t: &Training) -> Result<()> {
        loop {
            match self.control.gate(Gate::Step, self.progress.unsaved) {
                Turn::Go => return Ok(()),
                Turn::Stop => return Err(self.stopped(stage, t)),
                Turn::Tend => self.tend(Some((stage, t)))?,
            }
        }
    }

    /// Does what is to be done between two micro-batches, in training, in a sweep and in an evaluation.
    pub(super) fn tend(&mut self, at: Option<(&StageRun, &Training)>) -> Result<()> {
        if let Some(asked) = self.control.take_limits() {
            self.limit(asked);
        }
        if let Some((stage, t)) = at.filter(|_| self.control.is_pausing() && self.progress.unsaved) {
            // A process that is ended while it waits loses nothing.
            self.checkpoint(stage, t)?;
        }
        Ok(())
    }

    /// Puts limits into force, all of them or none, and says so.
    fn limit(&mut self, asked: Limits) {
        let had = self.control.status().limits;
        let all = asked.over(had);
        let (limits, refused) = match self.put(&all) {
            Ok(()) => (all, None),
            Err(e) => (Limits { duty_cycle: all.duty_cycle, ..had }, Some(e.to_string())),
        };
        self.control.limits_are(limits);
        self.know_least_memory();
        self.tell(&Event::Limits { limits, refused });
    }

    fn put(&mut self, limits: &Limits) -> Result<()> {
        let threads = limits.threads.unwrap_or_else(|| self.engine().threads());
        let memory_limit = limits.memory_limit.or(self.config.memory_limit);
        let settled = self.settled(&TrainConfig { memory_limit, ..self.config.clone() }, threads)?;
        if threads != self.engine().threads() {
            self.opened.inputs.engine.set_threads(threads)?;
        }
        self.opened.keep = settled.keep;
        self.opened.together = Together { tokens: settled.score_tokens, ..self.opened.together };
        if let Some(pinned) = settled.pinned {
            self.opened.inputs.model.give_up_weights(pinned);
        }
        Ok(())
    }

    /// What is kept under these settings, where rows stay cut as they are.
    fn settled(&self, config: &TrainConfig, threads: usize) -> Result<crate::plan::choice::Choice> {
        let (inputs, store, valid) = (&self.opened.inputs, &self.opened.store, self.opened.valid.as_ref());
        limits_are_kept(config, inputs.engine.options.form)?;
        let weights = WeightFacts::of(&inputs.base, inputs.model.weight_bytes())?;
        let cut = Some(self.opened.run_file.resolved.cut);
        let rows = RowFacts::of(store, valid);
        settle(config, &inputs.model.config, weights, threads, rows, cut).map(|(_, choice)| choice)
    }

    /// Tells the controls how little memory the run can go on with, so that a smaller limit is refused at once.
    pub(super) fn know_least_memory(&self) {
        let config = TrainConfig { memory_limit: Some(1), resident_limit: None, ..self.config.clone() };
        if let Err(Error::MemoryLimit { needed, .. }) = self.settled(&config, self.engine().threads()) {
            self.control.least_memory_is(needed);
        }
    }
}
