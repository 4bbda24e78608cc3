//! Evaluation on the held-out rows while a run goes on.

use super::parts::{Runner, Training};
use crate::base::open::Inputs;
use crate::dynamics::Stage;
use crate::error::{Error, Result};
use crate::job::event::{EvaluatedEvent, Event};
use crate::job::gate::{Gate, Turn};
use crate::run::checkpoint::{Best, LogEntry};
use crate::steps::stage::StageRun;
use crate::train::score::{Evaluating, Evaluation};

impl Runner<'_> {
    /// Whether the held-out rows are to be evaluated at this step and have not been. The reference run is
    /// left out: its adapter is nobody's result.
    pub(super) fn evaluation_due(&self, stage: &StageRun) -> bool {
        let at = &self.progress.state.stage;
        let every = self.config.eval_every;
        let due = stage.ends_epoch(at.step) || every.is_some_and(|n| at.step > 0 && at.step.is_multiple_of(n));
        let done = at.last_eval.is_some_and(|(step, _)| step == at.step);
        self.opened.valid.is_some() && stage.stage != Stage::Reference && due && !done
    }

    pub(super) fn evaluate_stage(&mut self, stage: &StageRun, t: &Training) -> Result<()> {
        let e = match self.evaluate(Some((stage, t))) {
            Err(Error::Stopped { .. }) => return Err(self.stopped(stage, t)),
            other => other?,
        };
        self.progress.unsaved = true;
        let (epoch, state) = (stage.epochs(self.progress.state.stage.step), &mut self.progress.state);
        state.stage.last_eval = Some((state.stage.step, e.nll));
        let step = state.global_step;
        state.log_history.push(LogEntry { epoch, step, eval_loss: Some(e.nll), ..Default::default() });
        self.judge(stage, e.nll);
        self.report_evaluation(stage.stage.as_str(), epoch, e)?;
        let state = &self.progress.state;
        if let Some(best) = state.stage.best.filter(|_| state.stage.stopped_early) {
            let Best { global_step: best_step, eval_loss: best_eval_loss } = best;
            let global_step = state.global_step;
            self.tell(&Event::StoppedEarly { global_step, best_step, best_eval_loss });
        }
        Ok(())
    }

    /// Whether this is the best evaluation so far, and whether there were too many without improvement, as
    /// transformers' `EarlyStoppingCallback` counts them. What precedes the recipe's own training does not count, and
    /// at the last step there is nothing left to be cut.
    fn judge(&mut self, stage: &StageRun, loss: f64) {
        let mixes = stage.place(self.progress.state.stage.step.saturating_sub(1)).mixed;
        if stage.stage != Stage::Target && !mixes {
            return;
        }
        let (config, global_step) = (self.config, self.progress.state.global_step);
        let at = &mut self.progress.state.stage;
        let before = at.best.map_or(f64::INFINITY, |b| b.eval_loss);
        let improved = loss < before && before - loss > config.early_stopping_threshold;
        at.without_improvement = if improved { 0 } else { at.without_improvement + 1 };
        if loss < before {
            at.best = Some(Best { global_step, eval_loss: loss });
        }
        let ran_out = config.early_stopping_patience.is_some_and(|p| at.without_improvement >= p);
        at.stopped_early = ran_out && at.step < stage.steps;
    }

    /// Whether the weights as they are gave the best evaluation and are to be kept for it.
    pub(super) fn keeps_best(&self) -> bool {
        let state = &self.progress.state;
        self.config.keep_best && state.stage.best.is_some_and(|b| b.global_step == state.global_step)
    }

    /// The held-out rows under the weights in training, or under the untouched model.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it is to end.
    pub(super) fn evaluate(&mut self, at: Option<(&StageRun, &Training)>) -> Result<Evaluation> {
        let mut evaluating = Evaluating::default();
        self.tend(at)?;
        loop {
            let Some(valid) = &self.opened.valid else { return Ok(Evaluation::default()) };
            let Inputs { engine, model, .. } = &self.opened.inputs;
            let adapter = at.map(|(_, t)| &t.adapter);
            let unsaved = at.is_some() && self.progress.unsaved;
            let control = self.control;
            let ended = evaluating.go_on(engine, model, adapter, valid, self.opened.together, || {
                match control.gate(Gate::Evaluation, unsaved) {
                    Turn::Go => Ok(false),
                    Turn::Tend => Ok(true),
                    Turn::Stop => Err(Error::Stopped { checkpoint: None }),
                }
            })?;
            if ended {
                return Ok(evaluating.figures());
            }
            self.tend(at)?;
        }
    }

    pub(super) fn report_evaluation(&mut self, stage: &str, epoch: f64, e: Evaluation) -> Result<()> {
        let state = &self.progress.state;
        let global_step = state.global_step;
        self.record(&Event::Evaluated(EvaluatedEvent {
            stage: stage.into(),
            global_step,
            epoch,
            is_best: stage != "base" && state.stage.best.is_some_and(|b| b.global_step == global_step),
            elapsed_seconds: self.elapsed(),
            ..EvaluatedEvent::of(&e)
        }))
    }
}
