//! Rows of a data file as JSON objects, read as a stream: one object a line (JSONL), or one JSON
//! array of objects. Which of the two is told by the first byte that is not white space. Memory is
//! that of one row, whatever the size of the file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest row that is read, in bytes of JSON. A file without line ends would otherwise be read
/// into memory whole.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// A row: its number in the file from 1 (line of JSONL, element of an array), and its object.
pub type Row = (u64, Map<String, Value>);

/// Streaming reader of JSONL or of one JSON array; an iterator of [`Row`]s that ends at the first
/// error. Blank lines and a UTF-8 byte order mark are skipped.
#[derive(Debug)]
pub struct RowReader {
    parser: RowParser,
    input: BufReader<File>,
    row: u64,
    bytes: Vec<u8>,
    done: bool,
}

/// Makes objects of the bytes that [`RowReader::next_raw`] cut, on any thread.
#[derive(Clone, Debug)]
pub(super) struct RowParser {
    path: PathBuf,
    array: bool,
}

impl RowParser {
    fn fault(&self, row: u64, reason: impl Into<String>) -> Error {
        Error::DataInvalid { path: self.path.clone(), row, reason: reason.into() }
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

impl RowReader {
    /// Opens a file and tells its kind.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::DataInvalid`] (row 1) for text in UTF-16.
    pub fn open(path: impl AsRef<Path>) -> Result<RowReader> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path).map_err(Error::io(&path))?;
        let mut reader = RowReader {
            parser: RowParser { path, array: false },
            input: BufReader::with_capacity(1 << 16, file),
            row: 0,
            bytes: Vec::new(),
            done: false,
        };
        let start = reader.fill()?;
        if start.starts_with(&[0xFF, 0xFE]) || start.starts_with(&[0xFE, 0xFF]) {
            reader.row = 1;
            return Err(reader.fault("the file is in UTF-16, expected UTF-8"));
        }
        if start.starts_with(&[0xEF, 0xBB, 0xBF]) {
            reader.input.consume(3);
        }
        // Line ends before the first row count as lines, so that numbers are those of an editor.
        while let Some(byte) = reader.peek()? {
            match byte {
                b'\n' => reader.row += 1,
                b' ' | b'\t' | b'\r' => {}
                b'[' => {
                    reader.parser.array = true;
                    reader.row = 0;
                    break;
                }
                _ => break,
            }
            reader.input.consume(1);
        }
        Ok(reader)
    }

    pub(super) fn parser(&self) -> &RowParser {
        &self.parser
    }

    /// Appends the JSON of the next row, as it stands in the file, and returns its number; `None` at the
    /// end. Not to be called again after an error.
    pub(super) fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>> {
        let found = if self.parser.array { self.next_element(bytes)? } else { self.next_line(bytes)? };
        Ok(found.then_some(self.row))
    }

    fn fault(&self, reason: impl Into<String>) -> Error {
        self.parser.fault(self.row, reason)
    }

