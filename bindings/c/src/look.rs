//! What can be looked at before training: the plan of a run, what it would see of rows.

use std::ffi::c_char;

use sftmix::inspect::{inspect, InspectConfig};
use sftmix::{RunPlan, TrainConfig};

use crate::border::{self, check, given_out, json, maybe_text, place, put, put_json, text, Sized, SFTMIX_UNSET};
use crate::fault::{guard, sftmix_status};
use crate::given::{count, threads};
use crate::model::{model_of, sftmix_model};
use crate::options::{data_options, sftmix_train_options, train};
use crate::table;

/// What a run will take. Set up by `sftmix_run_plan_init`; holds nothing that must be freed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_run_plan {
    /// Bytes of the structure, set by `sftmix_run_plan_init`.
    pub struct_size: usize,
    /// Bytes that were granted; `SFTMIX_UNSET` without a limit.
    pub memory_limit: i64,
    /// Most bytes at once; where it does not fit, the least that would be needed.
    pub predicted_peak_bytes: u64,
    /// Examples.
    pub examples: u64,
    /// Tokens of an epoch.
    pub tokens: u64,
    /// Supervised ones of these.
    pub supervised_tokens: u64,
    /// Tokens of the longest row.
    pub longest: u64,
    /// Optimizer steps of all stages.
    pub steps: u64,
    /// Most rows that run together; 0 where it does not fit.
    pub micro_batch: u64,
    /// About how long it will take; NaN where it does not fit.
    pub seconds: f64,
    /// Whether it stays within the limit; without one it does.
    pub fits: bool,
}

impl Sized for sftmix_run_plan {
    const NAME: &'static str = "sftmix_run_plan";

    fn unset() -> Self {
        sftmix_run_plan {
            struct_size: std::mem::size_of::<Self>(),
            memory_limit: SFTMIX_UNSET,
            predicted_peak_bytes: 0,
            examples: 0,
            tokens: 0,
            supervised_tokens: 0,
            longest: 0,
            steps: 0,
            micro_batch: 0,
            seconds: f64::NAN,
            fits: false,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets up a structure of which the caller has so many bytes: `sftmix_run_plan_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_run_plan_init_sized(plan: *mut sftmix_run_plan, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(plan, size) };
}

fn plan_out(p: &RunPlan) -> sftmix_run_plan {
    sftmix_run_plan {
        memory_limit: p.memory_limit.map_or(SFTMIX_UNSET, |n| n as i64),
        predicted_peak_bytes: p.predicted_peak_bytes,
        examples: p.examples,
        tokens: p.tokens,
        supervised_tokens: p.supervised_tokens,
        longest: p.longest,
        steps: p.steps,
        micro_batch: p.micro_batch.unwrap_or(0),
        seconds: p.seconds.unwrap_or(f64::NAN),
        fits: p.fits,
        ..Sized::unset()
    }
}

/// Plans a run before it is begun: memory, tokens, time, whether it stays within the limit. That it does not is no error.
/// The rows are read and tokenised, the weights are not opened. The model may be NULL, then the options name it. `plan` and
/// `json_out`, which gets the whole plan in the words of `sftmix plan --json`, may be NULL.
///
/// `*json_out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_plan(
    options: *const sftmix_train_options,
    model: *const sftmix_model,
    plan: *mut sftmix_run_plan,
    json_out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let (mut given, model) = (train(options)?, model_of(model)?);
        check(plan)?;
        given.model(model.as_ref())?;
        let config = TrainConfig::from_settings(given.into_map())?;
        let planned = match model {
            Some(model) => sftmix::plan_on(&model, &config)?,
            None => sftmix::plan(&config)?,
        };
        put(plan, plan_out(&planned))?;
        put_json(json_out, json(&planned)?);
        Ok(())
    })
}

/// What to look at. `sftmix_inspect_options_init` sets nothing, and what is not set has the library's default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_inspect_options {
    /// Bytes of the structure, set by `sftmix_inspect_options_init`.
    pub struct_size: usize,
    /// Model folder or GGUF file, whose tokenizer is all that is read.
    pub model: *const c_char,
    /// The rows, as for training.
    pub data: *const c_char,
    /// How rows become examples: a JSON object of `data_format`, `prompt_field` and the like.
    pub data_options_json: *const c_char,
    /// The one row to show, from 1.
    pub row: i64,
    /// Rows to show.
    pub rows: i64,
    /// Longest example, tokens.
    pub max_length: i64,
    /// Threads that tokenise.
    pub threads: i64,
}

impl Sized for sftmix_inspect_options {
    const NAME: &'static str = "sftmix_inspect_options";

    fn unset() -> Self {
        let none = std::ptr::null();
        sftmix_inspect_options {
            struct_size: std::mem::size_of::<Self>(),
            model: none,
            data: none,
            data_options_json: none,
            row: SFTMIX_UNSET,
            rows: SFTMIX_UNSET,
            max_length: SFTMIX_UNSET,
            threads: SFTMIX_UNSET,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing, in a structure of which the caller has so many bytes: `sftmix_inspect_options_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_inspect_options_init_sized(options: *mut sftmix_inspect_options, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options, size) };
}

/// What training would see of rows: some of them token by token, what became of all, how long they are; as JSON in the
/// words of `sftmix data inspect --json`.
///
/// `*json_out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_inspect(
    options: *const sftmix_inspect_options,
    json_out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let (o, d) = (border::read(options)?, InspectConfig::default());
        let out = place(json_out, "json_out")?;
        let config = InspectConfig {
            model: text(o.model, "model")?.into(),
            data: maybe_text(o.data, "data")?.unwrap_or_default().into(),
            row: count(o.row, "row")?,
            rows: count(o.rows, "rows")?.unwrap_or(d.rows),
            max_length: count(o.max_length, "max_length")?.unwrap_or(d.max_length),
            threads: threads(o.threads)?,
            data_options: data_options(o.data_options_json)?,
        };
        let files = inspect(&config)?;
        let all = serde_json::json!({"model": config.model, "max_length": config.max_length, "files": files});
        *out = given_out(&json(&all)?);
        Ok(())
    })
}
