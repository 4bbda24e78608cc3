//! A resident model with its adapters: how it is opened, which adapter is in use, and what a chat has left in it.

use std::path::Path;
use std::sync::Arc;

use crate::base::check::check_base;
use crate::base::Model;
use crate::config::DeviceSetting;
use crate::data::text::ChatTemplate;
use crate::data::tokens::Tokenizer;
use crate::error::{Error, Result};
use crate::model::decode::Cache;
use crate::model::Adapter;
use crate::model::Decoder;
use crate::ops::{Engine, EngineOptions};

/// Positions that a model is opened for; more are made when a prompt asks for them.
const FIRST_POSITIONS: usize = 512;
/// The name of an adapter that was given none, as in PEFT.
const DEFAULT: &str = "default";

/// A compiled template, and where its replies end.
#[derive(Debug)]
pub(super) struct Manner {
    pub template: ChatTemplate,
    /// Ids of the end tokens: those of the model's configs, and the one that the template writes after a reply.
    pub eos: Vec<u32>,
}

/// What a chat leaves for its next turn.
#[derive(Debug)]
pub(super) struct Kept {
    pub cache: Cache,
    /// The tokens in the cache.
    pub ids: Vec<u32>,
    /// The adapter that they ran with.
    pub adapter: Option<usize>,
}

/// A resident model that generates, with one of its adapters or without.
#[derive(Debug)]
pub struct Generator {
    pub(super) engine: Engine,
    pub(super) model: Decoder,
    pub(super) base: Model,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) manner: Option<Manner>,
    pub(super) adapters: Vec<(String, Adapter)>,
    /// The adapter in use.
    pub(super) active: Option<usize>,
    /// What a chat has left for its next turn.
    pub(super) kept: Option<Kept>,
}

impl Generator {
    /// Opens a Hugging Face model folder (or a GGUF file) and a PEFT adapter folder on a device; `threads` of `None` takes
    /// the machine's cores.
    ///
    /// # Errors
    /// When the device cannot be had, or the model, its tokenizer or the adapter cannot be read or do not fit
    /// each other.
    pub fn open(
        model: &Path,
        adapter: Option<&Path>,
        device: DeviceSetting,
        threads: Option<usize>,
    ) -> Result<Generator> {
        Generator::open_on(
            Engine::new(EngineOptions { threads, ..EngineOptions::on(&device.open()?) })?,
            model,
            adapter,
        )
    }

    /// As [`Generator::open`], on an engine of any form and device.
    ///
    /// # Errors
    /// As [`Generator::open`].
    #[doc(hidden)]
    pub fn open_on(engine: Engine, model: &Path, adapter: Option<&Path>) -> Result<Generator> {
        let mut generator = Generator::on_engine(engine, &Model::at(model)?)?;
        generator.set_adapter(adapter)?;
        Ok(generator)
    }

    /// Takes a model that is open into use on a device, without an adapter; its map is shared with whatever else works on
    /// it. `threads` of `None` takes the machine's cores, or the model's shared worker threads.
    ///
    /// # Errors
    /// As [`Generator::open`].
    pub fn on(model: &Model, device: DeviceSetting, threads: Option<usize>) -> Result<Generator> {
        let options = model.engine_options(&device.open()?, threads)?;
        Generator::on_engine(Engine::new(options)?, model)
    }

    fn on_engine(engine: Engine, base: &Model) -> Result<Generator> {
        let tokenizer = base.tokenizer()?;
        let model = base.decoder(&engine, FIRST_POSITIONS)?;
        let (adapters, active, manner, kept) = (Vec::new(), None, None, None);
        Ok(Generator { engine, model, base: base.clone(), tokenizer, manner, adapters, active, kept })
    }

    /// Puts another adapter on the resident model, named `default`, or uses none. After an error the former one
    /// stays.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the folder is damaged or does not fit the model, [`Error::BaseMismatch`] when it
    /// names another base.
    pub fn set_adapter(&mut self, adapter: Option<&Path>) -> Result<()> {
        if let Some(dir) = adapter {
            self.add_adapter(DEFAULT, dir)?;
        }
        self.use_adapter(adapter.map(|_| DEFAULT))
    }

    /// As [`Generator::set_adapter`], whatever base the adapter names.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the folder is damaged or does not fit the model.
    pub fn force_adapter(&mut self, adapter: Option<&Path>) -> Result<()> {
        if let Some(dir) = adapter {
            self.put_adapter(DEFAULT, dir)?;
        }
        self.use_adapter(adapter.map(|_| DEFAULT))
    }

    /// Reads a PEFT adapter folder, to be used by this name; one of the same name goes. The base is not read
    /// again, and the adapter in use stays.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the folder is damaged or does not fit the model, [`Error::BaseMismatch`] when it
    /// names another base.
    pub fn add_adapter(&mut self, name: &str, dir: &Path) -> Result<()> {
        check_base(dir, &self.base, None)?;
        self.put_adapter(name, dir)
    }

    fn put_adapter(&mut self, name: &str, dir: &Path) -> Result<()> {
        let adapter = Adapter::load(&self.engine, &self.model, dir)?;
        match self.adapters.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => {
                *old = adapter;
                // What the old one made is not to be built upon.
                self.forget();
            }
            None => self.adapters.push((name.into(), adapter)),
        }
        Ok(())
    }

    /// Generates with the adapter of this name from now on, or with none.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when there is none of this name; the one in use stays.
    pub fn use_adapter(&mut self, name: Option<&str>) -> Result<()> {
        self.active = match name {
            None => None,
            Some(name) => {
                let found = self.adapters.iter().position(|(n, _)| n == name);
                let wrong = || {
                    let names: Vec<&str> = self.adapters().collect();
                    let have = if names.is_empty() {
                        "none was added".into()
                    } else {
                        format!("expected one of {}", names.join(", "))
                    };
                    Error::config("adapter", format!("{have}, found {name:?}"))
                };
                Some(found.ok_or_else(wrong)?)
            }
        };
        Ok(())
    }

    /// The names of the adapters that were added, in order.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.adapters.iter().map(|(name, _)| name.as_str())
    }

    /// The name of the adapter in use.
    pub fn adapter(&self) -> Option<&str> {
        self.active.map(|i| self.adapters[i].0.as_str())
    }

    /// Forgets what a chat has left for its next turn, and frees its memory.
    pub fn forget(&mut self) {
        self.kept = None;
        self.engine.pool().trim();
    }

    /// The most tokens that prompt and text may have together.
    pub fn context(&self) -> usize {
        self.model.config.max_position_embeddings
    }

    /// The engine that it runs on.
    #[doc(hidden)]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}
