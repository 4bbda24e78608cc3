//! A conversation as templates read it.

use serde_json::{Map, Value};

use crate::data::text::columns::is_nothing;

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
    /// Assistant turns behind it that are not trained either: those that their row marks so (`"weight": 0`), ascending.
    pub untrained: Vec<usize>,
    /// A role was given by another name than the template's, and is mapped to that.
    pub mapped_roles: bool,
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

    /// Places of the assistant's messages.
    pub fn answers(&self) -> impl Iterator<Item = usize> + '_ {
        self.messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant").map(|(i, _)| i)
    }

    /// Whether the assistant's message at this place is trained.
    pub fn trains(&self, answer: usize) -> bool {
        answer >= self.trained_from && self.untrained.binary_search(&answer).is_err()
    }

    /// Whether any message says, thinks or calls something.
    pub(crate) fn says_something(&self) -> bool {
        let filled = |v: &Value| v.as_str().map_or_else(|| !is_nothing(v), |text| !text.is_empty());
        self.messages.iter().filter_map(Value::as_object).any(|m| m.iter().any(|(key, v)| key != "role" && filled(v)))
    }
}
