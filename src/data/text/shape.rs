//! The shape of a file's rows: by the settings, or by the keys of the first row.

use serde_json::{Map, Value};

use super::prompt::PromptTemplate;
use super::suggestion::suggestion;
use crate::config::{DataFormat, DataOptions};
use crate::error::{Error, Result};

/// How a row is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowShape {
    /// One column, all of it trained.
    Text {
        /// The column.
        field: String,
    },
    /// Two columns, joined as they are.
    Columns {
        /// Column of the prompt.
        prompt: String,
        /// Column of the response.
        response: String,
    },
    /// A filled template and a column, joined as they are.
    Template {
        /// The prompt.
        prompt: PromptTemplate,
        /// Column of the response.
        response: String,
    },
    /// Stanford Alpaca.
    Alpaca,
    /// A conversation.
    Messages,
    /// A conversation in the form of ShareGPT, or in a column of another name.
    ShareGpt {
        /// Column of the turns.
        field: String,
    },
    /// A conversation in two columns, lists of messages, of which the second is trained.
    Turns {
        /// Column of what came before.
        prompt: String,
        /// Column of what is trained.
        response: String,
    },
}

impl RowShape {
    /// The shape that the options ask for; `None` where the first row decides.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`]: the options contradict each other, or the template is malformed.
    pub fn from_options(options: &DataOptions) -> Result<Option<RowShape>> {
        use DataFormat as F;
        options.validate()?;
        let format = options.data_format;
        let pair = options.prompt_field.is_some() || options.prompt_template.is_some();
        if pair && matches!(format, Some(F::Text | F::Alpaca | F::Messages | F::ShareGpt)) {
            return Err(Error::config("data_format", "prompt and response are named as columns as well"));
        }
        let other = pair || options.messages_field.is_some();
        if options.text_field.is_some() && (other || !matches!(format, None | Some(F::Text))) {
            return Err(Error::config("text_field", "rows of another shape are asked for as well"));
        }
        if let Some(field) = &options.text_field {
            return Ok(Some(RowShape::Text { field: field.clone() }));
        }
        if let Some(field) = &options.messages_field {
            if pair || !matches!(format, None | Some(F::Messages | F::ShareGpt)) {
                return Err(Error::config("messages_field", "rows of another shape are asked for as well"));
            }
            return Ok(Some(RowShape::ShareGpt { field: field.clone() }));
        }
        // `validate` leaves the response's column unnamed for prompt–completion only.
        let response = || options.response_field.clone().unwrap_or_else(|| "completion".into());
        if let Some(template) = &options.prompt_template {
            return Ok(Some(RowShape::Template { prompt: PromptTemplate::parse(template)?, response: response() }));
        }
        if let Some(prompt) = &options.prompt_field {
            return Ok(Some(RowShape::Columns { prompt: prompt.clone(), response: response() }));
        }
        Ok(Some(match format {
            None => return Ok(None),
            Some(F::Text) => RowShape::Text { field: "text".into() },
            Some(F::PromptCompletion) => RowShape::prompt_completion(),
            Some(F::Alpaca) => RowShape::Alpaca,
            Some(F::Messages) => RowShape::Messages,
            Some(F::ShareGpt) => RowShape::sharegpt(),
            Some(F::Columns) => return Err(Error::config("prompt_field", "data_format columns needs it")),
        }))
    }

    /// Its name, as in [`DataFormat`]; a filled template is `template`.
    pub fn name(&self) -> &'static str {
        match self {
            RowShape::Text { .. } => DataFormat::Text.as_str(),
            RowShape::Columns { .. } if *self == RowShape::prompt_completion() => DataFormat::PromptCompletion.as_str(),
            RowShape::Columns { .. } => DataFormat::Columns.as_str(),
            RowShape::Template { .. } => "template",
            RowShape::Alpaca => DataFormat::Alpaca.as_str(),
            RowShape::Messages => DataFormat::Messages.as_str(),
            RowShape::Turns { .. } => "turns",
            RowShape::ShareGpt { .. } => DataFormat::ShareGpt.as_str(),
        }
    }

    pub(super) fn prompt_completion() -> RowShape {
        RowShape::Columns { prompt: "prompt".into(), response: "completion".into() }
    }

    fn sharegpt() -> RowShape {
        RowShape::ShareGpt { field: "conversations".into() }
    }

    /// The shape that a row's keys tell, or what was expected of it.
    pub(super) fn detect(row: &Map<String, Value>) -> std::result::Result<RowShape, String> {
        let has = |keys: &[&str]| keys.iter().all(|k| row.contains_key(*k));
        if has(&["messages"]) {
            Ok(RowShape::Messages)
        } else if has(&["conversations"]) {
            Ok(RowShape::sharegpt())
        } else if has(&["prompt", "completion"]) {
            Ok(RowShape::prompt_completion())
        } else if has(&["instruction", "output"]) {
            Ok(RowShape::Alpaca)
        } else if has(&["text"]) {
            Ok(RowShape::Text { field: "text".into() })
        } else {
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            let found = &columns[..columns.len().min(12)];
            Err(format!(
                "expected the key messages, or conversations, or prompt and completion, or instruction and output, or text, \
                 or columns named in the settings; found {}",
                if found.is_empty() { "no key".into() } else { found.join(", ") }
            ) + &suggestion(row).map_or(String::new(), |would| format!("; {would}")))
        }
    }
}
