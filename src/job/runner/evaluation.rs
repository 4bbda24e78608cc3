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
                self.report_evaluation(stage.stage.as_str(), stage.epochs(self.state.step), e)
            }
            Err(Error::Stopped { .. }) => self.stopped(t),
            Err(e) => Err(e),
        }
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
            "elapsed_seconds": self.elapsed(),
        });
        self.write_metrics(&line)?;
        self.tell(&Event::Evaluated { stage, global_step, epoch, evaluation: e });
        Ok(())
    }
}
