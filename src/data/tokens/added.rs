//! Tokens that a model's other files add to its `tokenizer.json`, as transformers adds them: `added_tokens_decoder` of
//! `tokenizer_config.json`, with ids, or `added_tokens.json` of older folders; then what the files name as special and nothing has
//! made a token. One that is left out would be split into pieces that the model has never seen together.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tokenizers::AddedToken;

use crate::error::{Error, Result};
use crate::files::{ModelFiles, TOKENIZER};

const CONFIG: &str = "tokenizer_config.json";
const OLDER: &str = "added_tokens.json";
const MAP: &str = "special_tokens_map.json";
const DECODER: &str = "added_tokens_decoder";
/// The names that every tokenizer has, in the order in which transformers adds them.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys of a list of further special tokens, the newer first.
const MORE: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// What the files say of tokens.
struct Said {
    config: Value,
    older: Value,
    /// `special_tokens_map.json`, which counts where there is no `added_tokens_decoder`.
    map: Value,
}

/// Adds what the files name. Gives what was added or has other flags now: in order of the ids that files give, then those
/// that get the next free one.
///
/// # Errors
/// [`Error::Tokenizer`] names both files where they give a token different ids.
pub(super) fn add(inner: &mut tokenizers::Tokenizer, model: &ModelFiles) -> Result<Vec<AddedToken>> {
    let mut said = Said { config: model.json(CONFIG)?, older: model.json(OLDER)?, map: model.json(MAP)? };
    if said.decoder().is_some() {
        said.map = Value::Null;
    }
    let mut added = with_ids(inner, model, &said)?;
    let mut known: HashSet<String> = inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    let named: Vec<AddedToken> =
        said.named().into_iter().chain(said.more()).filter(|token| known.insert(token.content.clone())).collect();
    inner.add_tokens(named.clone()).map_err(|e| refused(model, "special tokens", e))?;
    added.extend(named);
    Ok(added)
}

/// Adds the tokens that have ids.
fn with_ids(inner: &mut tokenizers::Tokenizer, model: &ModelFiles, said: &Said) -> Result<Vec<AddedToken>> {
    let known = inner.get_added_tokens_decoder();
    let mut new = BTreeMap::new();
    for (id, (token, file)) in listed(model, said)? {
        // What the older file gives tokenizer.json has, with flags; those of the newer file count.
        let same = |other: &AddedToken| if file == OLDER { other.content == token.content } else { *other == token };
        if token.content.is_empty() || known.get(&id).is_some_and(same) {
            continue;
        }
        if let Some(other) = inner.token_to_id(&token.content).filter(|other| *other != id) {
            return Err(differ(model, (file, TOKENIZER), (id, &token.content), format!("gives it {other}")));
        }
        if let Some(other) = inner.id_to_token(id).filter(|other| *other != token.content) {
            return Err(differ(model, (file, TOKENIZER), (id, &token.content), format!("has {other:?} there")));
        }
        if file == OLDER && said.decoder().is_some() {
            // transformers does not read the older file then.
            let (path, content) = (model.place(OLDER), &token.content);
            log::warn!("{}: {content:?} is no token: {DECODER} of {CONFIG} does not name it", path.display());
            continue;
        }
        new.insert(id, (token, file));
    }
    // All at once: each call sorts every added token anew.
    let all: Vec<AddedToken> = new.values().map(|(token, _)| token.clone()).collect();
    inner.add_tokens(all.clone()).map_err(|e| refused(model, "added tokens", e))?;
    for (id, (token, file)) in &new {
        let given = inner.token_to_id(&token.content);
        if given != Some(*id) {
            let other = given.map_or("none".to_string(), |id| id.to_string());
            let found = format!("has no room for it there: it would get {other}");
            return Err(differ(model, (file, TOKENIZER), (*id, &token.content), found));
        }
    }
    Ok(all)
}

/// The tokens that have ids, with the file that each is from.
fn listed(model: &ModelFiles, said: &Said) -> Result<BTreeMap<u32, (AddedToken, &'static str)>> {
    let special = said.special();
    let mut listed = BTreeMap::new();
    let mut ids: HashMap<String, u32> = HashMap::new();
    for (id, token) in said.decoder().into_iter().flatten() {
        if let (Ok(id), Some(token)) = (id.parse(), read(token)) {
            let named = token.special || special.contains(&token.content);
            ids.insert(token.content.clone(), id);
            listed.insert(id, (token.special(named), CONFIG));
        }
    }
    for (content, id) in said.older.as_object().into_iter().flatten() {
        let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else { continue };
        if let Some(other) = ids.get(content).filter(|other| **other != id) {
            return Err(differ(model, (OLDER, CONFIG), (id, content), format!("gives it {other}")));
        }
        match listed.get(&id) {
            Some((other, _)) if other.content != *content => {
                return Err(differ(model, (OLDER, CONFIG), (id, content), format!("has {:?} there", other.content)));
            }
            Some(_) => {}
            None => {
                let special = special.contains(content);
                listed.insert(id, (AddedToken::from(content.clone(), special).normalized(!special), OLDER));
            }
        }
    }
    Ok(listed)
}

/// Two files differ in a token.
fn differ(model: &ModelFiles, (file, other): (&str, &str), (id, content): (u32, &str), found: String) -> Error {
    let reason = format!("the token {content:?} has the id {id} here, and {other} {found}");
    Error::Tokenizer { path: model.place(file), reason }
}

fn refused(model: &ModelFiles, what: &str, e: impl std::fmt::Display) -> Error {
    Error::Tokenizer { path: model.place(CONFIG), reason: format!("its {what}: {e}") }
}

impl Said {
    fn decoder(&self) -> Option<&serde_json::Map<String, Value>> {
        self.config.get(DECODER)?.as_object()
    }

    /// The tokens that have a name: the usual ones, then those of the model's own, as `image_token`.
    fn named(&self) -> Vec<AddedToken> {
        let usual = NAMES.iter().filter_map(|name| self.map.get(name).or_else(|| self.config.get(name)));
        let files = [&self.map, &self.config];
        let own = files.into_iter().filter_map(Value::as_object).flatten();
        let own = own.filter(|(key, _)| key.ends_with("_token") && !NAMES.contains(&key.as_str()));
        let by_name = files.into_iter().filter_map(|file| file.get(MORE[0])?.as_object()).flatten();
        usual.chain(own.chain(by_name).map(|(_, value)| value)).filter_map(named).collect()
    }

    /// The further special tokens: one list, the first that is not empty.
    fn more(&self) -> Vec<AddedToken> {
        let places = [&self.config, &self.map].into_iter().flat_map(|file| MORE.iter().map(move |key| (file, key)));
        let mut lists = places.filter_map(|(file, key)| file.get(key)?.as_array().filter(|list| !list.is_empty()));
        lists.next().into_iter().flatten().filter_map(named).collect()
    }

    /// What is special among tokens that have ids but no flags. transformers does not look for them in the older file's list
    /// of further ones.
    fn special(&self) -> HashSet<String> {
        let listed = |file: &Value, key: &str| file.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut more: Vec<Value> = MORE.iter().flat_map(|key| listed(&self.config, key)).collect();
        more.extend(listed(&self.map, MORE[0]));
        self.named().into_iter().chain(more.iter().filter_map(named)).map(|token| token.content).collect()
    }
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

/// A special token: its text, or its description.
fn named(token: &Value) -> Option<AddedToken> {
    let token = match token.as_str() {
        Some(content) => AddedToken::from(content, true),
        None => read(token)?.special(true),
    };
    Some(token).filter(|token| !token.content.is_empty())
}
