//! How rows become conversations, in every shape of them: `messages` as OpenAI and TRL have them, ShareGPT's turns as
//! LLaMA-Factory reads them, and prompts and completions that are lists of messages.
//!
//! A turn is `{role, content}` or `{from, value}`; its further keys stay, but for those without a value: where tables are
//! turned to JSON, every message has every key, and templates ask whether a key is there. A column `system` becomes the
//! first turn, `tools` (JSON, or JSON in a string), `documents` and `chat_template_kwargs` what they say. `weight` (0 or 1,
//! as OpenAI and Mistral have it), `train` and `loss` (as axolotl and ms-swift) say whether an answer is trained.

use serde_json::{json, Map, Value};

use super::calls::{calls, parsed, tools};
use super::conversation::Conversation;
use super::dialect::{Dialect, REASONING};
use super::parts;
use super::roles::Role;
use crate::data::rows::raw::{kind, looks_like_python};
use crate::data::rows::strict;
use crate::data::text::columns::{is_nothing, system_column, text_of, value_at};

type Outcome<T> = std::result::Result<T, String>;
type Row = Map<String, Value>;

/// The conversation of a row whose turns stand in the column `field`, for a template of this dialect.
pub(crate) fn conversation(row: &Row, field: &str, dialect: &Dialect) -> Outcome<Conversation> {
    with_columns(row, field, Turns::of(row, field, dialect)?, dialect)
}

/// The conversation of a row whose prompt and completion are lists of messages: only the completion is trained.
pub(crate) fn pair(row: &Row, prompt: &str, completion: &str, dialect: &Dialect) -> Outcome<Conversation> {
    let mut turns = Turns::of(row, prompt, dialect)?;
    let context = turns.messages.len();
    let trained = Turns::of(row, completion, dialect)?;
    turns.messages.extend(trained.messages);
    turns.untrained.extend(trained.untrained.into_iter().map(|i| i + context));
    turns.trained_from = context;
    turns.mapped_roles |= trained.mapped_roles;
    with_columns(row, prompt, turns, dialect)
}

/// The turns of a column.
#[derive(Default)]
struct Turns {
    messages: Vec<Value>,
    trained_from: usize,
    untrained: Vec<usize>,
    mapped_roles: bool,
}

impl Turns {
    fn of(row: &Row, field: &str, dialect: &Dialect) -> Outcome<Turns> {
        // Tables hold lists as text.
        let given = value_at(row, field);
        let text = given.and_then(Value::as_str).and_then(|text| strict::value(text).ok());
        let list = match text.as_ref().filter(|v| v.is_array()).or(given) {
            Some(Value::Array(list)) => list,
            Some(Value::String(text)) if looks_like_python(text.as_bytes()) => {
                return Err(format!(
                    "{field}: expected an array, found Python's own form of one: write it by json.dumps"
                ));
            }
            Some(other) => return Err(format!("{field}: expected an array, found {}", kind(other))),
            None => return Err(format!("the key {field} is missing")),
        };
        let mut turns = Turns::default();
        for (i, turn) in list.iter().enumerate() {
            let place = |e: String| format!("{field}[{i}]: {e}");
            let turn = turn.as_object().ok_or_else(|| place(format!("expected an object, found {}", kind(turn))))?;
            let (message, trained) = message(turn, dialect).map_err(place)?;
            turns.mapped_roles |= is_mapped(turn, &message);
            if !trained {
                turns.untrained.push(i);
            }
            turns.messages.push(message.into());
        }
        Ok(turns)
    }
}

/// What stands beside the turns.
fn with_columns(row: &Row, field: &str, mut turns: Turns, dialect: &Dialect) -> Outcome<Conversation> {
    for media in ["images", "videos", "audios"] {
        if row.get(media).is_some_and(|v| !is_nothing(v)) {
            return Err(format!("{media}: only text can be trained on"));
        }
    }
    if let Some(key) = system_column(row)? {
        let parts = row[key].as_array().or_else(|| row[key].get("parts")?.as_array());
        let content = match parts {
            Some(list) => parts::content(list, dialect.iterates).map_err(|e| format!("{key}: {e}"))?,
            None => text_of(row, key)?.into(),
        };
        match turns.messages.iter().position(|m| m["role"] == "system") {
            // The same text twice, as some exports have it, is one.
            Some(i) if turns.messages[i]["content"] == content => {}
            Some(i) => return Err(format!("{field}[{i}]: a system turn, and the row has a column {key} as well")),
            None => {
                turns.messages.insert(0, json!({"role": "system", "content": content}));
                turns.trained_from += usize::from(turns.trained_from > 0);
                turns.untrained.iter_mut().for_each(|i| *i += 1);
            }
        }
    }
    let extras = match row.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(other) => return Err(format!("chat_template_kwargs: expected an object, found {}", kind(other))),
    };
    let Turns { messages, trained_from, untrained, mapped_roles } = turns;
    let documents = list_of(row, "documents")?;
    let tools = tools(row.get("tools"))?;
    Ok(Conversation { messages, tools, documents, extras, trained_from, untrained, mapped_roles })
}

