//! The end tokens of what is written: the end of a turn that was trained is among them.

use serde_json::{Map, Value};

use super::source::Opened;
use crate::data::text::chat::stored::DEFAULT;

/// Where an answer ends by the template that goes out, unless the base's files have it among the end tokens.
pub(super) fn end_of_turn(opened: &Opened) -> Option<(u32, String)> {
    let template = opened.templates.get(DEFAULT)?;
    // A base without a tokenizer has no end tokens to add to.
    let tokenizer = opened.base.tokenizer().ok()?;
    let id = tokenizer.end_of_turn(template).filter(|id| !tokenizer.eos_ids().contains(id));
    id.map(|id| (id, tokenizer.name_of(id)))
}

/// Adds an end token to those that a file names.
pub(super) fn add_end(file: &mut Map<String, Value>, id: u32) {
    let mut all = match file.remove("eos_token_id") {
        Some(Value::Array(list)) => list,
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one],
    };
    all.push(id.into());
    file.insert("eos_token_id".into(), all.into());
}
