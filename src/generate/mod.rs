//! Text from a model and an adapter: the prompt in one pass, then a token at a time over cached keys and
//! values.

mod stream;

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::data::tokenizer::Tokenizer;
use crate::device::DeviceSetting;
use crate::error::{Error, Result};
use crate::job::Control;
use crate::lora::Adapter;
use crate::model::Decoder;
use crate::ops::{head_loss, Engine, EngineOptions};
use stream::TextStream;

/// Positions that a model is opened for; more are made when a prompt asks for them.
const FIRST_POSITIONS: usize = 512;

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// Most tokens to generate, at least 1; fewer where the model's context ends before.
    pub max_new_tokens: usize,
    /// Divides the logits before sampling; 0 or less takes the likeliest token each time.
    pub temperature: f64,
    /// Samples from the fewest tokens whose probabilities add up to this, in (0, 1]; `None` from all.
    pub top_p: Option<f64>,
    /// Seed of the sampling.
    pub seed: u64,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        GenerateConfig { max_new_tokens: 128, temperature: 0.0, top_p: None, seed: 0 }
    }
}

impl GenerateConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the field and the value found.
    pub fn validate(&self) -> Result<()> {
        if self.max_new_tokens == 0 {
            return Err(Error::config("max_new_tokens", "expected at least 1, found 0"));
        }
        if !self.temperature.is_finite() {
            return Err(Error::config("temperature", format!("expected a finite number, found {}", self.temperature)));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => {
                Err(Error::config("top_p", format!("expected more than 0 and at most 1, found {p}")))
            }
            _ => Ok(()),
        }
    }

    fn sampling(&self) -> Sampling {
        match (self.temperature, self.top_p) {
            (temperature, _) if temperature <= 0.0 => Sampling::ArgMax,
            (temperature, Some(p)) if p < 1.0 => Sampling::TopP { p, temperature },
            (temperature, _) => Sampling::All { temperature },
        }
    }
}

/// What was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text, without the prompt and the end token: the pieces that were streamed, end to end.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, without the end token.
    pub new_tokens: usize,
    /// It ended with an end token, not by a limit or the caller.
    pub stopped: bool,
    /// Seconds from prompt to last token.
    pub seconds: f64,
}

/// A resident model that generates, with an adapter or without.
#[derive(Debug)]
pub struct Generator {
    engine: Engine,
    model: Decoder,
    tokenizer: Tokenizer,
    adapter: Option<Adapter>,
}

impl Generator {
    /// Opens a Hugging Face model folder and a PEFT adapter folder on a device; `threads` of `None` takes
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
        Generator::open_on(Engine::new(EngineOptions { threads, ..device.open()?.options() })?, model, adapter)
    }

    /// As [`Generator::open`], on an engine of any form and device.
    ///
    /// # Errors
    /// As [`Generator::open`].
    pub fn open_on(engine: Engine, model: &Path, adapter: Option<&Path>) -> Result<Generator> {
        let tokenizer = Tokenizer::load(model)?;
        let model = Decoder::open(&engine, model, FIRST_POSITIONS)?;
        let mut generator = Generator { engine, model, tokenizer, adapter: None };
        generator.set_adapter(adapter)?;
        Ok(generator)
    }

    /// Puts another adapter on the resident model, or none. After an error the former one stays.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the folder is damaged or does not fit the model.
    pub fn set_adapter(&mut self, adapter: Option<&Path>) -> Result<()> {
        self.adapter = adapter.map(|dir| Adapter::load(&self.engine, &self.model, dir)).transpose()?;
        Ok(())
    }

    /// The most tokens that prompt and text may have together.
    pub fn context(&self) -> usize {
        self.model.config.max_position_embeddings
    }

    /// Continues a prompt. `on_text` is called after each token with the text that it completed, which is
    /// empty within a character; its [`Control::Stop`] ends the text there.
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
        let mut stream = TextStream::after(&self.tokenizer, &ids)?;
        let mut text = String::new();
        let mut interrupted = false;
        let (new, stopped) = run(
            &self.engine,
            &mut self.model,
            self.adapter.as_ref(),
            self.tokenizer.eos_ids(),
            &ids,
            config,
            &mut |id| {
                let piece = stream.push(id)?;
                text.push_str(&piece);
                let control = on_text(&piece);
                interrupted = control == Control::Stop;
                Ok(control)
            },
        )?;
        if !interrupted {
            let rest = stream.finish()?;
            if !rest.is_empty() {
                text.push_str(&rest);
                on_text(&rest);
            }
        }
        let (prompt_tokens, new_tokens) = (ids.len(), new.len());
        Ok(Generation { text, prompt_tokens, new_tokens, stopped, seconds: start.elapsed().as_secs_f64() })
    }

    /// Continues tokens; gives those generated, without the end token. `on_token` sees each.
    ///
    /// # Errors
    /// As [`Generator::generate`], and when an id is beyond the model.
    pub fn generate_ids(
        &mut self,
        ids: &[u32],
        config: &GenerateConfig,
        on_token: &mut dyn FnMut(u32) -> Control,
    ) -> Result<Vec<u32>> {
        let eos = self.tokenizer.eos_ids();
        let on_token = &mut |id| Ok(on_token(id));
        Ok(run(&self.engine, &mut self.model, self.adapter.as_ref(), eos, ids, config, on_token)?.0)
    }
}

/// The tokens after `ids`, and whether an end token came.
fn run(
    engine: &Engine,
    model: &mut Decoder,
    adapter: Option<&Adapter>,
    eos: &[u32],
    ids: &[u32],
    config: &GenerateConfig,
    on_token: &mut dyn FnMut(u32) -> Result<Control>,
) -> Result<(Vec<u32>, bool)> {
    config.validate()?;
    let context = model.config.max_position_embeddings;
    if ids.len() >= context {
        let found = format!("{} tokens leave no room in the model's context of {context}", ids.len());
        return Err(Error::config("prompt", found));
    }
    let limit = config.max_new_tokens.min(context - ids.len());
    let capacity = ids.len() + limit;
    // Doubled, so that ever longer prompts do not make a table each.
    model.grow(engine, capacity.next_power_of_two().min(context))?;
    let model = &*model;

    let mut sampler = LogitsProcessor::from_sampling(config.seed, config.sampling());
    let mut cache = model.cache(engine, capacity)?;
    let mut new: Vec<u32> = Vec::new();
    while new.len() < limit {
        let last = new.last().map_or(ids, std::slice::from_ref);
        let next = engine.run(|| {
            let state = model.extend(engine, adapter, &mut cache, last)?;
            let logits = head_loss::logits(engine, model.head(), &state)?;
            if logits.iter().any(|v| v.is_nan()) {
                return Err(Error::NonFinite { what: format!("logits of new token {}", new.len() + 1) });
            }
            Ok(sampler.sample(&Tensor::new(logits, &Device::Cpu)?)?)
        })?;
        if new.is_empty() {
            // What the prompt's pass took is not needed again.
            engine.pool().trim();
        }
        if eos.contains(&next) {
            return Ok((new, true));
        }
        new.push(next);
        if on_token(next)? == Control::Stop {
            break;
        }
    }
    Ok((new, false))
}
