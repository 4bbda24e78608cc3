//! The stages of a run as loops of steps, and which rows each step takes.

use crate::config::TrainConfig;
use crate::data::tokens::epoch_order;
use crate::dynamics::Stage;
use crate::recipe::Halves;
use crate::recipe::PlannedStage;
use crate::recipe::{EpochPairs, Step};

/// A stage that takes optimizer steps: plain epochs, then mixed ones.
#[derive(Clone, Debug)]
pub(crate) struct StageRun {
    pub stage: Stage,
    pub steps: u64,
    /// Steps of a plain epoch.
    plain_epoch: u64,
    /// Plain steps in all.
    plain_steps: u64,
    /// Steps of a mixed epoch.
    mixed_epoch: u64,
    /// Steps after which the set is swept.
    pub sweeps: Vec<u64>,
    /// Whether the steps' own losses are logged.
    pub online: bool,
}

/// A step's place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
    /// Steps of this epoch.
    pub of: u64,
    pub mixed: bool,
}

impl StageRun {
    /// The loops of a plan; sweeps join the loop they interrupt.
    pub fn from_plan(stages: &[PlannedStage]) -> Vec<StageRun> {
        let run = |stage, steps| StageRun {
            stage,
            steps,
            plain_epoch: 1,
            plain_steps: 0,
            mixed_epoch: 1,
            sweeps: Vec::new(),
            online: false,
        };
        let made = stages.iter().filter_map(|s| match s {
            PlannedStage::Reference { steps_per_epoch, steps, checkpoint_steps, online, .. } => Some(StageRun {
                plain_epoch: *steps_per_epoch,
                plain_steps: *steps,
                sweeps: if *online { Vec::new() } else { checkpoint_steps.clone() },
                online: *online,
                ..run(Stage::Reference, *steps)
            }),
            PlannedStage::Sweep { .. } => None,
            PlannedStage::Target { steps_per_epoch, steps, mixed: true, .. } => {
                Some(StageRun { mixed_epoch: *steps_per_epoch, ..run(Stage::Target, *steps) })
            }
            PlannedStage::Target { steps_per_epoch, steps, mixed: false, .. } => {
                Some(StageRun { plain_epoch: *steps_per_epoch, plain_steps: *steps, ..run(Stage::Target, *steps) })
            }
            PlannedStage::Single { plain_steps, mixed_steps_per_epoch, steps, .. } => Some(StageRun {
                plain_epoch: *plain_steps,
                plain_steps: *plain_steps,
                mixed_epoch: *mixed_steps_per_epoch,
                sweeps: vec![*plain_steps],
                ..run(Stage::Single, *steps)
            }),
        });
        made.collect()
    }

    /// Where step `step` stands.
    pub fn place(&self, step: u64) -> Place {
        if step < self.plain_steps {
            let of = self.plain_epoch;
            return Place { epoch: step / of, step: step % of, of, mixed: false };
        }
        let (done, of) = (step - self.plain_steps, self.mixed_epoch);
        Place { epoch: self.plain_steps.div_ceil(self.plain_epoch) + done / of, step: done % of, of, mixed: true }
    }

    /// Epochs done after `steps` steps.
    pub fn epochs(&self, steps: u64) -> f64 {
        // Not by `place`, which looks forward: a run cut short ends within an epoch.
        let plain = steps.min(self.plain_steps) as f64 / self.plain_epoch as f64;
        plain + steps.saturating_sub(self.plain_steps) as f64 / self.mixed_epoch as f64
    }

    /// Whether an epoch ends with step `steps` (counted from 1).
    pub fn ends_epoch(&self, steps: u64) -> bool {
        steps > 0 && (steps == self.steps || self.place(steps).step == 0)
    }
}

/// What to say of a run whose log has losses that dropout or NEFTune's noise has changed.
pub(crate) fn drawn_into_log(stages: &[StageRun], lora_dropout: f64, neftune: Option<f64>) -> Option<String> {
    if !stages.iter().any(|s| s.online) {
        return None;
    }
    let dropout = (lora_dropout > 0.0).then(|| format!("lora_dropout {lora_dropout}"));
    let noise = neftune.map(|alpha| format!("neftune_noise_alpha {alpha}"));
    let drawn: Vec<String> = dropout.into_iter().chain(noise).collect();
    let what = "dynamics online logs the losses of training passes, here with";
    (!drawn.is_empty()).then(|| format!("{what} {}: dynamics sweep scores without", drawn.join(" and ")))
}

/// The rows of the epoch at hand: 4 bytes an example.
#[derive(Debug, Default)]
pub(crate) struct EpochRows {
    held: Option<(u64, bool, Epoch)>,
}

