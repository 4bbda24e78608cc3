//! Tokens that a model's other files add to its `tokenizer.json`: `added_tokens_decoder` of `tokenizer_config.json`, with ids, and
//! `added_tokens.json` of older folders. transformers adds them, with the ids given; a token that is left out would be split
//! into pieces that the model has never seen together.

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::AddedToken;

use crate::error::{Error, Result};
use crate::files::{ModelFiles, TOKENIZER};

const CONFIG: &str = "tokenizer_config.json";
const OLDER: &str = "added_tokens.json";

/// Adds what the files name and the tokenizer does not have, and gives it, in order of its ids.
///
/// # Errors
/// [`Error::Tokenizer`] names both files where they give a token different ids.
pub(super) fn add(inner: &mut tokenizers::Tokenizer, model: &ModelFiles) -> Result<Vec<AddedToken>> {
    let mut named: BTreeMap<u32, (AddedToken, &str)> = BTreeMap::new();
    let older = model.json(OLDER)?;
    for (content, id) in older.as_object().into_iter().flatten() {
        if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            named.insert(id, (AddedToken::from(content.clone(), false).normalized(true), OLDER));
        }
    }
    let config = model.json(CONFIG)?;
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        if let (Ok(id), Some(token)) = (id.parse(), read(token)) {
            named.insert(id, (token, CONFIG));
        }
    }
    let mut added = Vec::new();
    for (id, (token, file)) in named {
        let known = inner.get_added_tokens_decoder();
        if known.get(&id).is_some_and(|other| other.content == token.content) {
            continue;
        }
        let differ = |found: String| Error::Tokenizer {
            path: model.place(file),
            reason: format!("the token {:?} has the id {id} here, and {TOKENIZER} {found}", token.content),
        };
        if let Some(other) = inner.token_to_id(&token.content).filter(|other| *other != id) {
            return Err(differ(format!("gives it {other}")));
        }
        if let Some(other) = inner.id_to_token(id).filter(|other| *other != token.content) {
            return Err(differ(format!("has {other:?} there")));
        }
        inner.add_tokens([token.clone()]).map_err(|e| differ(format!("does not take it: {e}")))?;
        match inner.token_to_id(&token.content) {
            Some(given) if given == id => added.push(token),
            given => {
                let other = given.map_or("none".to_string(), |id| id.to_string());
                return Err(differ(format!("has no room for it there: it would get {other}")));
            }
        }
    }
    Ok(added)
}

/// A token as `tokenizer_config.json` describes it.
fn read(token: &Value) -> Option<AddedToken> {
    let content = token.get("content")?.as_str()?;
    let said = |key: &str, default: bool| token.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = said("special", false);
    Some(
        AddedToken::from(content, special)
            .single_word(said("single_word", false))
            .lstrip(said("lstrip", false))
            .rstrip(said("rstrip", false))
            .normalized(said("normalized", !special)),
    )
}
