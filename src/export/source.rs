//! What is exported or merged: an adapter and its base, opened, with rows to compare on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::{ComparedRows, Side};
use crate::base::check::check_base;
use crate::base::facts::{default_cache, AdapterFacts};
use crate::base::model::make_cache;
use crate::base::Model;
use crate::config::DataOptions;
use crate::data::text::chat::stored::{read_template, same_but_for_training, DEFAULT};
use crate::error::{Error, Result};
use crate::lora::peft::load_adapter;
use crate::model::Adapter;
use crate::model::Decoder;
use crate::ops::{Engine, EngineOptions};
use crate::run::{RunFile, RunFolder};

/// Which adapter, on which base, and the rows that logits are compared on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterSource {
    /// A run folder: its adapter, its base and its held-out rows, where the other fields leave them open.
    pub run: Option<PathBuf>,
    /// The base: a Hugging Face model folder.
    pub model: Option<PathBuf>,
    /// A PEFT adapter folder.
    pub adapter: Option<PathBuf>,
    /// Rows to compare on; without, the run's held-out rows, or else fixed token ids.
    pub data: Option<PathBuf>,
    /// How the rows of `data` become examples.
    pub data_options: DataOptions,
    /// Take the adapter whatever base its `sftmix.json` names.
    pub force: bool,
    /// Worker threads; `None` takes the machine's cores.
    pub threads: Option<usize>,
    /// Where hashes and tokenised rows are kept; `None` takes the run's, or a folder among the system's temporary
    /// files.
    pub cache_dir: Option<PathBuf>,
}

/// An adapter and its base in memory.
pub(super) struct Opened {
    pub engine: Engine,
    pub base: Model,
    pub model: Decoder,
    pub adapter: Adapter,
    pub adapter_path: PathBuf,
    /// What `base_model_name_or_path` says.
    pub base_name: String,
    pub facts: AdapterFacts,
    pub templates: BTreeMap<String, String>,
    pub rows: ComparedRows,
}

impl AdapterSource {
    /// Opens the adapter, and its base unless it is given.
    pub(super) fn open(&self, base: Option<&Model>) -> Result<Opened> {
        let run = self.run.as_deref().map(read_run).transpose()?;
        let missing = |field: &str| Error::config(field, "neither a run nor this is given");
        let config = run.as_ref().map(|r| &r.config);
        let base = match (base, &self.model, config) {
            (Some(base), ..) => base.clone(),
            (None, Some(path), _) => Model::at(path)?,
            (None, None, Some(config)) => Model::at(&config.model)?,
            (None, None, None) => return Err(missing("model")),
        };
        let adapter_path = match (&self.adapter, &self.run) {
            (Some(adapter), _) => adapter.clone(),
            (None, Some(run)) => finished(run)?,
            (None, None) => return Err(missing("adapter")),
        };
        let cache_dir = match (&self.cache_dir, config, &self.run) {
            (Some(dir), ..) => dir.clone(),
            (None, Some(config), Some(run)) => config.cache_dir.clone().unwrap_or_else(|| RunFolder::new(run).cache()),
            _ => default_cache(),
        };
        if !self.force {
            check_base(&adapter_path, &base, Some(&cache_dir))?;
        }
        // Logits are compared in f32 whatever the machine, so that a difference is that of what was written.
        let engine = Engine::new(EngineOptions { threads: self.threads, matrix_units: false, ..Default::default() })?;
        let mut model = base.decoder(&engine, 1)?;
        let mut rows = self.rows(run.as_ref(), &base, &cache_dir, engine.threads())?;
        rows.fit(&model)?;
        model.grow(&engine, rows.longest())?;
        let file = load_adapter(&adapter_path)?;
        let base_name = file.base_model.clone();
        let adapter = Adapter::from_peft(&engine, &model, file, &adapter_path)?;
        let facts = match AdapterFacts::read(&adapter_path)? {
            Some(facts) => facts,
            None => {
                make_cache(&cache_dir);
                AdapterFacts::new(base.facts(&cache_dir)?.stored_as(&model))
            }
        };
        let templates = templates(&base, &adapter_path, run.as_ref().filter(|_| self.adapter.is_none()))?;
        Ok(Opened {
            base_name: base_name.unwrap_or_else(|| base.path().to_string_lossy().into_owned()),
            templates,
            engine,
            base,
            model,
            adapter,
            adapter_path,
            facts,
            rows,
        })
    }

    fn rows(&self, run: Option<&RunFile>, base: &Model, cache_dir: &Path, threads: usize) -> Result<ComparedRows> {
        match (&self.data, run) {
            (Some(data), _) => {
                let length = run.map_or(1024, |r| r.config.max_length);
                ComparedRows::read(base, data, (&self.data_options, None), length, cache_dir, threads)
            }
            (None, Some(RunFile { config: c, chat, .. })) => match c.valid.as_deref().filter(|p| p.exists()) {
                Some(valid) => {
                    // What the run was begun with, whatever the file says now.
                    let template = chat.as_ref().and_then(|chat| chat.template.as_deref());
                    ComparedRows::read(base, valid, (&c.data_options, template), c.max_length, cache_dir, threads)
                }
                None => Ok(ComparedRows::fixed(base.config()?.vocab_size)),
            },
            (None, None) => Ok(ComparedRows::fixed(base.config()?.vocab_size)),
        }
    }
}

impl Opened {
    /// The base with its adapter.
    pub fn side(&self) -> Side<'_> {
        Side { model: &self.model, adapter: Some(&self.adapter) }
    }
}

/// The chat templates that go out with an adapter: the one that it was trained with, in the place of the base's, unless
/// that is the base's own but for marks around what is trained.
fn templates(base: &Model, adapter: &Path, run: Option<&RunFile>) -> Result<BTreeMap<String, String>> {
    let own = base.templates()?;
    let of_run = run.and_then(|run| run.chat.as_ref()?.template.clone());
    let trained = match of_run {
        Some(text) => Some(text),
        None => read_template(adapter)?,
    };
    Ok(match trained {
        Some(text) if !own.get(DEFAULT).is_some_and(|own| same_but_for_training(&text, own)) => {
            BTreeMap::from([(DEFAULT.to_string(), text)])
        }
        _ => own.clone(),
    })
}

fn read_run(dir: &Path) -> Result<RunFile> {
    let none = || Error::Checkpoint { path: dir.into(), reason: "no run is in this folder: run.json is absent".into() };
    RunFolder::new(dir).read()?.ok_or_else(none)
}

/// The adapter of a finished run.
fn finished(run: &Path) -> Result<PathBuf> {
    let adapter = RunFolder::new(run).adapter();
    match adapter.try_exists().map_err(Error::io(&adapter))? {
        true => Ok(adapter),
        false => {
            let reason = "the run is not finished: resume it, or name one of its checkpoints as the adapter".into();
            Err(Error::Checkpoint { path: run.into(), reason })
        }
    }
}