/// A list, which tables may hold as text; an empty one is none.
fn list_of(row: &Row, key: &str) -> Outcome<Option<Vec<Value>>> {
    let Some(value) = row.get(key).filter(|v| !is_nothing(v)) else { return Ok(None) };
    match parsed(value).map_err(|e| format!("{key}: {e}"))? {
        Value::Array(list) => Ok(Some(list)),
        other => Err(format!("{key}: expected an array, found {}", kind(&other))),
    }
}

/// A turn as a message, and whether it is trained where it is an answer.
fn message(turn: &Row, dialect: &Dialect) -> Outcome<(Row, bool)> {
    let (tag, text) = match (turn.contains_key("from"), turn.contains_key("role")) {
        (true, false) => ("from", "value"),
        (false, true) => ("role", "content"),
        (false, false) => return Err("the key role is missing (or from, with value)".into()),
        (true, true) => return Err("the keys from and role: expected one of them".into()),
    };
    let given = match &turn[tag] {
        Value::String(name) => name.as_str(),
        other => return Err(format!("{tag}: expected a string, found {}", kind(other))),
    };
    let role = Role::of(given);
    let name = role.map_or(given, |role| role.name(given, |word| dialect.names(word)));
    // Gemini's rows have the parts themselves, and OpenAI's an answer that refuses under a key of its own.
    let mut filled =
        [text, "parts", "refusal"].into_iter().filter(|key| turn.get(*key).is_some_and(|v| !is_nothing(v)));
    let (first, second) = (filled.next(), filled.next());
    if let Some((first, second)) = first.zip(second) {
        return Err(format!("the keys {first} and {second}: expected one of them"));
    }
    let text = first.unwrap_or(text);
    let kept = turn.iter().filter(|(key, v)| !v.is_null() && *key != tag && *key != text);
    let mut out: Row = std::iter::once(("role".to_string(), Value::from(name)))
        .chain(kept.map(|(key, value)| (key.clone(), value.clone())))
        .collect();
    let trained = trained(&mut out)?;
    match turn.get(text) {
        Some(call) if role == Some(Role::Call) => {
            let called = calls(call).map_err(|e| format!("{given}: {e}"))?;
            out.insert("content".into(), "".into());
            out.insert("tool_calls".into(), called.into());
        }
        None if tag == "from" || role == Some(Role::Call) => return Err(format!("the key {text} is missing")),
        Some(Value::Null) if tag == "role" => _ = out.insert("content".into(), Value::Null),
        Some(Value::Array(list)) => _ = out.insert("content".into(), parts::content(list, dialect.iterates)?),
        Some(_) => _ = out.insert("content".into(), text_of(turn, text)?.into()),
        None => {}
    }
    for key in ["tool_calls", "function_call"] {
        let Some(given) = out.remove(key).filter(|v| !is_nothing(v)) else { continue };
        if out.contains_key("tool_calls") {
            return Err(format!("{key}: the turn has calls already"));
        }
        let called = calls(&given).map_err(|e| format!("{key}{e}"))?;
        out.insert("tool_calls".into(), called.into());
    }
    if let Some(known) = dialect.reasoning {
        // Whoever exported it called it otherwise.
        let other = REASONING.into_iter().find(|key| *key != known && out.contains_key(*key));
        if let Some(value) = other.filter(|_| !out.contains_key(known)).and_then(|key| out.remove(key)) {
            out.insert(known.into(), value);
        }
    }
    if !["content", "tool_calls"].into_iter().chain(REASONING).any(|key| out.contains_key(key)) {
        let keys: Vec<&str> = turn.keys().map(String::as_str).collect();
        return Err(format!("the key content is missing; found {}", keys.join(", ")));
    }
    Ok((dialect.adapted(out), trained))
}

/// Whether the role of a turn has another name in the message; ShareGPT's own names are no news.
fn is_mapped(turn: &Row, message: &Row) -> bool {
    let native = ["human", "gpt", "observation", "function_call"];
    match (turn.get("from"), turn.get("role")) {
        (Some(Value::String(given)), _) if native.contains(&given.as_str()) => false,
        (given, role) => given.or(role) != message.get("role"),
    }
}

/// Whether a turn is trained, by the keys that say so, which are no business of a template's.
fn trained(turn: &mut Row) -> Outcome<bool> {
    let answer = turn["role"] == "assistant";
    let mut trained = true;
    for key in ["weight", "train", "loss"] {
        let said = match turn.get(key) {
            None => continue,
            Some(Value::Bool(said)) => *said,
            Some(Value::Number(n)) if n.as_f64() == Some(0.0) => false,
            Some(Value::Number(n)) if n.as_f64() == Some(1.0) => true,
            Some(other) => return Err(format!("{key}: expected 0 or 1, found {other}")),
        };
        if said && !answer && key != "weight" {
            return Err(format!("{key}: only answers are trained, and this is a turn of {}", turn["role"]));
        }
        trained &= said;
        turn.remove(key);
    }
    Ok(trained || !answer)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
