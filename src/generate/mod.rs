//! Text from a model and an adapter: the prompt in a few passes, then a token at a time over cached keys and
//! values.

mod chat;
mod config;
mod run;
mod sample;
mod stop;
mod stream;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::base::check::check_base;
use crate::base::Model;
use crate::config::DeviceSetting;
use crate::data::tokens::Tokenizer;
use crate::error::{Error, Result};
use crate::job::Control;
use crate::model::Adapter;
use crate::model::Decoder;
use crate::ops::{Engine, EngineOptions};
pub use config::GenerateConfig;
use run::Kept;
use stop::StopText;
use stream::TextStream;

/// Positions that a model is opened for; more are made when a prompt asks for them.
const FIRST_POSITIONS: usize = 512;
/// The name of an adapter that was given none, as in PEFT.
const DEFAULT: &str = "default";

/// What was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text, without the prompt, the end token and the stop string: the pieces that were streamed, end to end.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were not run, because an earlier turn of the chat had left them in the cache.
    pub cached_tokens: usize,
    /// Tokens generated, without the end token.
    pub new_tokens: usize,
    /// It ended with an end token or a stop string, not by a limit or the caller.
    pub stopped: bool,
    /// The stop string that ended it.
    pub stop: Option<String>,
    /// Seconds from prompt to first token.
    pub prompt_seconds: f64,
    /// Seconds from prompt to last token.
    pub seconds: f64,
}

/// A resident model that generates, with one of its adapters or without.
#[derive(Debug)]
pub struct Generator {
    engine: Engine,
    model: Decoder,
    base: Model,
    tokenizer: Arc<Tokenizer>,
    manner: Option<chat::Manner>,
    adapters: Vec<(String, Adapter)>,
    /// The adapter in use.
    active: Option<usize>,
    /// What a chat has left for its next turn.
    kept: Option<Kept>,
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
    pub fn open_on(engine: Engine, model: &Path, adapter: Option<&Path>) -> Result<Generator> {
        let mut generator = Generator::on_engine(engine, &Model::at(model)?)?;
        generator.set_adapter(adapter)?;
        Ok(generator)
    }

    /// Takes a model that is open into use on a device, without an adapter; its map is shared with whatever else works on
    /// it. `threads` of `None` takes the machine's cores.
    ///
    /// # Errors
    /// As [`Generator::open`].
    pub fn on(model: &Model, device: DeviceSetting, threads: Option<usize>) -> Result<Generator> {
        let options = EngineOptions { threads, ..EngineOptions::on(&device.open()?) };
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
                let names = || self.adapters().collect::<Vec<_>>().join(", ");
                let wrong = || Error::config("adapter", format!("expected one of [{}], found {name:?}", names()));
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
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Continues a prompt. `on_text` is called after each token with the text that it completed, which is
    /// empty within a character and where a stop string may have begun; its [`Control::Stop`] ends the text there.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when a setting is out of range, or the prompt is empty or leaves no room in
    /// the model's context; [`Error::NonFinite`] when the model gives no finite logits.
    pub fn generate(
        &mut self,
        prompt: &str,
        config: &GenerateConfig,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Generation> {
        let start = Instant::now();
        let ids = self.tokenizer.encode(prompt)?;
        let eos = self.tokenizer.eos_ids().to_vec();
        self.text(start, &ids, config, &eos, false, on_text)
    }

    /// Continues tokens; gives those generated, without the end token. `on_token` sees each.
    ///
    /// # Errors
    /// As [`Generator::generate`], and when an id is beyond the model or stop strings are set, which are found in
    /// texts alone.
    pub fn generate_ids(
        &mut self,
        ids: &[u32],
        config: &GenerateConfig,
        on_token: &mut dyn FnMut(u32) -> Control,
    ) -> Result<Vec<u32>> {
        if !config.stop.is_empty() {
            return Err(Error::config("stop", "expected none where tokens are asked for: they are found in texts"));
        }
        let eos = self.tokenizer.eos_ids().to_vec();
        Ok(self.tokens(ids, config, &eos, false, &mut |id| Ok(on_token(id)))?.new)
    }

    /// The text after `ids`.
    fn text(
        &mut self,
        start: Instant,
        ids: &[u32],
        config: &GenerateConfig,
        eos: &[u32],
        keep: bool,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Generation> {
        // The tokenizer is lent to the stream, the rest to the run.
        let tokenizer = self.tokenizer.clone();
        let mut stream = TextStream::after(&tokenizer, ids)?;
        let mut stop = StopText::new(&config.stop);
        let (mut text, mut first, mut interrupted) = (String::new(), None, false);
        let made = self.tokens(ids, config, eos, keep, &mut |id| {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            let piece = stop.push(&stream.push(id)?);
            text.push_str(&piece);
            interrupted = on_text(&piece) == Control::Stop;
            Ok(if interrupted || stop.found().is_some() { Control::Stop } else { Control::Continue })
        })?;
        if !interrupted && stop.found().is_none() {
            let mut rest = stop.push(&stream.finish()?);
            if stop.found().is_none() {
                rest.push_str(&stop.finish());
            }
            if !rest.is_empty() {
                text.push_str(&rest);
                on_text(&rest);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Generation {
            text,
            prompt_tokens: ids.len(),
            cached_tokens: made.cached,
            new_tokens: made.new.len(),
            stopped: made.stopped || stop.found().is_some(),
            stop: stop.found().map(Into::into),
            prompt_seconds: first.unwrap_or(seconds),
            seconds,
        })
    }
}
