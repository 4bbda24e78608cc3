//! Which stages a run has and how many steps each takes, from the settings and the size of the set.

use crate::config::{Dynamics, Recipe, TrainConfig};
use crate::error::{Error, Result};

use super::pairs::mixed_steps;

/// One stage of a run. Steps are optimizer steps.
#[derive(Clone, Debug, PartialEq)]
pub enum PlannedStage {
    /// Plain training whose only product is the dynamics.
    Reference {
        /// Passes over the data, the last one cut where `max_steps` says so.
        epochs: u64,
        /// Steps of a whole epoch.
        steps_per_epoch: u64,
        /// Steps in all.
        steps: u64,
        /// Steps after which an adapter is kept and swept; online: the ends of the epochs whose losses
        /// make the log, the first left out.
        checkpoint_steps: Vec<u64>,
        /// Whether the run's own losses are logged instead of sweeps.
        online: bool,
    },
    /// A forward pass over the whole set at one checkpoint.
    Sweep {
        /// Steps done at the checkpoint.
        step: u64,
        /// Epochs done, likewise.
        epoch: f64,
    },
    /// The run whose adapter is the result.
    Target {
        /// Passes over the data.
        epochs: u64,
        /// Steps of a whole epoch.
        steps_per_epoch: u64,
        /// Steps in all.
        steps: u64,
        /// Whether it mixes.
        mixed: bool,
    },
    /// Target run of dynamics `single`: one plain epoch, a sweep, mixed epochs.
    Single {
        /// Passes over the data, the plain one included.
        epochs: u64,
        /// Steps of the plain epoch; the sweep follows them.
        plain_steps: u64,
        /// Steps of a whole mixed epoch.
        mixed_steps_per_epoch: u64,
        /// Steps in all.
        steps: u64,
    },
}

impl PlannedStage {
    /// Optimizer steps; none in a sweep.
    pub fn steps(&self) -> u64 {
        match self {
            PlannedStage::Reference { steps, .. }
            | PlannedStage::Target { steps, .. }
            | PlannedStage::Single { steps, .. } => *steps,
            PlannedStage::Sweep { .. } => 0,
        }
    }
}

/// The stages of a run, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// The stages.
    pub stages: Vec<PlannedStage>,
    /// Checkpoints that were asked for but fall on the same step as another.
    pub dropped_checkpoints: u64,
}

impl StagePlan {
    /// The stages of `config` over `examples` rows; `unmatched` of them have no imported confidence (0
    /// unless dynamics are imported). `max_steps` cuts the target run, and the reference run likewise.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`] for an empty set, or one too small to split;
    /// [`Error::InvalidConfig`] where `max_steps` ends a run before what its dynamics need, or the learning rate of
    /// all of a stage's steps is 0.
    pub fn new(config: &TrainConfig, examples: u64, unmatched: u64) -> Result<StagePlan> {
        let plan = StagePlan::laid_out(config, examples, unmatched)?;
        // Warm-up begins at 0 and the step behind the first is never so.
        match plan.stages.iter().find(|s| s.steps() == 1 && config.warmup_ratio > 0.0) {
            None => Ok(plan),
            Some(stage) => {
                let which = match stage {
                    PlannedStage::Reference { .. } => "the reference run",
                    PlannedStage::Sweep { .. } | PlannedStage::Target { .. } | PlannedStage::Single { .. } => "the run",
                };
                let reason = format!(
                    "{which} has one step, and warm-up begins at learning rate 0: nothing would be trained; expected \
                     0, or more steps (max_steps, epochs, a smaller batch_size), found {}",
                    config.warmup_ratio
                );
                Err(Error::config("warmup_ratio", reason))
            }
        }
    }

