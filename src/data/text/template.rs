//! From a row to a text and the byte spans of it that are trained.
//!
//! | shape | keys | text | trained |
//! |---|---|---|---|
//! | text | `text`, or `text_field` | the value | all of it |
//! | prompt–completion | `prompt`, `completion` | both, joined as they are | the completion |
//! | columns | `prompt_field`, `response_field` | both, joined as they are | the response |
//! | template | `prompt_template`, `response_field` | the filled template and the response | the response |
//! | alpaca | `instruction`, `input`?, `output`, `system`?, `history`? | Stanford's templates and the output, see `alpaca.rs` | the output, and those of the history |
//! | messages | `messages: [{role, content}, …]`, `system`?, `tools`?, see `chat/read.rs` | below | each assistant turn and its end token |
//! | turns | `prompt`, `completion` as lists of messages | below | the assistant turns of the completion |
//! | sharegpt | `conversations: [{from, value}, …]`, or `messages_field` | as messages | as messages |
//!
//! Without an override the shape is that of the first row; where its keys fit several, the order
//! is messages, sharegpt, prompt–completion, alpaca, text (Alpaca's own file has a `text` column too).
//! A column named in the settings may lie deeper: `instances.0.output` or `instances[0].output` is the `output` of the first
//! element of `instances`, unless a column has that very name.
//!
//! Conversations are written by the model's [chat template](super::chat), or by one of the user's. For a model without
//! one there is a plain role format, `␄` being the tokenizer's end-of-sequence token:
//! ```text
//! System:\n{content}\n\nUser:\n{content}\n\nAssistant:\n{content}␄\n\nUser:\n…
//! ```
//! That text ends behind the last assistant turn: nothing after it could change the loss.
//!
//! Numbers and booleans are written as JSON. An empty response is kept, it trains the end token;
//! a row in which every value is empty renders as the empty text and is counted as such.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::alpaca;
use super::chat::Conversation;
use super::chat::{lost, read, Dialect, Seen};
use super::chat::{ChatFacts, ChatFormat};
use super::chat::{ChatTemplate, RenderOptions};
use super::columns::{invalid, text_of, value_at};
use super::rendered::Rendered;
use super::shape::RowShape;
use crate::config::{BadRows, DataOptions};
use crate::data::rows::{CutRow, RowReader};
use crate::error::{Error, Result};

/// Renders the rows of one file.
#[derive(Clone, Debug)]
pub struct Template {
    shape: RowShape,
    eos_text: Option<String>,
    chat: Option<Arc<ChatTemplate>>,
    rendering: RenderOptions,
    /// What the template may leave out.
    drops: Vec<String>,
    /// The combinations of roles and keys that were looked at closely.
    seen: Arc<Seen>,
    /// What the plain role format understands.
    plain: Dialect,
}

impl Template {
    /// The template of the rows of a file or folder, by the first of them; where bad rows are skipped, by the first that
    /// has a shape. `None` where there are no rows.
    ///
    /// # Errors
    /// As [`Template::resolve`]; [`Error::Io`] and [`Error::DataInvalid`] of the reader.
    pub fn of_rows(options: &DataOptions, format: &ChatFormat, path: &Path) -> Result<Option<Template>> {
        let mut reader = RowReader::open(path)?;
        let parser = reader.parser().clone();
        let (mut bytes, mut first_fault) = (Vec::new(), None);
        loop {
            bytes.clear();
            let Some(CutRow { row, fault }) = reader.next_cut(&mut bytes)? else { break };
            let object = fault.map_or_else(|| parser.parse(row, &bytes), Err);
            match object.and_then(|object| Template::resolve(options, format, parser.file(row), row, &object)) {
                Ok(template) => return Ok(Some(template)),
                Err(fault @ Error::DataInvalid { .. }) if options.bad_rows == BadRows::Skip => {
                    first_fault.get_or_insert(fault);
                }
                Err(e) => return Err(e),
            }
        }
        first_fault.map_or(Ok(None), Err)
    }

    /// Takes the shape from the options or else from the first row. `format` is what conversations are
    /// written with.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`]; [`Error::DataInvalid`] for a first row of no known shape; for conversations
    /// [`Error::ChatTemplate`].
    pub fn resolve(
        options: &DataOptions,
        format: &ChatFormat,
        path: &Path,
        row: u64,
        first: &Map<String, Value>,
    ) -> Result<Template> {
        let shape = match RowShape::from_options(options)? {
            Some(shape) => shape,
            None => RowShape::detect(first).map_err(|reason| invalid(path, row, reason))?,
        };
        let shape = match shape {
            RowShape::Columns { prompt, response } if value_at(first, &prompt).is_some_and(Value::is_array) => {
                RowShape::Turns { prompt, response }
            }
            shape => shape,
        };
        let (eos_text, drops) = (format.eos_text.clone(), options.template_drops.clone());
        let rendering = RenderOptions::default();
        let (seen, plain) = Default::default();
        let mut template = Template { shape, eos_text, chat: None, rendering, drops, seen, plain };
        if !template.has_conversations() && !options.template_drops.is_empty() {
            let reason = format!("the rows of {} are no conversations", path.display());
            return Err(Error::config("template_drops", reason));
        }
        match &format.source {
            _ if !template.has_conversations() && options.chat_template.is_some() => {
                let reason = format!("the rows of {} are no conversations", path.display());
                return Err(Error::config("chat_template", reason));
            }
            Some(source) if template.has_conversations() => {
                template.chat = Some(Arc::new(ChatTemplate::new(source.clone())?));
                template.rendering.extras = format.extras.clone();
            }
            _ if !format.extras.is_empty() => {
                let reason = "there is no chat template, or there are no conversations, to give them to";
                return Err(Error::config("chat_template_kwargs", reason));
            }
            _ => {}
        }
        Ok(template)
    }

