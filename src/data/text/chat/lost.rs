//! What a row gives and the template does not write.
//!
//! Each text of a row (what messages say, think and call, results, tools, documents) must stand in what is rendered. It is
//! looked for without blanks, which templates trim and set, as it is and as JSON writes it; where it is not found as one,
//! word by word in its order. A word that is missing is changed and the conversation rendered again: a template that
//! writes it in another form gives another text, one that leaves it out gives the same. A short text may stand there by
//! chance; conversations have all their texts changed so until the first of a combination of roles and keys has lost nothing.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::conversation::Conversation;
use super::dialect::REASONING;
use super::json::write_text;
use super::tags::free_marks;
use super::turns::shortened;
use crate::data::text::columns::is_nothing;

/// Texts below so many bytes may be found by chance.
const SHORT: usize = 24;

/// The combinations of roles and keys that have been looked at closely.
pub(crate) type Seen = Mutex<HashSet<u64>>;

/// A text of a row.
struct Leaf<'a> {
    /// The message; tools and documents have none.
    message: Option<usize>,
    /// What a person calls it: a key, or the role of a message whose content it is.
    name: &'a str,
    /// JSON pointer into the message, the tools or the documents.
    pointer: String,
    text: &'a str,
}

/// The names of what is left out of `text` and may be; `drops` are the names of what a person says may be.
///
/// # Errors
/// Names what is left out and may not be.
pub(crate) fn dropped(
    chat: &Conversation,
    text: &str,
    drops: &[String],
    seen: &Seen,
    render: impl Fn(&Conversation) -> Result<String, String>,
) -> Result<Vec<String>, String> {
    let leaves = leaves(chat);
    let written = squeezed(text);
    let kind = combination(chat);
    let close = !seen.lock().unwrap_or_else(PoisonError::into_inner).contains(&kind);
    let (mut at, mut gone) = (0, Vec::new());
    for leaf in &leaves {
        let missing = match found(&written, &mut at, leaf.text) {
            None if close && leaf.text.len() < SHORT => Some(leaf.text.len() / 2),
            None => None,
            missing => missing,
        };
        let Some(place) = missing else { continue };
        let same = |changed: Conversation| render(&changed).is_ok_and(|other| other == text);
        if !changed(chat, leaf, place).is_some_and(same) {
            continue;
        }
        let answer = leaf.message.is_some_and(|i| chat.messages[i]["role"] == "assistant" && chat.trains(i));
        let place = leaf.message.map_or(String::new(), |i| format!("messages[{i}]: "));
        let what = format!("{place}the chat template leaves out {} {:?}", leaf.name, shortened(leaf.text));
        match (answer, drops.iter().any(|drop| drop == leaf.name)) {
            (true, _) => return Err(format!("{what}, a part of an answer that is trained")),
            (false, true) if gone.iter().all(|name| name != leaf.name) => gone.push(leaf.name.to_string()),
            (false, true) => {}
            (false, false) => {
                let name = leaf.name;
                return Err(format!(
                    "{what}; template_drops says that {name} may be left out, chat_template names another template"
                ));
            }
        }
    }
    // Not before: where bad rows are skipped, each of a kind that loses something has to be found.
    if close {
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert(kind);
    }
    Ok(gone)
}

/// The texts of a conversation in the order in which they are mostly written.
fn leaves(chat: &Conversation) -> Vec<Leaf<'_>> {
    let mut out = Vec::new();
    for (i, tool) in chat.tools.iter().flatten().enumerate() {
        for key in ["name", "description"] {
            let nested = format!("/function/{key}");
            let (pointer, value) = match tool.pointer(&nested) {
                Some(value) => (nested, Some(value)),
                None => (format!("/{key}"), tool.get(key)),
            };
            if let Some(text) = value.and_then(Value::as_str) {
                out.push(Leaf { message: None, name: "tools", pointer: format!("/{i}{pointer}"), text });
            }
        }
    }
    let list = chat.documents.iter().flatten().enumerate();
    list.for_each(|(i, document)| strings(&mut out, None, "documents", format!("/{i}"), document));
    for (i, message) in chat.messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        for key in REASONING {
            strings(&mut out, Some(i), key, format!("/{key}"), &message[key]);
        }
        match &message["content"] {
            Value::Array(parts) => {
                for (n, part) in parts.iter().enumerate() {
                    strings(&mut out, Some(i), role, format!("/content/{n}/text"), &part["text"]);
                }
            }
            content => strings(&mut out, Some(i), role, "/content".into(), content),
        }
        for n in 0..message["tool_calls"].as_array().map_or(0, Vec::len) {
            let function = &message["tool_calls"][n]["function"];
            let pointer = |key: &str| format!("/tool_calls/{n}/function/{key}");
            strings(&mut out, Some(i), "tool_calls", pointer("name"), &function["name"]);
            strings(&mut out, Some(i), "tool_calls", pointer("arguments"), &function["arguments"]);
        }
    }
    out.retain(|leaf| !leaf.text.trim().is_empty());
    out
}