    fn laid_out(config: &TrainConfig, examples: u64, unmatched: u64) -> Result<StagePlan> {
        let batch = config.batch_size.max(1) as u64;
        let cap = |steps: u64| config.max_steps.map_or(steps, |m| m.min(steps));
        let plain_epoch = examples.div_ceil(batch);
        let mut plan = StagePlan { stages: Vec::new(), dropped_checkpoints: 0 };
        if examples == 0 {
            return Err(Error::NothingToTrain { reason: "the set is empty".into() });
        }
        let epochs = config.epochs as u64;
        match config.recipe {
            Recipe::Ntp => {
                plan.stages.push(target(epochs, plain_epoch, cap, false));
                return Ok(plan);
            }
            Recipe::Sftmix => {}
        }

        let pairs = examples.saturating_sub(unmatched) / 2;
        if pairs == 0 {
            let reason = format!("SFTMix splits the set in two; {examples} rows, {unmatched} of them unknown");
            return Err(Error::NothingToTrain { reason });
        }
        let mixed_epoch = mixed_steps(pairs, examples - 2 * pairs, batch / 2);
        let reference = config.reference_epochs as u64;
        let total = cap(reference.saturating_mul(plain_epoch));
        match &config.dynamics {
            Dynamics::Sweep => {
                let asked = config.reference_checkpoints as u64;
                let checkpoint_steps = evenly_spaced(total, asked);
                plan.dropped_checkpoints = asked - checkpoint_steps.len() as u64;
                if plan.dropped_checkpoints > 0 {
                    log::warn!("{} reference checkpoints instead of {asked}: {total} steps", checkpoint_steps.len());
                }
                let sweeps = checkpoint_steps
                    .iter()
                    .map(|&step| PlannedStage::Sweep { step, epoch: step as f64 / plain_epoch as f64 });
                let sweeps: Vec<_> = sweeps.collect();
                plan.stages.push(PlannedStage::Reference {
                    epochs: total.div_ceil(plain_epoch),
                    steps_per_epoch: plain_epoch,
                    steps: total,
                    checkpoint_steps,
                    online: false,
                });
                plan.stages.extend(sweeps);
                plan.stages.push(target(epochs, mixed_epoch, cap, true));
            }
            Dynamics::Online => {
                let checkpoint_steps: Vec<u64> = (2..=total / plain_epoch).map(|e| e * plain_epoch).collect();
                if checkpoint_steps.is_empty() {
                    let reason = format!(
                        "expected at least {} with dynamics online (two epochs of the reference run), found {total}",
                        2 * plain_epoch
                    );
                    return Err(Error::config("max_steps", reason));
                }
                plan.stages.push(PlannedStage::Reference {
                    epochs: total.div_ceil(plain_epoch),
                    steps_per_epoch: plain_epoch,
                    steps: total,
                    checkpoint_steps,
                    online: true,
                });
                plan.stages.push(target(epochs, mixed_epoch, cap, true));
            }
            Dynamics::Single => {
                let steps = cap(plain_epoch.saturating_add((epochs.saturating_sub(1)).saturating_mul(mixed_epoch)));
                if steps <= plain_epoch {
                    let reason = format!(
                        "expected more than {plain_epoch} with dynamics single (the first epoch is plain), found {steps}"
                    );
                    return Err(Error::config("max_steps", reason));
                }
                plan.stages.push(PlannedStage::Single {
                    epochs: 1 + (steps - plain_epoch).div_ceil(mixed_epoch),
                    plain_steps: plain_epoch,
                    mixed_steps_per_epoch: mixed_epoch,
                    steps,
                });
            }
            Dynamics::Path(_) => plan.stages.push(target(epochs, mixed_epoch, cap, true)),
        }
        Ok(plan)
    }

    /// Optimizer steps of all stages together.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(PlannedStage::steps).sum()
    }
}

fn target(epochs: u64, steps_per_epoch: u64, cap: impl Fn(u64) -> u64, mixed: bool) -> PlannedStage {
    let steps = cap(epochs.saturating_mul(steps_per_epoch));
    PlannedStage::Target { epochs: steps.div_ceil(steps_per_epoch), steps_per_epoch, steps, mixed }
}