    /// Whether the rows are conversations.
    pub fn has_conversations(&self) -> bool {
        matches!(self.shape, RowShape::Messages | RowShape::ShareGpt { .. } | RowShape::Turns { .. })
    }

    /// How the conversations are written; `None` where the rows are none.
    pub fn chat_facts(&self) -> Option<ChatFacts> {
        self.has_conversations().then(|| ChatFacts::of(self.chat.as_deref()))
    }

    /// The shape of the rows.
    pub fn shape(&self) -> &RowShape {
        &self.shape
    }

    /// Renders one row; `path` and `row` stand in the error.
    ///
    /// # Errors
    /// [`Error::DataInvalid`] names the key that is missing or of another type.
    pub fn render(&self, path: &Path, row: u64, object: &Map<String, Value>) -> Result<Rendered> {
        self.rendered(object).map_err(|reason| invalid(path, row, reason))
    }

    fn rendered(&self, object: &Map<String, Value>) -> std::result::Result<Rendered, String> {
        let column = |key: &str| text_of(object, key);
        Ok(match &self.shape {
            RowShape::Text { field } => Rendered::text(column(field)?),
            RowShape::Columns { prompt, response } => Rendered::pair(column(prompt)?, &column(response)?),
            RowShape::Template { prompt, response } => {
                let (filled, any) = prompt.fill(column)?;
                let response = column(response)?;
                if !any && response.is_empty() {
                    return Ok(Rendered::default());
                }
                Rendered::pair(filled, &response)
            }
            RowShape::Alpaca => alpaca::render(object, self.eos_text.as_deref())?,
            RowShape::Messages => self.conversation(&read::conversation(object, "messages", self.dialect())?)?,
            RowShape::ShareGpt { field } => self.conversation(&read::conversation(object, field, self.dialect())?)?,
            RowShape::Turns { prompt, response } => {
                self.conversation(&read::pair(object, prompt, response, self.dialect())?)?
            }
        })
    }

    /// Text and trained spans of a conversation.
    pub(crate) fn conversation(&self, chat: &Conversation) -> std::result::Result<Rendered, String> {
        if !chat.says_something() {
            return Ok(Rendered::default());
        }
        let mut rendered = match &self.chat {
            Some(template) => template.trained(chat, &self.rendering)?,
            None => self.plain(chat)?,
        };
        let again = |chat: &Conversation| match &self.chat {
            Some(template) => template.training_text(chat, &self.rendering),
            None => self.plain(chat).map(|r| r.text),
        };
        // The plain role format ends behind the last answer.
        let mut upto = Cow::Borrowed(chat);
        if let Some(last) = chat.answers().last().filter(|_| self.chat.is_none()) {
            upto.to_mut().messages.truncate(last + 1);
        }
        rendered.mapped_roles = chat.mapped_roles;
        rendered.dropped = lost::dropped(&upto, &rendered.text, &self.drops, &self.seen, again)?;
        Ok(rendered)
    }

    fn dialect(&self) -> &Dialect {
        self.chat.as_ref().map_or(&self.plain, |template| template.dialect())
    }

    fn plain(&self, chat: &Conversation) -> std::result::Result<Rendered, String> {
        let eos =
            self.eos_text.as_deref().ok_or("messages: the tokenizer has no text for its end-of-sequence token")?;
        let mut out = Rendered::default();
        let (mut end, mut any) = (0, false);
        for (i, turn) in chat.messages.iter().filter_map(Value::as_object).enumerate() {
            let place = |e: String| format!("messages[{i}]: {e}");
            let role = text_of(turn, "role").map_err(place)?;
            let name = match role.as_str() {
                "system" => "System",
                "user" => "User",
                "assistant" => "Assistant",
                other => return Err(place(format!("role: expected system, user or assistant, found {other:?}"))),
            };
            let content = text_of(turn, "content").map_err(place)?;
            any |= !content.is_empty();
            out.text.push_str(name);
            out.text.push_str(":\n");
            let start = out.text.len();
            out.text.push_str(&content);
            if role == "assistant" {
                out.text.push_str(eos);
                end = out.text.len();
                if chat.trains(i) {
                    out.spans.push(start..end);
                }
            }
            out.text.push_str("\n\n");
        }
        if !any {
            return Ok(Rendered::default());
        }
        // Without an assistant turn the text stays, so that the row counts as one without target.
        if !out.spans.is_empty() {
            out.text.truncate(end);
        }
        Ok(out)
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
