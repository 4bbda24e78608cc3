//! What can be asked without training: the plan of a run, the loss of a model, what training would see of rows.

use std::ffi::c_char;

use sftmix::inspect::{inspect, InspectConfig};
use sftmix::{EvalConfig, Evaluation, RunPlan, TrainConfig};

use crate::border::{self, given_out, json, maybe_text, place, text, Sized, SFTMIX_UNSET};
use crate::fault::{guard, sftmix_status, Fail, Result};
use crate::model::{model_of, sftmix_model};
use crate::options::{count, data_options, device, path, sftmix_train_options, train};
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

/// Sets the structure up. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_run_plan_init(plan: *mut sftmix_run_plan) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(plan) };
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
        let given = train(options)?;
        check(plan)?;
        let planned = match model_of(model)? {
            Some(_) if given.has("model") => return Err(twice()),
            Some(model) => sftmix::plan_on(&model, &TrainConfig::from_settings(given.into_map())?)?,
            None => sftmix::plan(&TrainConfig::from_settings(given.into_map())?)?,
        };
        put(plan, plan_out(&planned))?;
        put_json(json_out, json(&planned)?);
        Ok(())
    })
}

fn twice() -> Fail {
    Fail::setting("model", "it is given twice: by its path and as a model that is open")
}

unsafe fn check<T: Sized>(out: *const T) -> Result<()> {
    // SAFETY: passed on.
    if out.is_null() {
        Ok(())
    } else {
        unsafe { border::can_fill(out) }
    }
}

unsafe fn put<T: Sized>(out: *mut T, value: T) -> Result<()> {
    // SAFETY: passed on.
    if out.is_null() {
        Ok(())
    } else {
        unsafe { border::fill(out, value) }
    }
}

unsafe fn put_json(out: *mut *mut c_char, text: String) {
    // SAFETY: it is NULL or the caller's.
    if let Some(out) = unsafe { out.as_mut() } {
        *out = given_out(&text);
    }
}

/// What to evaluate. `sftmix_eval_options_init` sets nothing, and what is not set has the library's default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_eval_options {
    /// Bytes of the structure, set by `sftmix_eval_options_init`.
    pub struct_size: usize,
    /// Model folder or GGUF file; NULL where the call is given a model.
    pub model: *const c_char,
    /// PEFT adapter folder; NULL evaluates the model as it is.
    pub adapter: *const c_char,
    /// The rows: a file, or a folder with `test.jsonl` or of texts.
    pub data: *const c_char,
    /// A word as in `sftmix_train_options`.
    pub device: *const c_char,
    /// Where tokenised rows are kept.
    pub cache_dir: *const c_char,
    /// How rows become examples: a JSON object of `data_format`, `prompt_field` and the like.
    pub data_options_json: *const c_char,
    /// Longest row, tokens.
    pub max_length: i64,
    /// Most rows that run together.
    pub batch_size: i64,
    /// Worker threads.
    pub threads: i64,
    /// 1 takes the adapter whatever base it names.
    pub force: i64,
}

impl Sized for sftmix_eval_options {
    const NAME: &'static str = "sftmix_eval_options";

    fn unset() -> Self {
        let none = std::ptr::null();
        sftmix_eval_options {
            struct_size: std::mem::size_of::<Self>(),
            model: none,
            adapter: none,
            data: none,
            device: none,
            cache_dir: none,
            data_options_json: none,
            max_length: SFTMIX_UNSET,
            batch_size: SFTMIX_UNSET,
            threads: SFTMIX_UNSET,
            force: SFTMIX_UNSET,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_eval_options_init(options: *mut sftmix_eval_options) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options) };
}

/// Figures of a model on rows. Set up by `sftmix_evaluation_init`; holds nothing that must be freed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_evaluation {
    /// Bytes of the structure, set by `sftmix_evaluation_init`.
    pub struct_size: usize,
    /// Examples.
    pub examples: u64,
    /// Supervised tokens.
    pub supervised_tokens: u64,
    /// Mean -log p of a supervised token, nats.
    pub nll: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// Share of supervised tokens that are the likeliest.
    pub token_accuracy: f64,
    /// Share of examples all of whose supervised tokens are.
    pub exact_match: f64,
    /// Expected calibration error of the likeliest tokens, 15 bins.
    pub ece: f64,
}

impl Sized for sftmix_evaluation {
    const NAME: &'static str = "sftmix_evaluation";

    fn unset() -> Self {
        evaluation_out(&Evaluation::default())
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets the structure up. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_evaluation_init(evaluation: *mut sftmix_evaluation) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(evaluation) };
}

fn evaluation_out(e: &Evaluation) -> sftmix_evaluation {
    sftmix_evaluation {
        struct_size: std::mem::size_of::<sftmix_evaluation>(),
        examples: e.examples,
        supervised_tokens: e.supervised_tokens,
        nll: e.nll,
        perplexity: e.perplexity,
        token_accuracy: e.token_accuracy,
        exact_match: e.exact_match,
        ece: e.ece,
    }
}

/// Mean loss, perplexity and accuracy of a model, with or without an adapter, over the supervised tokens of rows. The model
/// may be NULL, then the options name it. `evaluation` and `json_out`, which gets the words of `sftmix eval --json`, may
/// be NULL.
///
/// `*json_out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_evaluate(
    options: *const sftmix_eval_options,
    model: *const sftmix_model,
    evaluation: *mut sftmix_evaluation,
    json_out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let (o, d) = (border::read(options)?, EvalConfig::default());
        check(evaluation)?;
        let config = EvalConfig {
            model: path(o.model, "model")?.unwrap_or_default(),
            adapter: path(o.adapter, "adapter")?,
            force: flag(o.force, "force")?,
            data: path(o.data, "data")?.ok_or_else(|| Fail::setting("data", "expected a path, found nothing"))?,
            max_length: count(o.max_length, "max_length")?.unwrap_or(d.max_length),
            batch_size: count(o.batch_size, "batch_size")?.unwrap_or(d.batch_size),
            device: device(o.device)?,
            threads: count(o.threads, "threads")?,
            cache_dir: path(o.cache_dir, "cache_dir")?,
            data_options: data_options(o.data_options_json)?,
        };
        let found = match model_of(model)? {
            Some(_) if !o.model.is_null() => return Err(twice()),
            Some(model) => sftmix::evaluate_on(&model, &config, &sftmix::StopHandle::default())?,
            None => sftmix::evaluate(&config)?,
        };
        put(evaluation, evaluation_out(&found))?;
        put_json(json_out, json(&found)?);
        Ok(())
    })
}

/// 1, or 0 and `SFTMIX_UNSET` for no.
pub fn flag(value: i64, name: &str) -> Result<bool> {
    match value {
        SFTMIX_UNSET | 0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fail::setting(name, format!("expected 0 or 1, found {value}"))),
    }
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

/// Sets nothing. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_inspect_options_init(options: *mut sftmix_inspect_options) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options) };
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
            threads: count(o.threads, "threads")?,
            data_options: data_options(o.data_options_json)?,
        };
        let files = inspect(&config)?;
        let all = serde_json::json!({"model": config.model, "max_length": config.max_length, "files": files});
        *out = given_out(&json(&all)?);
        Ok(())
    })
}