/// `round(total·k/C)` for k = 1..C without 0 and repetitions: the last step is always one.
fn evenly_spaced(total: u64, count: u64) -> Vec<u64> {
    // More than `total` cannot be distinct, and a huge count would only spin.
    let count = count.clamp(1, total.max(1));
    let at = |k: u64| ((2 * u128::from(total) * u128::from(k) + u128::from(count)) / (2 * u128::from(count))) as u64;
    let mut steps: Vec<u64> = (1..=count).map(at).filter(|&s| s > 0).collect();
    steps.dedup();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Schedule;
    use crate::train::schedule::LearningRate;

    fn config() -> TrainConfig {
        TrainConfig { epochs: 3, batch_size: 8, ..Default::default() }
    }

    #[test]
    fn sweep_has_a_reference_run_its_sweeps_and_a_mixed_target() {
        let p = StagePlan::new(&config(), 101, 0).unwrap();
        let sweep = |step: u64| PlannedStage::Sweep { step, epoch: step as f64 / 13.0 };
        assert_eq!(
            p.stages,
            [
                PlannedStage::Reference {
                    epochs: 1,
                    steps_per_epoch: 13,
                    steps: 13,
                    checkpoint_steps: vec![3, 7, 10, 13],
                    online: false
                },
                sweep(3),
                sweep(7),
                sweep(10),
                sweep(13),
                PlannedStage::Target { epochs: 3, steps_per_epoch: 13, steps: 39, mixed: true },
            ]
        );
        assert_eq!((p.steps(), p.dropped_checkpoints), (52, 0));
    }

    /// As many checkpoints as epochs: at the end of each.
    #[test]
    fn checkpoints_of_as_many_epochs_are_their_ends() {
        let config = TrainConfig { reference_epochs: 3, reference_checkpoints: 3, ..config() };
        let p = StagePlan::new(&config, 101, 0).unwrap();
        assert!(
            matches!(&p.stages[0], PlannedStage::Reference { checkpoint_steps, .. } if *checkpoint_steps == [13, 26, 39])
        );
    }

    #[test]
    fn max_steps_cuts_both_runs_and_too_many_checkpoints_become_fewer() {
        let p = StagePlan::new(&TrainConfig { max_steps: Some(3), ..config() }, 100, 0).unwrap();
        assert_eq!(p.dropped_checkpoints, 1);
        let PlannedStage::Reference { steps, checkpoint_steps, .. } = &p.stages[0] else { panic!() };
        assert_eq!((*steps, &checkpoint_steps[..]), (3, &[1, 2, 3][..]));
        let last = PlannedStage::Target { epochs: 1, steps_per_epoch: 13, steps: 3, mixed: true };
        assert_eq!(p.stages.last(), Some(&last));
        assert_eq!(evenly_spaced(1, u64::MAX), [1]);
        assert_eq!(evenly_spaced(10, 4), [3, 5, 8, 10]);
    }

    #[test]
    fn a_stage_whose_rate_is_always_0_is_refused() {
        let of = |c: TrainConfig, examples: u64| StagePlan::new(&c, examples, 0).map_err(|e| e.to_string());
        let ntp = TrainConfig { recipe: Recipe::Ntp, max_steps: Some(1), ..config() };
        let e = of(ntp.clone(), 100).unwrap_err();
        assert!(e.starts_with("invalid setting warmup_ratio: the run has one step") && e.contains("max_steps"), "{e}");
        assert!(of(TrainConfig { warmup_ratio: 0.0, ..ntp.clone() }, 100).is_ok());
        assert!(of(TrainConfig { max_steps: Some(2), warmup_ratio: 1.0, ..ntp.clone() }, 100).is_ok());
        // Eight rows: an epoch of one step, three of them in the target run.
        let e = of(config(), 8).unwrap_err();
        assert!(e.starts_with("invalid setting warmup_ratio: the reference run has one step"), "{e}");
        assert!(of(TrainConfig { dynamics: Dynamics::Single, ..config() }, 8).is_ok());
        // Just these are the schedules that stay at 0.
        for steps in 1..5 {
            for warmup_ratio in [0.0, 1e-9, 0.3, 1.0] {
                for name in Schedule::NAMES {
                    let schedule = name.parse().unwrap();
                    let rate = LearningRate::new(1.0, schedule, warmup_ratio, steps);
                    let still = (0..steps).all(|s| rate.at(s) == 0.0);
                    let c = TrainConfig { max_steps: Some(steps), schedule, warmup_ratio, ..ntp.clone() };
                    assert_eq!(of(c, 100).is_err(), still, "{name}, {warmup_ratio} of {steps} steps");
                }
            }
        }
    }

    #[test]
    fn online_needs_two_whole_epochs() {
        let c = TrainConfig { dynamics: Dynamics::Online, reference_epochs: 3, ..config() };
        let p = StagePlan::new(&c, 16, 0).unwrap();
        let PlannedStage::Reference { checkpoint_steps, online: true, .. } = &p.stages[0] else { panic!() };
        assert_eq!((&checkpoint_steps[..], p.stages.len()), (&[4, 6][..], 2));
        let e = StagePlan::new(&TrainConfig { max_steps: Some(3), ..c }, 16, 0).unwrap_err().to_string();
        assert!(e.contains("max_steps") && e.contains("at least 4") && e.contains("found 3"), "{e}");
    }

    #[test]
    fn single_is_one_stage_with_a_plain_epoch() {
        let c = TrainConfig { dynamics: Dynamics::Single, ..config() };
        let stage = PlannedStage::Single { epochs: 3, plain_steps: 3, mixed_steps_per_epoch: 2, steps: 7 };
        assert_eq!(StagePlan::new(&c, 17, 0).unwrap().stages, [stage]);
        let e = StagePlan::new(&TrainConfig { max_steps: Some(3), ..c }, 17, 0).unwrap_err().to_string();
        assert!(e.contains("more than 3"), "{e}");
    }

    #[test]
    fn imported_and_plain_runs_have_a_target_only() {
        let imported = TrainConfig { dynamics: Dynamics::Path("d".into()), ..config() };
        let stage = |steps_per_epoch, mixed| PlannedStage::Target {
            epochs: 3,
            steps_per_epoch,
            steps: 3 * steps_per_epoch,
            mixed,
        };
        assert_eq!(StagePlan::new(&imported, 100, 8).unwrap().stages, [stage(12, true)]);
        assert_eq!(StagePlan::new(&imported, 100, 0).unwrap().stages, [stage(13, true)]);
        let ntp = TrainConfig { recipe: Recipe::Ntp, batch_size: 7, ..config() };
        assert_eq!(StagePlan::new(&ntp, 100, 0).unwrap().stages, [stage(15, false)]);
        assert!(StagePlan::new(&ntp, 0, 0).is_err());
        assert!(StagePlan::new(&config(), 1, 0).is_err());
        assert!(StagePlan::new(&ntp, 1, 0).is_ok());
    }
}
