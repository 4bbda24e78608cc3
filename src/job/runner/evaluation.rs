//! Evaluation on the held-out rows while a run goes on.

use super::*;

impl Runner<'_> {
    /// Whether the held-out rows are to be evaluated at this step and have not been. The reference run is
    /// left out: its adapter is nobody's result.
    pub(super) fn evaluation_due(&self, stage: &StageRun) -> bool {
        let step = self.state.step;
        let due = stage.ends_epoch(step) || self.config.eval_every.is_some_and(|n| step > 0 && step.is_multiple_of(n));
        let done = self.state.last_eval.is_some_and(|(at, _)| at == step);
        self.valid.is_some() && stage.stage != Stage::Reference && due && !done
    }

    pub(super) fn evaluate_stage(&mut self, stage: &StageRun, t: &Training) -> Result<()> {
        match self.evaluate(Some(&t.adapter)) {
            Ok(e) => {
                self.state.last_eval = Some((self.state.step, e.nll));
                self.judge(stage, e.nll);
                self.report_evaluation(stage.stage.as_str(), stage.epochs(self.state.step), e)?;
                let best = self.state.best.filter(|_| self.state.stopped_early);
                if let Some(Best { global_step: best_step, eval_loss: best_eval_loss }) = best {
                    let global_step = self.state.global_step;
                    self.tell(&Event::StoppedEarly { global_step, best_step, best_eval_loss });
                }
                Ok(())
            }
            Err(Error::Stopped { .. }) => self.stopped(t),
            Err(e) => Err(e),
        }
    }

    /// Whether this is the best evaluation so far, and whether there were too many without improvement, as
    /// transformers' `EarlyStoppingCallback` counts them. What precedes the recipe's own training does not count.
    fn judge(&mut self, stage: &StageRun, loss: f64) {
        let mixes = stage.place(self.state.step.saturating_sub(1)).mixed;
        if stage.stage != Stage::Target && !mixes {
            return;
        }
        let (config, state) = (self.config, &mut self.state);
        let before = state.best.map_or(f64::INFINITY, |b| b.eval_loss);
        let improved = loss < before && before - loss > config.early_stopping_threshold;
        state.without_improvement = if improved { 0 } else { state.without_improvement + 1 };
        if loss < before {
            state.best = Some(Best { global_step: state.global_step, eval_loss: loss });
        }
        state.stopped_early = config.early_stopping_patience.is_some_and(|p| state.without_improvement >= p);
    }

    /// Whether the weights as they are gave the best evaluation and are to be kept for it.
    pub(super) fn keeps_best(&self) -> bool {
        let state = &self.state;
        self.config.keep_best && state.best.is_some_and(|b| b.global_step == state.global_step)
    }

    pub(super) fn evaluate(&self, adapter: Option<&Adapter>) -> Result<Evaluation> {
        let Some(valid) = &self.valid else { return Ok(Evaluation::default()) };
        let Inputs { engine, model, .. } = &self.inputs;
        evaluate(engine, model, adapter, valid, self.together, &stopped(self.stop))
    }

    pub(super) fn report_evaluation(&mut self, stage: &'static str, epoch: f64, e: Evaluation) -> Result<()> {
        let global_step = self.state.global_step;
        let line = json!({
            "stage": stage,
            "global_step": global_step,
            "epoch": epoch,
            "eval_loss": e.nll,
            "eval_token_accuracy": e.token_accuracy,
            "is_best": stage != "base" && self.state.best.is_some_and(|b| b.global_step == global_step),
            "elapsed_seconds": self.elapsed(),
        });
        self.write_metrics(&line)?;
        self.tell(&Event::Evaluated { stage, global_step, epoch, evaluation: e });
        Ok(())
    }
}
