//! Texts and tokens that follow a prompt.

use std::time::Instant;

use super::config::GenerateConfig;
use super::generator::Generator;
use super::stop::StopText;
use super::stream::TextStream;
use crate::error::{Error, Result};
use crate::job::Control;

/// What was generated.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
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
    /// The caller ended it.
    pub cancelled: bool,
    /// The stop string that ended it.
    pub stop: Option<String>,
    /// Seconds from prompt to first token.
    pub prompt_seconds: f64,
    /// Seconds from prompt to last token.
    pub seconds: f64,
}

impl Generator {
    /// Continues a prompt. `on_text` is called after each token with the text that it completed, which is
    /// empty within a character and where a stop string may have begun; its [`Control::Stop`] ends the text there.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when a setting is out of range, or the prompt is empty or leaves no room in
    /// the model's context; [`Error::ModelFormat`] when a weight of the model is NaN or infinite and its logits are so,
    /// [`Error::NonFinite`] when they are with weights that are finite.
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
    pub(super) fn text(
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
            cancelled: interrupted,
            stop: stop.found().map(Into::into),
            prompt_seconds: first.unwrap_or(seconds),
            seconds,
        })
    }
}
