//! Where a chat template comes from: the model's folder, a file of the user's, or text such as a GGUF's metadata.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::stored;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::gguf::{self, GgufFile};

const CONFIG: &str = "tokenizer_config.json";
const OWN: &str = "chat_template.jinja";

/// The special tokens that a template sees, and those that may end a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `bos_token`, `eos_token` and their like, by name; `additional_special_tokens` is a list.
    pub named: Map<String, Value>,
    /// Text of every special token of the tokenizer: an assistant's turn ends in one of them.
    pub all: Vec<String>,
}

impl SpecialTokens {
    /// Of a beginning and an end token.
    pub fn new(bos: Option<&str>, eos: Option<&str>) -> SpecialTokens {
        SpecialTokens::default().named(bos, eos)
    }

    /// Names the beginning and the end token.
    pub(crate) fn named(mut self, bos: Option<&str>, eos: Option<&str>) -> SpecialTokens {
        for (name, token) in [("bos_token", bos), ("eos_token", eos)] {
            if let Some(token) = token {
                self.named.insert(name.into(), token.into());
            }
        }
        self
    }

    /// Adds texts of special tokens, such as the end of a turn.
    #[must_use]
    pub fn with(mut self, tokens: impl IntoIterator<Item = String>) -> SpecialTokens {
        self.all.extend(tokens);
        self.all.sort();
        self.all.dedup();
        self
    }

    /// Of `tokenizer_config.json`, or `special_tokens_map.json`, which older folders have beside it.
    fn read(config: &Value, map: &Value) -> SpecialTokens {
        const NAMES: [&str; 7] =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let mut tokens = SpecialTokens::default();
        let text = |v: &Value| v.as_str().or_else(|| v.get("content")?.as_str()).map(String::from);
        for name in NAMES {
            if let Some(token) = [config, map].iter().find_map(|from| text(from.get(name)?)) {
                tokens.named.insert(name.into(), token.into());
            }
        }
        let more = "additional_special_tokens";
        if let Some(list) = [config, map].iter().find_map(|from| from.get(more)?.as_array()) {
            let list: Vec<Value> = list.iter().filter_map(text).map(Value::from).collect();
            tokens.named.insert(more.into(), list.into());
        }
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        let special = |t: &&Value| t.get("special").and_then(Value::as_bool).unwrap_or(false);
        tokens.with(decoder.iter().flat_map(|d| d.values()).filter(special).filter_map(text).collect::<Vec<_>>())
    }

    /// Every text that may end a turn.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &str> {
        let named = self.named.values().filter_map(Value::as_str);
        self.all.iter().map(String::as_str).chain(named).filter(|t| !t.is_empty())
    }
}

/// A template as it was found, not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatSource {
    /// The file, for errors.
    pub path: PathBuf,
    /// The template.
    pub template: String,
    /// The template for conversations with tools, where there is one of its own.
    pub tool_use: Option<String>,
    /// The tokenizer's special tokens.
    pub special: SpecialTokens,
}

impl ChatSource {
    /// The template of a model folder: `chat_template.jinja`, else what `tokenizer_config.json` has under
    /// `chat_template`; `None` where there is neither. Either may have one for tools beside it, by the name `tool_use`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ModelFormat`] for a file that is no JSON, [`Error::ChatTemplate`] for a template that is none.
    pub fn of(model: &ModelFiles) -> Result<Option<ChatSource>> {
        let special = ChatSource::special_of(model)?;
        let own = model.small(OWN)?.is_some();
        let path = model.place(if own { OWN } else { CONFIG });
        let mut found = stored::model_templates(model)?;
        if found.is_empty() {
            return Ok(None);
        }
        let tool_use = found.remove("tool_use");
        let template = found.remove(stored::DEFAULT).or_else(|| tool_use.clone());
        let none = || fault(&path, "chat_template: none of the list is named default or tool_use");
        Ok(Some(ChatSource { template: template.ok_or_else(none)?, path, tool_use, special }))
    }

    /// The template and the special tokens of a GGUF file.
    ///
    /// # Errors
    /// As [`gguf::chat_template`].
    pub(crate) fn of_gguf(file: &GgufFile) -> Result<(Option<ChatSource>, SpecialTokens)> {
        let (path, found) = (file.path(), gguf::chat_template_of(file)?);
        let mut special = SpecialTokens::default();
        for (name, token) in [
            ("bos_token", found.bos_token),
            ("eos_token", found.eos_token),
            ("unk_token", found.unk_token),
            ("pad_token", found.pad_token),
        ] {
            if let Some(token) = token {
                special.named.insert(name.into(), token.into());
            }
        }
        let tool_use = found.named.into_iter().find(|(name, _)| name == "tool_use").map(|(_, template)| template);
        let special = special.with([]);
        let source = |template| ChatSource { path: path.into(), template, tool_use, special: special.clone() };
        Ok((found.template.map(source), special))
    }

    /// A template as text, with the special tokens that it sees; `path` stands in errors.
    pub fn from_text(path: impl Into<PathBuf>, template: impl Into<String>, special: SpecialTokens) -> ChatSource {
        ChatSource { path: path.into(), template: template.into(), tool_use: None, special }
    }

    /// A template of the user's, which takes the place of the model's; the special tokens stay the model's.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn from_file(path: &Path, special: SpecialTokens) -> Result<ChatSource> {
        let template = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Ok(ChatSource::from_text(path, template, special))
    }

    /// Special tokens of a model folder that has no template.
    pub(crate) fn special_of(model: &ModelFiles) -> Result<SpecialTokens> {
        Ok(SpecialTokens::read(&model.json(CONFIG)?, &model.json("special_tokens_map.json")?))
    }
}

pub(crate) fn fault(path: &Path, reason: impl Into<String>) -> Error {
    Error::ChatTemplate { path: path.to_path_buf(), reason: reason.into() }
}
