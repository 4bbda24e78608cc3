//! What conversations are written with: a template of the user's or the model's, or the plain role format.

use serde_json::{Map, Value};

use super::source::ChatSource;
use crate::config::DataOptions;
use crate::data::tokens::Tokenizer;
use crate::error::Result;

/// What conversations are written with.
#[derive(Clone, Debug, Default)]
pub struct ChatFormat {
    /// The tokenizer's end-of-sequence token as text, which the plain role format needs.
    pub eos_text: Option<String>,
    /// The chat template; `None` for the plain role format.
    pub source: Option<ChatSource>,
    /// Further variables of the template.
    pub extras: Map<String, Value>,
}

impl ChatFormat {
    /// The plain role format, with the end-of-sequence token as text.
    pub fn plain(eos_text: Option<&str>) -> ChatFormat {
        ChatFormat { eos_text: eos_text.map(String::from), ..Default::default() }
    }

    /// What these options have conversations written with; `template` takes the place of the text in the file that they
    /// name.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io): the template that they name.
    pub fn of(tokenizer: &Tokenizer, options: &DataOptions, template: Option<&str>) -> Result<ChatFormat> {
        let source = match (&options.chat_template, template) {
            (Some(path), Some(text)) => Some(ChatSource::from_text(path, text, tokenizer.special_tokens().clone())),
            (Some(path), None) => Some(ChatSource::from_file(path, tokenizer.special_tokens().clone())?),
            (None, _) => tokenizer.chat_source().cloned(),
        };
        let extras = options.chat_template_kwargs.clone().unwrap_or_default();
        Ok(ChatFormat { eos_text: tokenizer.eos_text().map(String::from), source, extras })
    }

    /// Whatever decides how a conversation is written, but for the end token; empty for the plain role format.
    pub(crate) fn key(&self) -> Vec<u8> {
        let Some(source) = &self.source else { return Vec::new() };
        let training = super::twin::of(&source.template).map(|(_, text)| text);
        let parts = serde_json::json!([
            source.template,
            source.tool_use,
            source.special.named,
            source.special.all,
            self.extras,
            training,
        ]);
        parts.to_string().into_bytes()
    }
}
