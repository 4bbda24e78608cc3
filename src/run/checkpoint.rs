//! `checkpoint-<step>/`: a loadable PEFT adapter, the optimizer, where the run stands. Built under a
//! temporary name and renamed, so one that has its name is whole.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::folder::pretty;
use crate::disk::{put, replace_dir};
use crate::dynamics::Position;
use crate::error::{Error, Result};
use crate::lora::base::AdapterFacts;
use crate::lora::tensors::{load_tensors, write_tensors, Matrix};
use crate::lora::Adapter;
use crate::ops::linear::Slot;
use crate::train::optimizer::AdamW;

/// Where a run stands. No generator state: random numbers are functions of (seed, step, row).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// `reference`, `target` or `single`.
    pub stage: String,
    /// Steps done in the stage.
    pub step: u64,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Where the dynamics log stood.
    pub dynamics: Option<Position>,
    /// Seconds spent so far.
    pub elapsed_seconds: f64,
    /// Tokens seen in all stages.
    pub num_tokens: u64,
    /// Σ −log p over the supervised tokens of the stage.
    pub stage_nll: f64,
    /// Supervised tokens of the stage.
    pub stage_tokens: u64,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Held-out loss of the untouched base.
    pub base_eval_loss: Option<f64>,
    /// Held-out loss at the last evaluation of this stage, and its step.
    pub last_eval: Option<(u64, f64)>,
    /// The best of the stage's evaluations that count.
    #[serde(default)]
    pub best: Option<Best>,
    /// Evaluations in a row that have not improved on it.
    #[serde(default)]
    pub without_improvement: u64,
    /// Whether they ended the stage.
    #[serde(default)]
    pub stopped_early: bool,
}

/// The best evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done in all stages.
    pub global_step: u64,
    /// Held-out loss.
    pub eval_loss: f64,
}

/// A checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Steps done in all stages.
    pub global_step: u64,
}

/// The checkpoints of a run, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(run: &Path) -> Result<Vec<Checkpoint>> {
    let mut out = Vec::new();
    let entries = match std::fs::read_dir(run) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        Err(e) => return Err(Error::io(run)(e)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io(run))?.path();
        let step = path.file_name().and_then(|n| n.to_str()?.strip_prefix("checkpoint-")?.parse().ok());
        if let Some(global_step) = step {
            out.push(Checkpoint { path, global_step });
        }
    }
    out.sort_by_key(|c| c.global_step);
    Ok(out)
}

/// The folder of the checkpoint behind `global_step` steps.
pub fn folder(run: &Path, global_step: u64) -> PathBuf {
    run.join(format!("checkpoint-{global_step}"))
}

/// Writes a checkpoint and removes all of this run's but the newest `keep` up to it and, with `keep_best`, that
/// of the best evaluation; later ones are of steps that the run has gone back behind.
///
/// # Errors
/// When a file cannot be written; older checkpoints stay then.
pub fn save(
    run: &Path,
    (keep, keep_best): (usize, bool),
    facts: &AdapterFacts,
    adapter: &Adapter,
    adam: &AdamW,
    state: &State,
    total_steps: u64,
) -> Result<PathBuf> {
    let path = folder(run, state.global_step);
    let best = state.best.map(|b| b.global_step).filter(|_| keep_best);
    replace_dir(&path, |dir| {
        adapter.save(dir, &facts.base.model)?;
        facts.write(dir)?;
        save_optimizer(&dir.join("optimizer.safetensors"), adapter, adam)?;
        // For tools that look for Hugging Face's file; the log itself is metrics.jsonl.
        let trainer = json!({
            "global_step": state.global_step,
            "max_steps": total_steps,
            "best_metric": state.best.map(|b| b.eval_loss),
            "best_global_step": state.best.map(|b| b.global_step),
            "best_model_checkpoint": best.map(|b| folder(run, b)),
            "log_history": [],
        });
        put(&dir.join("trainer_state.json"), &pretty(&trainer))?;
        put(&dir.join("sftmix_state.json"), &pretty(state))
    })?;
    let (mut kept, later): (Vec<_>, Vec<_>) = list(run)?.into_iter().partition(|c| c.global_step <= state.global_step);
    kept.truncate(kept.len().saturating_sub(keep));
    kept.retain(|c| Some(c.global_step) != best);
    for old in kept.iter().chain(&later) {
        std::fs::remove_dir_all(&old.path).map_err(Error::io(&old.path))?;
    }
    Ok(path)
}

