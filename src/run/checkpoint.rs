//! `checkpoint-<step>/`: a loadable PEFT adapter, the optimizer, where the run stands. Built under a
//! temporary name and renamed, so one that has its name is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::base::facts::AdapterFacts;
use crate::data::text::chat::stored::write_templates;
use crate::disk::{pretty, put, replace_dir};
use crate::dynamics::{DynamicsLog, Position};
use crate::error::{Error, Result};
use crate::lora::peft::load_adapter;
use crate::lora::tensors::{load_tensors, write_tensors, Matrix};
use crate::model::Adapter;
use crate::ops::linear::Slot;
use crate::train::optimizer::AdamW;

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "sftmix_state.json";

/// Where a run stands. No generator state: random numbers are functions of (seed, step, row).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where the stage at hand stands.
    #[serde(flatten)]
    pub stage: StageState,
    /// Steps done in all stages.
    pub global_step: u64,
    /// Where the dynamics log stood.
    pub dynamics: Option<Position>,
    /// Seconds spent so far.
    pub elapsed_seconds: f64,
    /// Tokens seen in all stages.
    pub num_tokens: u64,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Held-out loss of the untouched base.
    pub base_eval_loss: Option<f64>,
    /// What `trainer_state.json` has under `log_history`: an entry for each evaluation and each due checkpoint.
    #[serde(default)]
    pub log_history: Vec<LogEntry>,
}

/// Where a stage stands; `Default` is its beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageState {
    /// `reference`, `target` or `single`; empty before the first.
    #[serde(rename = "stage")]
    pub name: String,
    /// Steps done.
    pub step: u64,
    /// Σ −log p over the supervised tokens.
    #[serde(rename = "stage_nll")]
    pub nll: f64,
    /// Supervised tokens.
    #[serde(rename = "stage_tokens")]
    pub tokens: u64,
    /// Held-out loss at the last evaluation, and its step.
    pub last_eval: Option<(u64, f64)>,
    /// The best of the evaluations that count.
    #[serde(default)]
    pub best: Option<Best>,
    /// Evaluations in a row that have not improved on it.
    #[serde(default)]
    pub without_improvement: u64,
    /// Whether they ended the stage.
    #[serde(default)]
    pub stopped_early: bool,
}

impl StageState {
    /// The beginning of a stage.
    pub fn begin(name: &str) -> StageState {
        StageState { name: name.into(), ..Default::default() }
    }
}

/// An entry of `log_history`, by Hugging Face's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogEntry {
    /// Epochs done in the stage.
    pub epoch: f64,
    /// Steps done in all stages.
    pub step: u64,
    /// Loss of that step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Its gradient norm before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Its learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Held-out loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
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
        let step: Option<u64> = path.file_name().and_then(|n| n.to_str()?.strip_prefix("checkpoint-")?.parse().ok());
        // What is spelt another way, or is no folder, is not ours.
        if let Some(global_step) = step.filter(|&step| path == folder(run, step) && path.is_dir()) {
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

/// What a checkpoint is made of.
pub struct Contents<'a> {
    /// What the adapter's folder says beside its tensors.
    pub facts: &'a AdapterFacts,
    /// The chat template that its conversations were written with, by its name.
    pub templates: &'a BTreeMap<String, String>,
    /// The weights.
    pub adapter: &'a Adapter,
    /// Their moments.
    pub adam: &'a AdamW,
    /// Where the run stands.
    pub state: &'a State,
    /// Epochs done in the stage.
    pub epoch: f64,
    /// Steps of all stages.
    pub total_steps: u64,
}

/// Writes a checkpoint and removes all of this run's but the newest `keep` up to it and, with `keep_best`, that
/// of the best evaluation; later ones are of steps that the run has gone back behind. A folder without a state
/// in it is none of the run's and stays.
///
/// # Errors
/// When a file cannot be written; older checkpoints stay then.
pub fn save(run: &Path, (keep, keep_best): (usize, bool), of: &Contents) -> Result<PathBuf> {
    let state = of.state;
    let path = folder(run, state.global_step);
    let best = state.stage.best.map(|b| b.global_step).filter(|_| keep_best);
    replace_dir(&path, |dir| {
        of.adapter.save(dir, &of.facts.base.model)?;
        of.facts.write(dir)?;
        write_templates(of.templates, dir)?;
        save_optimizer(&dir.join(OPTIMIZER), of.adapter, of.adam)?;
        put(&dir.join("trainer_state.json"), &pretty(&trainer_state(of, best.map(|b| folder(run, b))))?)?;
        put(&dir.join(STATE), &pretty(state)?)
    })?;
    let ours = list(run)?.into_iter().filter(|c| c.path.join(STATE).is_file());
    let (mut kept, later): (Vec<_>, Vec<_>) = ours.partition(|c| c.global_step <= state.global_step);
    kept.truncate(kept.len().saturating_sub(keep));
    kept.retain(|c| Some(c.global_step) != best);
    for old in kept.iter().chain(&later) {
        std::fs::remove_dir_all(&old.path).map_err(Error::io(&old.path))?;
    }
    Ok(path)
}

