//! How rows become examples.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::words::{BadRows, DataFormat};
use crate::error::{Error, Result};

/// How rows become examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataOptions {
    /// Shape of the rows; `None` takes it from the first row.
    pub data_format: Option<DataFormat>,
    /// Column of the prompt (with `response_field`).
    pub prompt_field: Option<String>,
    /// Column of the response (with `prompt_field`).
    pub response_field: Option<String>,
    /// Column of the text, instead of `text`.
    pub text_field: Option<String>,
    /// The prompt with `{column}` in place of values, e.g. `Question: {question}\nAnswer: `.
    pub prompt_template: Option<String>,
    /// Column of the turns of a conversation, instead of `messages` or `conversations`.
    pub messages_field: Option<String>,
    /// File with the chat template that conversations are written with, instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Further variables of the chat template, such as `enable_thinking`.
    pub chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
    /// What a conversation may have that its template leaves out: keys, as `reasoning_content`, `tools` or `documents`, and
    /// roles whose texts it may leave out. A part of a trained answer is not to be left out.
    pub template_drops: Vec<String>,
    /// What becomes of a row that is no example.
    pub bad_rows: BadRows,
}

impl Default for DataOptions {
    fn default() -> Self {
        DataOptions {
            data_format: None,
            prompt_field: None,
            response_field: None,
            text_field: None,
            prompt_template: None,
            messages_field: None,
            chat_template: None,
            chat_template_kwargs: None,
            template_drops: Vec::new(),
            bad_rows: BadRows::Error,
        }
    }
}

impl DataOptions {
    /// Checks that the options name one shape.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the field.
    pub fn validate(&self) -> Result<()> {
        match (&self.prompt_field, &self.prompt_template, &self.response_field) {
            (Some(_), Some(_), _) => {
                Err(Error::config("prompt_template", "prompt_field is given as well; one of them makes the prompt"))
            }
            (Some(_), None, None) | (None, Some(_), None) if self.data_format != Some(DataFormat::PromptCompletion) => {
                Err(Error::config("response_field", "the column of the response is missing"))
            }
            (None, None, Some(_)) => {
                Err(Error::config("prompt_field", "the column of the prompt (or prompt_template) is missing"))
            }
            _ => Ok(()),
        }
    }
}