/// Copies a checkpoint's adapter into a folder.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_adapter(checkpoint: &Path, to: &Path) -> Result<()> {
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = checkpoint.join(name);
        std::fs::copy(&from, to.join(name)).map_err(Error::io(&from))?;
    }
    Ok(())
}

/// Reads where a checkpoint stands.
///
/// # Errors
/// When its state is absent or damaged.
pub fn state(checkpoint: &Checkpoint) -> Result<State> {
    let path = checkpoint.path.join("sftmix_state.json");
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Checkpoint { path, reason: format!("not a state: {e}") })
}

/// Reads where a checkpoint stands, having seen that its tensors can be read too.
///
/// # Errors
/// When a file of it is absent or damaged.
pub fn whole(checkpoint: &Checkpoint) -> Result<State> {
    for name in ["adapter_model.safetensors", "optimizer.safetensors"] {
        let path = checkpoint.path.join(name);
        let file = std::fs::File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: a read-only map of a file that nobody changes: the run folder is locked.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&path))?;
        if let Err(e) = safetensors::SafeTensors::deserialize(&map) {
            return Err(Error::Checkpoint { path, reason: e.to_string() });
        }
    }
    state(checkpoint)
}

/// A slot's parameters: the ends of their PEFT names, and their shapes.
fn parameters(s: &Slot) -> Vec<(&'static str, Vec<usize>)> {
    let mut all = vec![("lora_A.weight", vec![s.r, s.in_features]), ("lora_B.weight", vec![s.out_features, s.r])];
    all.extend(s.dora.as_ref().map(|_| ("lora_magnitude_vector", vec![s.out_features])));
    all
}

fn key(module: &str, name: &str, moment: &str) -> String {
    format!("base_model.model.{module}.{name}.{moment}")
}

const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

fn save_optimizer(path: &Path, adapter: &Adapter, adam: &AdamW) -> Result<()> {
    let mut numbers = Vec::new();
    for (s, moments) in adapter.slots.iter().zip(adam.moments()) {
        for ((name, shape), moments) in parameters(s).into_iter().zip(moments) {
            for (moment, v) in MOMENTS.iter().zip(moments) {
                numbers.push((key(&s.module, name, moment), shape.clone(), v.numbers()?));
            }
        }
    }
    let matrices = numbers.iter().map(|(key, shape, data)| (key.clone(), Matrix { shape: shape.clone(), data }));
    write_tensors(path, json!({ "step": adam.steps().to_string() }), &matrices.collect())
}

/// Puts the optimizer of a checkpoint back.
///
/// # Errors
/// When the file is damaged or lacks a moment.
pub fn restore_optimizer(checkpoint: &Checkpoint, adapter: &Adapter, adam: &mut AdamW) -> Result<()> {
    let path = checkpoint.path.join("optimizer.safetensors");
    let bad = |reason: String| Error::Checkpoint { path: path.clone(), reason };
    let mut tensors = load_tensors(&path)?;
    let mut slots = Vec::with_capacity(adapter.slots.len());
    for s in &adapter.slots {
        let mut take = |name: &str, moment: &str, expected: &[usize]| {
            let key = key(&s.module, name, moment);
            match tensors.remove(&key) {
                Some((shape, v)) if shape == expected => Ok(v),
                Some((shape, _)) => Err(bad(format!("{key}: shape {shape:?}, expected {expected:?}"))),
                None => Err(bad(format!("{key} is absent"))),
            }
        };
        let both = |(name, shape): (&str, Vec<usize>)| -> Result<[Vec<f32>; 2]> {
            Ok([take(name, MOMENTS[0], &shape)?, take(name, MOMENTS[1], &shape)?])
        };
        slots.push(parameters(s).into_iter().map(both).collect::<Result<Vec<_>>>()?);
    }
    adam.restore(state(checkpoint)?.step, &slots)
}