/// Every string in a value.
fn strings<'a>(out: &mut Vec<Leaf<'a>>, message: Option<usize>, name: &'a str, pointer: String, value: &'a Value) {
    match value {
        Value::String(text) => out.push(Leaf { message, name, pointer, text }),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| strings(out, message, name, format!("{pointer}/{i}"), v));
        }
        Value::Object(map) => {
            for (key, v) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                strings(out, message, name, format!("{pointer}/{key}"), v);
            }
        }
        _ => {}
    }
}

/// Roles and keys of a conversation, in any order, and whether a message is the last.
fn combination(chat: &Conversation) -> u64 {
    let mut kinds: Vec<String> = Vec::new();
    for (i, message) in chat.messages.iter().filter_map(Value::as_object).enumerate() {
        let filled = message.iter().filter(|(key, v)| *key != "role" && !is_nothing(v));
        let keys: Vec<&str> = filled.map(|(key, _)| key.as_str()).collect();
        kinds.push(format!("{} {keys:?} {}", message["role"], i + 1 == chat.messages.len()));
    }
    kinds.sort_unstable();
    kinds.dedup();
    let mut hasher = DefaultHasher::new();
    (kinds, chat.tools.is_some(), chat.documents.is_some(), chat.extras.len()).hash(&mut hasher);
    hasher.finish()
}

/// A text without its blanks.
fn squeezed(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_whitespace) {
        true => Cow::Owned(text.split_whitespace().collect()),
        false => Cow::Borrowed(text),
    }
}

/// Looks for a text from `at` on, else from the beginning, and moves `at` behind it; where it is not there, gives the
/// byte of it in the middle of the first word that is missing.
fn found(written: &str, at: &mut usize, text: &str) -> Option<usize> {
    let whole = squeezed(text);
    let mut search = |form: &str| {
        let place = written[*at..].find(form).map(|n| *at + n).or_else(|| written.find(form));
        place.map(|place| *at = place + form.len()).is_some()
    };
    if search(&whole) {
        return None;
    }
    for ascii in [false, true] {
        let json = as_json(text, ascii);
        if *json != *text && search(&squeezed(&json)) {
            return None;
        }
    }
    // From anywhere: what precedes it may have moved.
    let mut from = 0;
    for word in text.split_whitespace() {
        match written[from..].find(word) {
            Some(n) => from += n + word.len(),
            None => {
                let start = word.as_ptr() as usize - text.as_ptr() as usize;
                return Some(start + word.len() / 2);
            }
        }
    }
    None
}

/// As JSON writes a string, without its quotes; with characters beyond ASCII as `\u` where a template asks for it.
fn as_json(text: &str, ascii: bool) -> Cow<'_, str> {
    let plain = |c: char| !matches!(c, '"' | '\\' | '\0'..='\u{1f}') && (!ascii || c.is_ascii());
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    write_text(&mut out, text, ascii);
    Cow::Owned(out[1..out.len() - 1].to_string())
}

/// The conversation with a mark in a text; `None` where no mark is free.
fn changed(chat: &Conversation, leaf: &Leaf<'_>, place: usize) -> Option<Conversation> {
    let all = chat.messages.iter().chain(chat.tools.iter().flatten()).chain(chat.documents.iter().flatten());
    let mark = free_marks(1, "", all).ok()?[0];
    let mut chat = chat.clone();
    let list = match (leaf.message, leaf.name) {
        (Some(_), _) => Some(&mut chat.messages),
        (None, "tools") => chat.tools.as_mut(),
        (None, _) => chat.documents.as_mut(),
    };
    let (i, pointer) = match leaf.message {
        Some(i) => (i, leaf.pointer.as_str()),
        None => {
            let (i, rest) = leaf.pointer[1..].split_once('/').unwrap_or((&leaf.pointer[1..], ""));
            (i.parse().ok()?, &leaf.pointer[leaf.pointer.len() - rest.len() - usize::from(!rest.is_empty())..])
        }
    };
    let Some(Value::String(text)) = list?.get_mut(i)?.pointer_mut(pointer) else { return None };
    let place = (0..=place).rev().find(|at| text.is_char_boundary(*at))?;
    text.insert(place, mark);
    Some(chat)
}

#[cfg(test)]
#[path = "lost_tests.rs"]
mod tests;
