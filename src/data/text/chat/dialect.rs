//! What a template understands, found by what it renders: so that an edit of no effect, or a template that nobody has seen
//! before, is judged by what it does.

use serde_json::{json, Map, Value};

use super::calls::with_arguments_as_text;

/// The names that a reasoning text goes by.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// Stands for a text that no template writes by itself.
const PROBE: &str = "\u{F8FF}sftmix\u{F8FF}";

/// What a template understands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialect {
    /// Its text: a role that it compares with stands there in quotes.
    words: String,
    /// It writes the texts of content that is a list of parts.
    pub iterates: bool,
    /// It appends a call's arguments to a string.
    arguments_as_text: bool,
    /// The name by which it knows a reasoning text.
    pub reasoning: Option<&'static str>,
}

impl Dialect {
    /// Of a template, which `render` runs on messages.
    pub fn find(template: &str, render: impl Fn(&[Value]) -> Result<String, String>) -> Dialect {
        let question = |content: Value| json!({"role": "user", "content": content});
        let written = |messages: &[Value]| render(messages).ok().filter(|text| text.contains(PROBE));
        // A template that has no idea of parts writes the list itself.
        let parts = written(&[question(json!([{"type": "text", "text": PROBE}]))]);
        let iterates = parts.is_some_and(|text| !text.contains("'text'") && !text.contains("\"text\""));
        let call = json!({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {"a": PROBE}}}]});
        let called = |call: Value| written(&[question("q".into()), call]).is_some();
        let arguments_as_text = !called(call.clone()) && called(with_arguments_as_text(&call));
        let reasoning = REASONING.into_iter().find(|key| has_word(template, key));
        Dialect { words: template.into(), iterates, arguments_as_text, reasoning }
    }

    /// Whether it compares with this word.
    pub fn names(&self, word: &str) -> bool {
        ['\'', '"'].iter().any(|quote| self.words.contains(&format!("{quote}{word}{quote}")))
    }

    /// A message in the form that it understands.
    pub fn adapted(&self, message: Map<String, Value>) -> Map<String, Value> {
        if !self.arguments_as_text || !message.contains_key("tool_calls") {
            return message;
        }
        match with_arguments_as_text(&message.into()) {
            Value::Object(message) => message,
            _ => Map::new(),
        }
    }
}

/// Whether a word stands in a text by itself.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}