    fn fill(&mut self) -> Result<&[u8]> {
        self.input.fill_buf().map_err(Error::io(&self.parser.path))
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.fill()?.first().copied())
    }

    /// The next byte that is not white space, left in place.
    fn peek_token(&mut self) -> Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.input.consume(1);
        }
        Ok(None)
    }

    fn too_long(&self) -> Error {
        self.fault(format!("the row is longer than {} MiB", MAX_ROW_BYTES >> 20))
    }

    /// Appends the next line that is not blank; false at the end.
    fn next_line(&mut self, bytes: &mut Vec<u8>) -> Result<bool> {
        let start = bytes.len();
        loop {
            bytes.truncate(start);
            let limit = MAX_ROW_BYTES as u64 + 2;
            let n = (&mut self.input).take(limit).read_until(b'\n', bytes).map_err(Error::io(&self.parser.path))?;
            if n == 0 {
                return Ok(false);
            }
            self.row += 1;
            if n > MAX_ROW_BYTES {
                return Err(self.too_long());
            }
            if !bytes[start..].iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    /// Appends the next element of the array; false behind the closing bracket.
    fn next_element(&mut self, bytes: &mut Vec<u8>) -> Result<bool> {
        let first = self.row == 0;
        self.row += 1;
        if first {
            self.input.consume(1);
        }
        let mut next = self.peek_token()?;
        if next == Some(b']') {
            self.input.consume(1);
            return match self.peek_token()? {
                None => Ok(false),
                Some(_) => Err(self.fault("text follows the closing bracket of the array")),
            };
        }
        if !first && next.is_some() {
            if next != Some(b',') {
                return Err(self.fault("expected a comma or the closing bracket before this element"));
            }
            self.input.consume(1);
            next = self.peek_token()?;
        }
        match next {
            Some(b'{') => self.copy_object(bytes).map(|()| true),
            Some(b']') => Err(self.fault("expected an element after the comma, found the closing bracket")),
            Some(byte) => Err(self.fault(format!("expected an object, found {}", kind_of_byte(byte)))),
            None => Err(self.fault("the file ends before the closing bracket of the array")),
        }
    }

    /// Copies one balanced object; whether it is valid JSON is the parser's business.
    fn copy_object(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let start = bytes.len();
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let chunk = self.input.fill_buf().map_err(Error::io(&self.parser.path))?;
            if chunk.is_empty() {
                return Err(self.fault("the file ends inside this element"));
            }
            let mut used = chunk.len();
            let mut whole = false;
            for (i, &byte) in chunk.iter().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    b'{' | b'[' if !in_string => depth += 1,
                    b'}' | b']' if !in_string => {
                        depth -= 1;
                        if depth == 0 {
                            (used, whole) = (i + 1, true);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            bytes.extend_from_slice(&chunk[..used]);
            self.input.consume(used);
            if bytes.len() - start > MAX_ROW_BYTES {
                return Err(self.too_long());
            }
            if whole {
                return Ok(());
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Row>> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let found = self.next_raw(&mut bytes)?;
        let row = found.map(|row| Ok((row, self.parser.parse(row, &bytes)?))).transpose();
        self.bytes = bytes;
        row
    }
}

impl Iterator for RowReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.advance().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// What a JSON value is, with its article, for error texts.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn kind_of_byte(byte: u8) -> &'static str {
    match byte {
        b'"' => "a string",
        b'[' => "an array",
        b'n' => "null",
        b't' | b'f' => "a boolean",
        b'-' | b'0'..=b'9' => "a number",
        _ => "something that is not JSON",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> (Vec<u64>, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, text).unwrap();
        let (mut rows, mut error) = (Vec::new(), None);
        match RowReader::open(&path) {
            Ok(reader) => {
                for item in reader {
                    match item {
                        Ok((n, map)) => {
                            assert!(map.contains_key("a"));
                            rows.push(n);
                        }
                        Err(e) => error = Some(e),
                    }
                }
            }
            Err(e) => error = Some(e),
        }
        (rows, error.map(|e| e.to_string().replace(&path.display().to_string(), "d")))
    }

    fn fault(text: &str) -> String {
        read(text).1.unwrap()
    }

    #[test]
    fn lines_keep_their_numbers_through_blanks_and_marks() {
        assert_eq!(read("{\"a\":1}\n\n  \r\n{\"a\":2}\r\n{\"a\":3}"), (vec![1, 4, 5], None));
        assert_eq!(read("\u{feff}\n {\"a\":1}\n"), (vec![2], None));
        assert_eq!(read(""), (vec![], None));
    }

    #[test]
    fn an_array_is_split_at_its_elements() {
        let odd = r#"[ {"a":"}],{\"\\"} ,{"a":{"b":[{}]}},
            {"a":"é{"}]"#;
        assert_eq!(read(odd), (vec![1, 2, 3], None));
        assert_eq!(read(" \n[]\n"), (vec![], None));
        // Elements that straddle the reader's buffer.
        let wide = format!("[{}]", vec![format!("{{\"a\":\"{}\"}}", "x\\\"}".repeat(5000)); 9].join(","));
        assert_eq!(read(wide), ((1..=9).collect(), None));
    }

    #[test]
    fn a_fault_names_its_row() {
        assert_eq!(fault("{\"a\":1}\n\n{\"a\":}\n"), "d: row 3: not valid JSON: expected value (column 6)");
        assert_eq!(fault("{\"a\":1}\n7\n"), "d: row 2: expected an object, found a number");
        assert_eq!(fault("[{\"a\":1},[2]]"), "d: row 2: expected an object, found an array");
        assert_eq!(fault("[{\"a\":1},]"), "d: row 2: expected an element after the comma, found the closing bracket");
        assert_eq!(fault("[{\"a\":1}"), "d: row 2: the file ends before the closing bracket of the array");
        assert_eq!(fault("[{\"a\":1},{\"a\""), "d: row 2: the file ends inside this element");
        assert_eq!(
            fault("[{\"a\":1} {\"a\":1}]"),
            "d: row 2: expected a comma or the closing bracket before this element"
        );
        assert!(fault("[{\"a\":1}] x").contains("text follows"));
        assert!(fault("[\n{\"a\":1},\n{\"a\"\n 1}]").contains("line 2, column 2 of the element"));
        assert_eq!(read([0xFF, 0xFE, b'{', 0]).1.unwrap(), "d: row 1: the file is in UTF-16, expected UTF-8");
        assert!(read(b"{\"a\":\"\xff\"}").1.unwrap().starts_with("d: row 1: not valid JSON"));
    }
}