/// For tools that look for Hugging Face's file; the whole log is metrics.jsonl.
fn trainer_state(of: &Contents, best: Option<PathBuf>) -> Value {
    let state = of.state;
    json!({
        "best_global_step": state.stage.best.map(|b| b.global_step),
        "best_metric": state.stage.best.map(|b| b.eval_loss),
        "best_model_checkpoint": best.map(|path| path.to_string_lossy().into_owned()),
        "epoch": of.epoch,
        "global_step": state.global_step,
        "is_local_process_zero": true,
        "is_world_process_zero": true,
        "log_history": state.log_history,
        "max_steps": of.total_steps,
        "num_input_tokens_seen": state.num_tokens,
    })
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
    let path = checkpoint.path.join(STATE);
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Checkpoint { path, reason: format!("not a state: {e}") })
}

/// Reads where a checkpoint stands, having seen that a run can go on from it: settings, weights and moments.
///
/// # Errors
/// When a file of it is absent, damaged or cannot be read.
pub fn whole(checkpoint: &Checkpoint) -> Result<State> {
    let adapter = load_adapter(&checkpoint.path)?;
    let path = checkpoint.path.join(OPTIMIZER);
    let moments = load_tensors(&path)?;
    for (module, pair) in &adapter.modules {
        let magnitude = pair.magnitude.as_ref().map(|m| ("lora_magnitude_vector", m.len()));
        let halves = [("lora_A.weight", pair.a.len()), ("lora_B.weight", pair.b.len())];
        for (name, numbers) in halves.into_iter().chain(magnitude) {
            for moment in MOMENTS {
                let key = key(module, name, moment);
                if moments.get(&key).is_none_or(|(_, data)| data.len() != numbers) {
                    return Err(Error::Checkpoint { path, reason: format!("expected {numbers} numbers under {key}") });
                }
            }
        }
    }
    state(checkpoint)
}

/// The newest checkpoint that a run can go on from, older ones in the place of damaged ones with a warning; `None`
/// where there is none. One that counts more records than the dynamics log holds is none to go on from: the run has gone
/// back behind it while it was damaged, or the log is an older copy. That a file is there and the system does not give it (no permission, a failing disk, a mount
/// that is not there yet) is no damage.
///
/// # Errors
/// [`Error::Checkpoint`] names each where all are damaged; nothing is changed then. [`Error::Io`] as the system says.
pub fn newest(run: &Path) -> Result<Option<(Checkpoint, State)>> {
    let mut damaged = Vec::new();
    for c in list(run)?.into_iter().rev() {
        match whole(&c).and_then(|state| logged(run, &c, &state).map(|()| state)) {
            Ok(state) => {
                damaged.iter().for_each(|e| log::warn!("{e}; the checkpoint before it is taken"));
                return Ok(Some((c, state)));
            }
            Err(e) if is_damage(&e) => damaged.push(e),
            Err(e) => return Err(e),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let each: Vec<String> = damaged.iter().map(Error::to_string).collect();
    let reason = format!(
        "it can go on from none of its checkpoints, and nothing was changed: {}; put one of them right, or begin another \
         run in an empty folder",
        each.join("; ")
    );
    Err(Error::Checkpoint { path: run.to_path_buf(), reason })
}

/// Refuses a checkpoint that the dynamics log does not reach. Of a log that cannot be read its writer says what is wrong.
fn logged(run: &Path, checkpoint: &Checkpoint, state: &State) -> Result<()> {
    let Some(position) = state.dynamics.filter(|p| *p != Position::default()) else { return Ok(()) };
    let log = run.join("dynamics");
    if DynamicsLog::open(&log).and_then(|log| position.is_in(&log)).unwrap_or(true) {
        return Ok(());
    }
    let reason = format!(
        "it counts {} whole checkpoints and {} records of {}, which holds fewer: put back that folder as it was then",
        position.complete,
        position.records,
        log.display()
    );
    Err(Error::Checkpoint { path: checkpoint.path.clone(), reason })
}

fn is_damage(e: &Error) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    match e {
        Error::Io { source, .. } => {
            matches!(source.kind(), NotFound | UnexpectedEof | InvalidData | IsADirectory | NotADirectory)
        }
        _ => true,
    }
}

/// Refuses to go on where the checkpoint of the best evaluation, with whose adapter the run is to end, is gone.
///
/// # Errors
/// [`Error::Checkpoint`] names it.
pub fn best_is_there(run: &Path, best: Best) -> Result<()> {
    let path = folder(run, best.global_step);
    load_adapter(&path).map(drop).map_err(|e| {
        let reason = format!(
            "this checkpoint had the best held-out loss ({}), and keep_best is to end with its adapter, which cannot be \
             read: {e}",
            best.eval_loss
        );
        Error::Checkpoint { path, reason }
    })
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
    let path = checkpoint.path.join(OPTIMIZER);
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
    adam.restore(state(checkpoint)?.stage.step, &slots)
}