#[derive(Debug)]
enum Epoch {
    Plain(Vec<u32>),
    Mixed(EpochPairs),
}

impl EpochRows {
    /// The rows of a step. `halves` are needed where it mixes.
    pub fn step(
        &mut self,
        run: &StageRun,
        config: &TrainConfig,
        examples: u32,
        step: u64,
        halves: Option<&Halves>,
    ) -> Step {
        let p = run.place(step);
        let batch = config.batch_size;
        if !matches!(&self.held, Some((e, mixed, _)) if (*e, *mixed) == (p.epoch, p.mixed)) {
            // The last epoch's order goes before the next one is made.
            self.held = None;
            let epoch = match halves.filter(|_| p.mixed) {
                Some(h) => Epoch::Mixed(EpochPairs::new(h, config.seed, p.epoch, batch / 2, config.mix_alpha)),
                None => Epoch::Plain(epoch_order(examples, config.seed, run.stage as u64, p.epoch)),
            };
            self.held = Some((p.epoch, p.mixed, epoch));
        }
        match &self.held {
            Some((_, _, Epoch::Mixed(pairs))) => pairs.step(p.step),
            Some((_, _, Epoch::Plain(order))) => {
                let first = (p.step as usize * batch).min(order.len());
                let rows = &order[first..(first + batch).min(order.len())];
                Step { pairs: Vec::new(), single: rows.to_vec() }
            }
            None => Step::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dynamics, Recipe};
    use crate::recipe::StagePlan;

    fn runs(config: TrainConfig, examples: u64) -> Vec<StageRun> {
        StageRun::from_plan(&StagePlan::new(&config, examples, 0).unwrap().stages)
    }

    #[test]
    fn single_goes_from_plain_to_mixed_after_its_sweep() {
        let c = TrainConfig { dynamics: Dynamics::Single, epochs: 3, batch_size: 8, ..Default::default() };
        let r = &runs(c, 101)[0];
        assert_eq!((r.sweeps.clone(), r.steps), (vec![13], 13 + 2 * 13));
        assert!(!r.place(12).mixed && r.place(13) == Place { epoch: 1, step: 0, of: 13, mixed: true });
        assert!(r.ends_epoch(13) && !r.ends_epoch(14) && r.ends_epoch(26) && r.ends_epoch(39));
        assert_eq!(r.epochs(39), 3.0);
        let cut = TrainConfig { recipe: Recipe::Ntp, max_steps: Some(20), ..Default::default() };
        assert_eq!(runs(cut, 800)[0].epochs(20), 0.2);
    }

    #[test]
    fn an_online_log_says_what_is_drawn_into_it() {
        let online = TrainConfig { dynamics: Dynamics::Online, reference_epochs: 3, ..Default::default() };
        let said = |c: &TrainConfig, dropout, noise| drawn_into_log(&runs(c.clone(), 800), dropout, noise);
        let both = said(&online, 0.1, Some(5.0)).unwrap();
        assert!(both.contains("here with lora_dropout 0.1 and neftune_noise_alpha 5: "), "{both}");
        assert!(said(&online, 0.0, Some(5.0)).unwrap().contains("with neftune_noise_alpha 5: "));
        assert!(said(&online, 0.1, None).unwrap().contains("with lora_dropout 0.1: "));
        assert_eq!(said(&online, 0.0, None), None);
        for other in [
            TrainConfig { dynamics: Dynamics::Sweep, ..online.clone() },
            TrainConfig { recipe: Recipe::Ntp, ..online.clone() },
        ] {
            assert_eq!(said(&other, 0.1, Some(5.0)), None);
        }
    }

    #[test]
    fn every_row_comes_once_an_epoch() {
        for recipe in [Recipe::Ntp, Recipe::Sftmix] {
            let c = TrainConfig { recipe, batch_size: 8, epochs: 2, ..Default::default() };
            let r = runs(c.clone(), 101).pop().unwrap();
            let conf: Vec<f32> = (0..101).map(|i| -(i as f32)).collect();
            let halves = Halves::split(&conf).unwrap();
            let mut rows = EpochRows::default();
            let mut seen = vec![0; 101];
            for s in 0..r.steps {
                let step = rows.step(&r, &c, 101, s, Some(&halves));
                step.single.iter().for_each(|&i| seen[i as usize] += 1);
                for p in step.pairs {
                    seen[p.confident as usize] += 1;
                    seen[p.unconfident as usize] += 1;
                }
            }
            assert_eq!(seen, vec![2; 101], "{recipe}");
        }
    }
}
