//! A conversation as templates read it, and how rows become one.

use serde_json::{Map, Value};

use crate::data::rows::raw::kind;

/// Messages and what goes with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Objects with `role` and mostly `content`; `tool_calls`, `reasoning_content` and whatever else the template knows.
    pub messages: Vec<Value>,
    /// Tools as JSON schemas of functions; `None` where there are none.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Value>>,
    /// Further variables of the template, such as `enable_thinking`.
    pub extras: Map<String, Value>,
    /// Messages before this one are context: only assistant turns from here on are trained.
    pub trained_from: usize,
}

impl Conversation {
    /// Messages and nothing else.
    pub fn new(messages: Vec<Value>) -> Conversation {
        Conversation { messages, ..Default::default() }
    }

    /// The same with one more message: its role and text.
    #[must_use]
    pub fn with(mut self, role: &str, content: &str) -> Conversation {
        self.messages.push(serde_json::json!({"role": role, "content": content}));
        self
    }

    /// The conversation of a row: `messages`, and where present `tools`, `documents`, `chat_template_kwargs`.
    pub(crate) fn from_row(row: &Map<String, Value>) -> Result<Conversation, String> {
        Conversation { messages: messages_of(row, "messages")?, ..Default::default() }.columns(row)
    }

    /// Of a row whose prompt and completion are lists of messages: only the completion is trained.
    pub(crate) fn from_pair(row: &Map<String, Value>, prompt: &str, completion: &str) -> Result<Conversation, String> {
        let mut messages = messages_of(row, prompt)?;
        let trained_from = messages.len();
        messages.extend(messages_of(row, completion)?);
        Conversation { messages, trained_from, ..Default::default() }.columns(row)
    }

    fn columns(mut self, row: &Map<String, Value>) -> Result<Conversation, String> {
        self.tools = list_of(row, "tools")?;
        self.documents = list_of(row, "documents")?;
        self.extras = match row.get("chat_template_kwargs") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(other) => return Err(format!("chat_template_kwargs: expected an object, found {}", kind(other))),
        };
        Ok(self)
    }

    /// Places of the assistant's messages.
    pub fn answers(&self) -> impl Iterator<Item = usize> + '_ {
        self.messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant").map(|(i, _)| i)
    }

    /// Whether any message says, thinks or calls something.
    pub(crate) fn says_something(&self) -> bool {
        let filled = |v: &Value| match v {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        self.messages.iter().filter_map(Value::as_object).any(|m| m.iter().any(|(key, v)| key != "role" && filled(v)))
    }
}

/// The messages in a column: objects with a role. Keys without a value are left out, but `content`: where tables are
/// turned to JSON, every message has every key, and templates ask whether a key is there.
fn messages_of(row: &Map<String, Value>, key: &str) -> Result<Vec<Value>, String> {
    let list = match row.get(key) {
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("{key}: expected an array, found {}", kind(other))),
        None => return Err(format!("the key {key} is missing")),
    };
    let message = |(i, message): (usize, &Value)| {
        let place = |e: String| format!("{key}[{i}]: {e}");
        let Value::Object(message) = message else {
            return Err(place(format!("expected an object, found {}", kind(message))));
        };
        match message.get("role") {
            Some(Value::String(_)) => {}
            Some(other) => return Err(place(format!("role: expected a string, found {}", kind(other)))),
            None => return Err(place("the key role is missing".into())),
        }
        if let Some(other @ Value::Object(_)) = message.get("content") {
            return Err(place(format!("content: expected a string, found {}", kind(other))));
        }
        let kept = message.iter().filter(|(key, v)| !v.is_null() || *key == "content");
        let mut kept: Map<String, Value> = kept.map(|(key, v)| (key.clone(), v.clone())).collect();
        if let Some(content) = kept.get_mut("content").filter(|v| v.is_number() || v.is_boolean()) {
            *content = content.to_string().into();
        }
        Ok(Value::Object(kept))
    };
    list.iter().enumerate().map(message).collect()
}

/// A list, which tables may hold as text; an empty one is none.
fn list_of(row: &Map<String, Value>, key: &str) -> Result<Option<Vec<Value>>, String> {
    let list = match row.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list.clone(),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|e| format!("{key}: expected an array, found text that is none: {e}"))?
        }
        Some(other) => return Err(format!("{key}: expected an array, found {}", kind(other))),
    };
    Ok(if list.is_empty() { None } else { Some(list) })
}
