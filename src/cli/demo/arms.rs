//! The arms of the demo. Each trains with the same rows, order, seed and settings; they were fixed by what
//! makes `ntp` best on the validation rows, before SFTMix was first run on them
//! (docs/decisions/0002-the-demo.md).

use std::path::{Path, PathBuf};

use sftmix::dynamics::{confidences, split_checkpoints, DynamicsLog};
use sftmix::{evaluate, Control, EvalConfig, Evaluation, Event, Recipe, TrainConfig, TrainReport, TrainingJob};

use super::files::Files;
use crate::cli::failure::Failure;

/// Epochs of the target run.
pub const EPOCHS: usize = 5;
/// Epochs of the reference run.
pub const REFERENCE_EPOCHS: usize = 1;
/// Checkpoints of the reference run.
pub const CHECKPOINTS: usize = 4;
/// Rows of an optimizer step.
const BATCH: usize = 16;
/// Peak learning rate.
pub const LR: f64 = 2e-3;
/// Epochs of plain training that cost what SFTMix costs: its own, the reference run's, and the sweeps, each
/// a forward pass, about half of an epoch that keeps its activations.
pub const SAME_COMPUTE_EPOCHS: usize = EPOCHS + REFERENCE_EPOCHS + CHECKPOINTS / 2;

/// A trained arm.
#[derive(Clone, Debug)]
pub struct Arm {
    pub adapter: PathBuf,
    /// Validation loss after each epoch.
    pub epochs: Vec<f64>,
    pub report: TrainReport,
    /// Its figures on the test rows.
    pub test: Evaluation,
    /// The epoch whose adapter this is.
    pub epoch: usize,
}

/// The settings of an arm.
pub fn config(files: &Files, out: &Path, recipe: Recipe, epochs: usize, seed: u64) -> TrainConfig {
    TrainConfig {
        model: files.model.clone(),
        data: files.train.as_path().into(),
        valid: Some(files.valid.clone()),
        out: out.to_path_buf(),
        recipe,
        epochs,
        reference_epochs: REFERENCE_EPOCHS,
        reference_checkpoints: CHECKPOINTS,
        batch_size: BATCH,
        max_length: 64,
        lr: LR,
        seed,
        // A checkpoint after each epoch, all of them kept: early stopping picks one.
        save_every: 50,
        keep: 1000,
        ..Default::default()
    }
}

/// Figures on the test rows.
pub fn test(files: &Files, adapter: Option<&Path>) -> Result<Evaluation, Failure> {
    let cache = files.test.with_file_name("cache");
    Ok(evaluate(&EvalConfig {
        model: files.model.clone(),
        adapter: adapter.map(Path::to_path_buf),
        data: files.test.clone(),
        max_length: 64,
        batch_size: 32,
        cache_dir: Some(cache),
        ..Default::default()
    })?)
}

/// Trains an arm and tests its last adapter, and, for `best`, the one with the least validation loss.
pub fn train(files: &Files, config: TrainConfig, see: &mut (dyn FnMut(&Event) + Send)) -> Result<(Arm, Arm), Failure> {
    let out = config.out.clone();
    let mut seen: Vec<(u64, f64)> = Vec::new();
    let report = TrainingJob::new(config)?.run(|event| {
        if let Event::Evaluated(e) = event {
            if e.stage == "target" {
                seen.push((e.global_step, e.eval_loss));
            }
        }
        see(event);
        Control::Continue
    })?;
    let epochs: Vec<f64> = seen.iter().map(|s| s.1).collect();
    let arm = |adapter: PathBuf, epoch: usize| -> Result<Arm, Failure> {
        let test = test(files, Some(&adapter))?;
        Ok(Arm { adapter, epochs: epochs.clone(), report: report.clone(), test, epoch })
    };
    let last = arm(report.adapter.clone(), seen.len())?;
    let best = (0..seen.len()).min_by(|&a, &b| seen[a].1.total_cmp(&seen[b].1)).unwrap_or(0);
    let best = match seen.get(best) {
        Some((step, _)) if best + 1 < seen.len() => arm(out.join(format!("checkpoint-{step}")), best + 1)?,
        _ => last.clone(),
    };
    Ok((last, best))
}

/// Source rows of the training set from the least to the most confident.
pub fn least_confident(run: &Path) -> Result<Vec<u64>, Failure> {
    let log = DynamicsLog::open(run.join("dynamics"))?;
    let confidence = confidences(&log, sftmix::Confidence::Perplexity, &split_checkpoints(&log)?)?;
    let mut order: Vec<u32> = (0..confidence.len() as u32).collect();
    order.sort_by(|&a, &b| confidence[a as usize].total_cmp(&confidence[b as usize]).then(a.cmp(&b)));
    Ok(order.into_iter().filter_map(|i| log.example(i).map(|(row, _)| row)).collect())
}
