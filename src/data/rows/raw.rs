//! What the readers of rows share: a row as the bytes of a JSON object, and the parser that makes an object of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest row that is read, in bytes of JSON. A file without line ends would otherwise be read
/// into memory whole.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// Cuts rows off a source, one after the other.
pub(crate) trait RawRows: Send {
    /// Appends the JSON of the next row and returns its number; `None` at the end. Not to be called again after
    /// an error.
    fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>>;
}

/// Makes objects of the bytes that [`RawRows::next_raw`] cut, on any thread.
#[derive(Clone, Debug)]
pub(crate) struct RowParser {
    pub path: PathBuf,
    /// Rows are the elements of one array.
    pub array: bool,
    /// The key of the object that the array stands in.
    pub rows_at: Option<String>,
    /// Rows are these files.
    pub(crate) files: Option<Arc<Vec<PathBuf>>>,
}

impl RowParser {
    pub fn new(path: &Path) -> RowParser {
        RowParser { path: path.to_path_buf(), array: false, rows_at: None, files: None }
    }

    /// The file that a row stands in.
    pub fn file(&self, row: u64) -> &Path {
        let file = self.files.as_ref().and_then(|f| f.get(usize::try_from(row).ok()?.checked_sub(1)?));
        file.unwrap_or(&self.path)
    }

    pub fn fault(&self, row: u64, reason: impl Into<String>) -> Error {
        Error::DataInvalid { path: self.file(row).to_path_buf(), row, reason: reason.into() }
    }

    /// The object of a row; the number is for the error.
    pub fn parse(&self, row: u64, bytes: &[u8]) -> Result<Map<String, Value>> {
        match serde_json::from_slice::<Value>(bytes) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(other) => Err(self.fault(row, format!("expected an object, found {}", kind(&other)))),
            Err(e) => {
                // The parser's line is that of the row, which for JSONL is always 1.
                let text = e.to_string();
                let what = text.split(" at line ").next().unwrap_or(&text);
                let place = match self.array {
                    true => format!("line {}, column {} of the element", e.line(), e.column()),
                    false => format!("column {}", e.column()),
                };
                Err(self.fault(row, format!("not valid JSON: {what} ({place})")))
            }
        }
    }
}

/// What a JSON value is, with its article, for error texts.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
