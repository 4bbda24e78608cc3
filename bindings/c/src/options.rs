//! What to train, from a structure's fields and from JSON, which name the same things.

use std::ffi::c_char;

use serde_json::Value;
use sftmix::{DataOptions, TrainConfig};

use crate::border::{self, Sized, SFTMIX_UNSET};
use crate::fault::{Fail, Result};
use crate::given::{object, Given};

/// What to train: `sftmix_train_options_init` sets nothing, and what is not set has the library's default. A text is
/// copied by the call that it is given to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_train_options {
    /// Bytes of the structure, set by `sftmix_train_options_init`.
    pub struct_size: usize,
    /// Hugging Face model folder or GGUF file; NULL where the call is given a model.
    pub model: *const c_char,
    /// Rows to train on: a file or folder. Several, with weights, go by `settings_json`.
    pub data: *const c_char,
    /// Run folder; holds no run yet.
    pub out: *const c_char,
    /// Held-out rows.
    pub valid: *const c_char,
    /// `sftmix` or `ntp`.
    pub recipe: *const c_char,
    /// `sweep`, `online`, `single`, or an earlier run.
    pub dynamics: *const c_char,
    /// `auto`, `cpu`, `cuda`, `cuda:1`, `metal`, `portable`.
    pub device: *const c_char,
    /// PEFT adapter to start from.
    pub init_adapter: *const c_char,
    /// Where tokenised rows and hashes are kept.
    pub cache_dir: *const c_char,
    /// Passes over the rows.
    pub epochs: i64,
    /// Stop each stage after so many steps.
    pub max_steps: i64,
    /// Rows of a step.
    pub batch_size: i64,
    /// Rows that run together.
    pub micro_batch: i64,
    /// Longest row, tokens.
    pub max_length: i64,
    /// Rank of the adapter.
    pub lora_r: i64,
    /// Seed of all that is drawn, 0 and more.
    pub seed: i64,
    /// Worker threads.
    pub threads: i64,
    /// Bytes that the library may hold, mapped weights not counted.
    pub memory_limit: i64,
    /// Bytes that the process may have resident, mapped weights counted.
    pub resident_limit: i64,
    /// Steps from checkpoint to checkpoint.
    pub save_every: i64,
    /// Checkpoints that stay.
    pub keep: i64,
    /// Steps from evaluation to evaluation.
    pub eval_every: i64,
    /// Evaluations without improvement that end the run.
    pub early_stopping_patience: i64,
    /// Epochs of the reference run.
    pub reference_epochs: i64,
    /// Checkpoints of the reference run that are scored.
    pub reference_checkpoints: i64,
    /// Peak learning rate.
    pub lr: f64,
    /// Weight of the Mixup term.
    pub mu: f64,
    /// The adapter's alpha.
    pub lora_alpha: f64,
    /// The adapter's dropout.
    pub lora_dropout: f64,
    /// Share of the steps in which the rate rises.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub clip: f64,
    /// Share of the rows that is held out.
    pub valid_split: f64,
    /// Any settings by name as a JSON object, under the command line's names with `_`. What is set above, too, is an error.
    pub settings_json: *const c_char,
}

impl Sized for sftmix_train_options {
    const NAME: &'static str = "sftmix_train_options";

    fn unset() -> Self {
        let (none, number, real) = (std::ptr::null(), SFTMIX_UNSET, f64::NAN);
        sftmix_train_options {
            struct_size: std::mem::size_of::<Self>(),
            model: none,
            data: none,
            out: none,
            valid: none,
            recipe: none,
            dynamics: none,
            device: none,
            init_adapter: none,
            cache_dir: none,
            epochs: number,
            max_steps: number,
            batch_size: number,
            micro_batch: number,
            max_length: number,
            lora_r: number,
            seed: number,
            threads: number,
            memory_limit: number,
            resident_limit: number,
            save_every: number,
            keep: number,
            eval_every: number,
            early_stopping_patience: number,
            reference_epochs: number,
            reference_checkpoints: number,
            lr: real,
            mu: real,
            lora_alpha: real,
            lora_dropout: real,
            warmup_ratio: real,
            weight_decay: real,
            clip: real,
            valid_split: real,
            settings_json: none,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing (NULL, `SFTMIX_UNSET` and NaN), in a structure of which the caller has so many bytes: `sftmix_train_options_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_train_options_init_sized(options: *mut sftmix_train_options, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options, size) };
}

/// The settings of a run.
///
/// # Safety
/// The pointers are NULL or the caller's.
pub unsafe fn train(p: *const sftmix_train_options) -> Result<Given> {
    let mut all = Given::default();
    // SAFETY: passed on.
    unsafe {
        let o = border::read(p)?;
        for (name, text) in [
            ("model", o.model),
            ("data", o.data),
            ("out", o.out),
            ("valid", o.valid),
            ("recipe", o.recipe),
            ("dynamics", o.dynamics),
            ("device", o.device),
            ("init_adapter", o.init_adapter),
            ("cache_dir", o.cache_dir),
        ] {
            all.text(name, text)?;
        }
        for (name, number) in [
            ("epochs", o.epochs),
            ("max_steps", o.max_steps),
            ("batch_size", o.batch_size),
            ("micro_batch", o.micro_batch),
            ("max_length", o.max_length),
            ("lora_r", o.lora_r),
            ("seed", o.seed),
            ("threads", o.threads),
            ("memory_limit", o.memory_limit),
            ("resident_limit", o.resident_limit),
            ("save_every", o.save_every),
            ("keep", o.keep),
            ("eval_every", o.eval_every),
            ("early_stopping_patience", o.early_stopping_patience),
            ("reference_epochs", o.reference_epochs),
            ("reference_checkpoints", o.reference_checkpoints),
        ] {
            all.number(name, number);
        }
        for (name, real) in [
            ("lr", o.lr),
            ("mu", o.mu),
            ("lora_alpha", o.lora_alpha),
            ("lora_dropout", o.lora_dropout),
            ("warmup_ratio", o.warmup_ratio),
            ("weight_decay", o.weight_decay),
            ("clip", o.clip),
            ("valid_split", o.valid_split),
        ] {
            all.real(name, real)?;
        }
        all.json(o.settings_json)?;
    }
    Ok(all)
}

/// How rows become examples, from a JSON object of those settings alone.
///
/// # Safety
/// The text is NULL or ends in a NUL.
pub unsafe fn data_options(p: *const c_char) -> Result<DataOptions> {
    // SAFETY: passed on.
    let given = unsafe { object(p, "data_options_json")? };
    let known = serde_json::to_value(DataOptions::default()).unwrap_or_default();
    for (name, value) in &given {
        TrainConfig::setting(name, value.clone())?;
        if known.get(name).is_none() {
            return Err(Fail::setting(name, "it does not say how rows become examples"));
        }
    }
    serde_json::from_value(Value::Object(given)).map_err(|e| Fail::argument("data_options_json", &e.to_string()))
}
