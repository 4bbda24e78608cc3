//! Replies in a conversation, as the model's own chat template writes it. What a turn has computed stays in the
//! cache for the next, which mostly begins with the same tokens.

use std::time::Instant;

use super::config::GenerateConfig;
use super::generator::{Generator, Manner};
use super::text::Generation;
use crate::data::text::chat::ChatSource;
use crate::data::text::Conversation;
use crate::data::text::{ChatTemplate, RenderOptions};
use crate::error::{Error, Result};
use crate::job::Control;

impl Generator {
    /// The reply that follows a conversation, written by the model's chat template: the text up to an end token
    /// (the configs' or the template's), a stop string or a limit. What the last reply has left in the cache is
    /// built upon as far as the conversation begins with the same tokens; [`Generator::forget`] frees it.
    ///
    /// # Errors
    /// As [`Generator::generate`]; [`Error::ChatTemplate`] when the model has none, or it refuses the conversation.
    pub fn chat(
        &mut self,
        chat: &Conversation,
        config: &GenerateConfig,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Generation> {
        let start = Instant::now();
        let manner = match self.manner.take() {
            Some(manner) => manner,
            None => self.find_manner()?,
        };
        let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
        let rendered = manner.template.render(chat, &options);
        let eos = manner.eos.clone();
        self.manner = Some(manner);
        let ids = self.tokenizer.encode_chat(&rendered?.text)?;
        self.text(start, &ids, config, &eos, true, on_text)
    }

    /// Makes the chat template ready: a model without one is known before the first message.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when the model has none, or it cannot be compiled.
    #[doc(hidden)]
    pub fn ready_to_chat(&mut self) -> Result<()> {
        if self.manner.is_none() {
            self.manner = Some(self.find_manner()?);
        }
        Ok(())
    }

    /// Takes another chat template for the model's.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it cannot be compiled; the former one stays.
    #[doc(hidden)]
    pub fn set_chat_template(&mut self, template: ChatSource) -> Result<()> {
        self.manner = Some(self.manner_of(template)?);
        Ok(())
    }

    /// Reads a chat template from a file, to be used in place of the model's.
    ///
    /// # Errors
    /// When the file cannot be read, and as [`Generator::set_chat_template`].
    pub fn load_chat_template(&mut self, path: &std::path::Path) -> Result<()> {
        self.set_chat_template(ChatSource::from_file(path, self.tokenizer.special_tokens().clone())?)
    }

    fn find_manner(&self) -> Result<Manner> {
        match self.tokenizer.chat_source() {
            Some(source) => self.manner_of(source.clone()),
            None => {
                let missing = match self.base.files().gguf().is_some() {
                    true => "no tokenizer.chat_template is in the file",
                    false => "neither chat_template.jinja nor chat_template in tokenizer_config.json is there",
                };
                let reason =
                    format!("the model has no chat template: {missing}; a base model continues prompts instead");
                Err(Error::ChatTemplate { path: self.base.path().to_path_buf(), reason })
            }
        }
    }

    fn manner_of(&self, source: ChatSource) -> Result<Manner> {
        let template = ChatTemplate::new(source)?;
        let mut eos = self.tokenizer.eos_ids().to_vec();
        match template.end_token(&RenderOptions::default()) {
            Ok(text) => match self.tokenizer.encode_chat(&text)?[..] {
                [id] if !eos.contains(&id) => eos.push(id),
                [_] => {}
                _ => log::warn!("{text:?} ends the template's replies, but is no token of the tokenizer"),
            },
            Err(e) => log::warn!("replies end at the end tokens of the model's configs alone: {e}"),
        }
        Ok(Manner { template, eos })
    }
}
