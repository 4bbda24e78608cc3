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
    match object.get(key).or_else(|| deeper(object, key)) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(other) => Err(format!("{key}: expected a string, found {}", kind(other))),
        None => Err(format!("the key {key} is missing")),
    }
}

/// The value at a path of keys and of places in arrays, parted by dots.
fn deeper<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.')?;
    rest.split('.').try_fold(object.get(first)?, |at, key| match at {
        Value::Object(map) => map.get(key),
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}
