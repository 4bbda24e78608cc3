//! What the readers of rows share: a row as the bytes of a JSON object, and the parser that makes an object of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::strict::Strict;
use crate::error::{Error, Result};

/// Longest row that is read, in bytes of JSON. A file without line ends would otherwise be read
/// into memory whole.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// Cuts rows off a source, one after the other.
pub(crate) trait RawRows: Send {
    /// Appends the JSON of the next row and returns its number; `None` at the end. Not to be called again after
    /// an error, unless it [`goes on`](RawRows::goes_on).
    fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>>;

    /// Whether the error that was just returned concerns one row alone, so that the next may be asked for.
    fn goes_on(&self) -> bool {
        false
    }
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
        match serde_json::from_slice::<Strict>(bytes).map(|row| row.0) {
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
                let hint = hint(bytes, e.column()).map_or(String::new(), |hint| format!("; {hint}"));
                // Two equal keys are JSON, and lose one of their values.
                let kind = if e.is_data() { "" } else { "not valid JSON: " };
                Err(self.fault(row, format!("{kind}{what} ({place}){hint}")))
            }
        }
    }
}

/// What a row that is no JSON may be, and what to do.
fn hint(bytes: &[u8], column: usize) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let at = &bytes[column.saturating_sub(1).min(bytes.len())..];
    // The parser stops in a word or behind its first letter.
    let word = |word: &[u8]| at.starts_with(word) || at.starts_with(&word[1..]);
    if word(b"NaN") || word(b"Infinity") {
        Some("JSON has no NaN and no Infinity, which Python writes all the same: write null, or leave the row out")
    } else if looks_like_python(start) || word(b"None") || word(b"True") || word(b"False") {
        Some("it looks like Python's own form of a dict: write rows by json.dumps")
    } else if start.trim_ascii_end() == b"{" {
        Some("a row is a line, and this one begins an object over several: jq -c . writes each on one")
    } else {
        None
    }
}

/// Whether a text begins as Python writes a list or dict of strings.
pub(crate) fn looks_like_python(text: &[u8]) -> bool {
    let inner = text.trim_ascii_start();
    let inner = inner.strip_prefix(b"[").unwrap_or(inner).trim_ascii_start();
    inner.strip_prefix(b"{").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"'"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_other_programs_write_are_named() {
        let parser = RowParser::new(Path::new("d"));
        let mut failed = Vec::new();
        for (row, hint) in [
            ("{'text': 'a'}", "json.dumps"),
            ("{\"text\": None}", "json.dumps"),
            ("{\"text\": \"a\", \"ok\": True}", "json.dumps"),
            ("{\"text\": \"a\", \"score\": NaN}", "no NaN"),
            ("{\"text\": \"a\", \"score\": -Infinity}", "no NaN"),
            ("{", "jq -c"),
            ("{\"text\": \"a\",}", ""),
            ("{\"text\": tru}", ""),
            ("{\"text\": \"a", ""),
        ] {
            let e = parser.parse(3, row.as_bytes()).unwrap_err().to_string();
            let hinted = e.contains(")\u{3b} ");
            if !e.starts_with("d: row 3: not valid JSON: ") || !e.contains(hint) || hinted == hint.is_empty() {
                failed.push(format!("{row}: {e}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
        let e = parser.parse(3, b"{\"text\": \"a\", \"text\": \"b\"}").unwrap_err().to_string();
        assert_eq!(e, "d: row 3: the key text stands twice in an object (column 26)");
    }
}
