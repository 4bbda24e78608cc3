//! Evaluation of a model, with or without an adapter, on a data file.

use std::path::PathBuf;

use crate::base::check::check_base;
use crate::base::facts::default_cache;
use crate::base::open::Inputs;
use crate::base::Model;
use crate::config::DataOptions;
use crate::config::DeviceSetting;
use crate::data::rows::files::Split;
use crate::error::{Error, Result};
use crate::model::Adapter;
use crate::stop::StopHandle;
use crate::train::score;
pub use crate::train::score::Evaluation;

/// What to evaluate.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    /// Hugging Face model folder, or a GGUF file.
    pub model: PathBuf,
    /// PEFT adapter folder.
    pub adapter: Option<PathBuf>,
    /// Take the adapter whatever base its `sftmix.json` names.
    pub force: bool,
    /// The rows: a file, a folder with `test.jsonl`, or a folder of texts.
    pub data: PathBuf,
    /// Longest row in tokens, ≥ 2.
    pub max_length: usize,
    /// Most rows that run together, ≥ 1. Does not change the figures.
    pub batch_size: usize,
    /// Where to compute.
    pub device: DeviceSetting,
    /// Worker threads; `None` takes the machine's cores.
    pub threads: Option<usize>,
    /// Where token stores are kept; `None` takes the user's cache folder.
    pub cache_dir: Option<PathBuf>,
    /// How rows become examples.
    pub data_options: DataOptions,
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig {
            model: PathBuf::new(),
            adapter: None,
            force: false,
            data: PathBuf::new(),
            max_length: 1024,
            batch_size: 8,
            device: DeviceSetting::Auto,
            threads: None,
            cache_dir: None,
            data_options: DataOptions::default(),
        }
    }
}

/// Mean loss, perplexity and token accuracy over the supervised tokens.
///
/// # Errors
/// When a setting is out of range, or model, adapter or data cannot be used; [`Error::ModelFormat`] names the first weight
/// that is NaN or infinite, where a loss is.
pub fn evaluate(config: &EvalConfig) -> Result<Evaluation> {
    evaluate_on(&Model::at(&config.model)?, config, &StopHandle::default())
}

/// As [`evaluate`], on a model that is open; the one that `config` names is not looked at. `stop` breaks it off within a
/// batch.
///
/// # Errors
/// As [`evaluate`]; [`Error::Stopped`].
pub fn evaluate_on(model: &Model, config: &EvalConfig, stop: &StopHandle) -> Result<Evaluation> {
    for (field, value, least) in [("max_length", config.max_length, 2), ("batch_size", config.batch_size, 1)] {
        if value < least {
            return Err(Error::config(field, format!("expected ≥ {least}, found {value}")));
        }
    }
    if config.threads.is_some_and(|n| !(1..=1024).contains(&n)) {
        return Err(Error::config("threads", format!("expected 1 to 1024, found {}", config.threads.unwrap_or(0))));
    }
    config.data_options.validate()?;
    let options = model.engine_options(&config.device.open()?, config.threads)?;
    let cache = config.cache_dir.clone().unwrap_or_else(default_cache);
    if let (Some(adapter), false) = (&config.adapter, config.force) {
        check_base(adapter, model, Some(&cache))?;
    }
    let (mut inputs, tokenizer) = Inputs::open(model, options, cache)?;
    let adapter = config.adapter.as_deref().map(|d| Adapter::load(&inputs.engine, &inputs.model, d)).transpose()?;
    let data = Split::Test.resolve(&config.data)?;
    let store =
        inputs.store(&tokenizer, &data, &config.data_options, None, config.max_length, &|_| stop.is_stopped())?;
    store.warn_of_skipped();
    drop(tokenizer);
    inputs.room(&[&store], config.max_length)?;
    let together = score::Together::rows(config.batch_size);
    score::evaluate(&inputs.engine, &inputs.model, adapter.as_ref(), &store, together, &|| stop.is_stopped())
        .map_err(|e| model.blamed(e))
}
