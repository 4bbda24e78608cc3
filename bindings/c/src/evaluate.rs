//! How well a model does on rows.

use std::ffi::c_char;

use sftmix::{EvalConfig, Evaluation, Model};

use crate::border::{self, check, json, put, put_json, Sized, SFTMIX_UNSET};
use crate::fault::{guard, sftmix_status, Fail};
use crate::given::{count, device, flag, once, path, threads};
use crate::model::{model_of, sftmix_model};
use crate::options::data_options;
use crate::stop::{sftmix_stop_handle, stop_of};
use crate::table;

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
    /// What breaks the evaluation off; NULL for nothing.
    pub stop: *const sftmix_stop_handle,
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
            stop: std::ptr::null(),
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing, in a structure of which the caller has so many bytes: `sftmix_eval_options_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_eval_options_init_sized(options: *mut sftmix_eval_options, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(options, size) };
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

/// Sets up a structure of which the caller has so many bytes: `sftmix_evaluation_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_evaluation_init_sized(evaluation: *mut sftmix_evaluation, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(evaluation, size) };
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
/// be NULL. One that is broken off by `stop` of its options ends with `SFTMIX_STATUS_STOPPED`, within a batch.
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
        let stop = stop_of(o.stop)?;
        let config = EvalConfig {
            model: path(o.model, "model")?.unwrap_or_default(),
            adapter: path(o.adapter, "adapter")?,
            force: flag(o.force, "force")?,
            data: path(o.data, "data")?.ok_or_else(|| Fail::setting("data", "expected a path, found nothing"))?,
            max_length: count(o.max_length, "max_length")?.unwrap_or(d.max_length),
            batch_size: count(o.batch_size, "batch_size")?.unwrap_or(d.batch_size),
            device: device(o.device)?,
            threads: threads(o.threads)?,
            cache_dir: path(o.cache_dir, "cache_dir")?,
            data_options: data_options(o.data_options_json)?,
        };
        once(!model.is_null() && !o.model.is_null())?;
        let model = match model_of(model)? {
            Some(model) => model,
            None => Model::open(&config.model)?,
        };
        let found = sftmix::evaluate_on(&model, &config, &stop)?;
        put(evaluation, evaluation_out(&found))?;
        put_json(json_out, json(&found)?);
        Ok(())
    })
}
