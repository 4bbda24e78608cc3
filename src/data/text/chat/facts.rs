//! How a data file's conversations are written, for a run's records.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::compiled::ChatTemplate;

/// How a data file's conversations are written, for a run's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChatFacts {
    /// `template`, or `plain` for the plain role format.
    pub format: String,
    /// The file that the template is from.
    pub path: Option<PathBuf>,
    /// The template, word for word.
    pub template: Option<String>,
    /// blake3 of the template, in hexadecimal.
    pub hash: Option<String>,
    /// By what the trained spans are known.
    pub spans: Option<String>,
}

impl ChatFacts {
    /// Of a template; `None` is the plain role format.
    pub fn of(template: Option<&ChatTemplate>) -> ChatFacts {
        let Some(template) = template else {
            return ChatFacts { format: "plain".into(), path: None, template: None, hash: None, spans: None };
        };
        let source = template.source();
        ChatFacts {
            format: "template".into(),
            path: Some(source.path.clone()),
            template: Some(source.template.clone()),
            hash: Some(crate::disk::hash_of(&source.template)),
            spans: Some(template.spans().to_string()),
        }
    }
}

impl std::fmt::Display for ChatFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.path, &self.spans) {
            (Some(path), Some(spans)) => {
                write!(f, "conversations are written by the chat template in {}; trained: {spans}", path.display())
            }
            _ => f.write_str(
                "the model has no chat template: conversations are written in a plain role format, as System:, User: \
                 and Assistant:; chat_template names one",
            ),
        }
    }
}
