//! Values of a row's columns, as text.

use std::path::Path;

use serde_json::{Map, Value};

use crate::data::rows::raw::kind;
use crate::error::Error;

/// A row that cannot be used, named with its file.
pub(crate) fn invalid(path: &Path, row: u64, reason: impl Into<String>) -> Error {
    Error::DataInvalid { path: path.to_path_buf(), row, reason: reason.into() }
}

/// The value of a column, or of a path of keys parted by dots, as text.
pub(crate) fn text_of(object: &Map<String, Value>, key: &str) -> std::result::Result<String, String> {
    match value_at(object, key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(other) => Err(format!("{key}: expected a string, found {}", kind(other))),
        None => Err(format!("the key {key} is missing")),
    }
}

/// Whether a value says nothing: tables have every key in every row.
pub(crate) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The names under which rows have a system turn beside their turns: Claude's, Orca's, Gemini's and others.
const SYSTEM: [&str; 6] =
    ["system", "system_prompt", "systemPrompt", "system_message", "system_instruction", "systemInstruction"];

/// The column with the system turn; `None` where there is none.
pub(crate) fn system_column(row: &Map<String, Value>) -> std::result::Result<Option<&'static str>, String> {
    let mut filled = SYSTEM.into_iter().filter(|key| row.get(*key).is_some_and(|v| !is_nothing(v)));
    match (filled.next(), filled.next()) {
        (Some(one), Some(other)) => Err(format!("the columns {one} and {other}: expected one of them")),
        (first, _) => Ok(first),
    }
}

/// The value of a column, or at a path of keys.
pub(crate) fn value_at<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| deeper(object, key))
}

/// The value at a path of keys and of places in arrays, as `answers.0.text` or `answers.text[0]`.
fn deeper<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut keys = path.split(['.', '[']).map(|key| key.strip_suffix(']').unwrap_or(key));
    let first = object.get(keys.next()?)?;
    // One key alone was looked for already.
    path.contains(['.', '[']).then_some(())?;
    keys.try_fold(first, |at, key| match at {
        Value::Object(map) => map.get(key),
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_go_into_objects_and_lists() {
        let row = json!({"answers": {"text": ["a", "b"], "n": 3}, "list": [["x"]], "a.b": "own"});
        let at = |path: &str| text_of(row.as_object().unwrap(), path);
        for (path, want) in
            [("answers.text[0]", "a"), ("answers.text.1", "b"), ("list[0][0]", "x"), ("answers.n", "3"), ("a.b", "own")]
        {
            assert_eq!(at(path).as_deref(), Ok(want), "{path}");
        }
        for path in ["answers.text[2]", "answers.text[x]", "list[0].y", "gone[0]"] {
            assert_eq!(at(path), Err(format!("the key {path} is missing")));
        }
        assert_eq!(at("answers.text"), Err("answers.text: expected a string, found an array".into()));
    }
}
