//! Rows of JSONL, or of one JSON array of objects, plain or compressed. Which it is is told by the first bytes; an
//! array may be the value of a key of one object, as exporters write it (see `wrapped.rs`).

use std::io::{BufRead, Read};
use std::path::Path;

use super::raw::{RawRows, RowParser, MAX_ROW_BYTES};
use super::{compressed, wrapped};
use crate::error::{Error, Result};

/// Cuts rows off a file.
pub(crate) struct JsonRows {
    parser: RowParser,
    input: compressed::Bytes,
    row: u64,
    /// The array stands in an object, whose rest comes behind it.
    wrapped: bool,
    /// The last line was too long; whether its rest is still ahead.
    overlong: Option<bool>,
}

/// What files of other kinds begin with, and what they are.
const OTHERS: [(&[u8], &str); 8] = [
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself first (git lfs pull)"),
    (b"BZh", "compressed by bzip2: decompress it first (bunzip2)"),
    (&[0xFD, b'7', b'z', b'X', b'Z'], "compressed by xz: decompress it first (unxz)"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"PAR1", "Parquet: its name must end in .parquet"),
    (b"SQLite format 3", "an SQLite database: export the table as JSONL"),
    (b"ARROW1", "an Arrow file: save it as JSONL or Parquet"),
    (b"%PDF", "a PDF: export its text"),
];

impl RawRows for JsonRows {
    fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>> {
        let found = if self.parser.array { self.next_element(bytes)? } else { self.next_line(bytes)? };
        Ok(found.then_some(self.row))
    }

    fn goes_on(&self) -> bool {
        self.overlong.is_some()
    }
}

impl JsonRows {
    /// Opens a file and tells its kind.
    pub fn open(path: &Path) -> Result<JsonRows> {
        let input = compressed::open(path).map_err(Error::io(path))?;
        let mut reader = JsonRows { parser: RowParser::new(path), input, row: 0, wrapped: false, overlong: None };
        let start = reader.fill()?;
        if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
            let reason = format!("the file is {what}");
            return Err(Error::io(path)(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason)));
        }
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
                b'{' => {
                    if let Some((key, at)) = wrapped::find(reader.fill()?) {
                        reader.input.consume(at);
                        (reader.parser.array, reader.wrapped, reader.row) = (true, true, 0);
                        reader.parser.rows_at = Some(key);
                    }
                    break;
                }
                _ => break,
            }
            reader.input.consume(1);
        }
        Ok(reader)
    }

    pub fn parser(&self) -> &RowParser {
        &self.parser
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
        if self.overlong.take() == Some(true) {
            self.skip_line()?;
        }
        loop {
            bytes.truncate(start);
            let limit = MAX_ROW_BYTES as u64 + 2;
            let n = (&mut self.input).take(limit).read_until(b'\n', bytes).map_err(Error::io(&self.parser.path))?;
            if n == 0 {
                return Ok(false);
            }
            self.row += 1;
            if n > MAX_ROW_BYTES {
                self.overlong = Some(bytes.last() != Some(&b'\n'));
                return Err(self.too_long());
            }
            if !bytes[start..].iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    /// Goes behind the next line end.
    fn skip_line(&mut self) -> Result<()> {
        loop {
            let chunk = self.fill()?;
            let (end, used) = match chunk.iter().position(|&b| b == b'\n') {
                Some(at) => (true, at + 1),
                None => (chunk.is_empty(), chunk.len()),
            };
            self.input.consume(used);
            if end {
                return Ok(());
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
            if self.wrapped {
                self.skip_rest()?;
            }
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
            Some(b'{' | b'[') => self.copy_nested(bytes).map(|()| true),
            Some(b']') => Err(self.fault("expected an element after the comma, found the closing bracket")),
            Some(b'}' | b',' | b':') => Err(self.fault("expected an object, found something that is not JSON")),
            Some(byte) => self.copy_plain(byte, bytes).map(|()| true),
            None => Err(self.fault("the file ends before the closing bracket of the array")),
        }
    }

    /// Goes behind the object that the array stood in.
    fn skip_rest(&mut self) -> Result<()> {
        let (mut depth, mut in_string, mut escaped) = (1usize, false, false);
        while depth > 0 {
            let Some(byte) = self.peek()? else {
                return Err(self.fault("the file ends inside the object that holds the rows"));
            };
            self.input.consume(1);
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Copies a string, a number or a word, which the parser will not take for a row.
    fn copy_plain(&mut self, first: u8, bytes: &mut Vec<u8>) -> Result<()> {
        let (text, start, mut escaped) = (first == b'"', bytes.len(), false);
        while let Some(byte) = self.peek()? {
            if !text && (byte.is_ascii_whitespace() || b",]}".contains(&byte)) {
                return Ok(());
            }
            bytes.push(byte);
            self.input.consume(1);
            if text && byte == b'"' && !escaped && bytes.len() - start > 1 {
                return Ok(());
            }
            escaped = byte == b'\\' && !escaped;
            if bytes.len() - start > MAX_ROW_BYTES {
                return Err(self.too_long());
            }
        }
        Err(self.fault("the file ends inside this element"))
    }

    /// Copies one balanced object or array; whether it is valid JSON is the parser's business.
    fn copy_nested(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let start = bytes.len();
        // The brackets that are open: two that do not match would swallow the elements behind them.
        let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
        loop {
            let chunk = self.input.fill_buf().map_err(Error::io(&self.parser.path))?;
            if chunk.is_empty() {
                return Err(self.fault("the file ends inside this element"));
            }
            let mut used = chunk.len();
            let (mut whole, mut matching) = (false, true);
            for (i, &byte) in chunk.iter().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    b'{' | b'[' if !in_string => open.push(byte),
                    b'}' | b']' if !in_string => {
                        // In ASCII the closing bracket comes two behind the opening one.
                        matching = open.pop() == Some(byte - 2);
                        if open.is_empty() || !matching {
                            (used, whole) = (i + 1, true);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            if !matching {
                return Err(self.fault("not valid JSON: the brackets of this element do not match"));
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
}

#[cfg(test)]
mod tests {
    use crate::data::rows::RowReader;

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
    fn an_array_in_an_object_is_found() {
        for wrapped in [
            "{\"data\": [{\"a\":1},{\"a\":2}]}",
            "{\n  \"version\": \"1.1\", \"info\": {\"x\": [1, \"]}\"]},\n  \"rows\": [\n {\"a\":1},\n {\"a\":2}\n],\n \"more\": [3]\n}\n",
        ] {
            assert_eq!(read(wrapped), (vec![1, 2], None), "{wrapped}");
        }
        // Rows whose own keys are lists stay rows.
        assert_eq!(read("{\"a\":1,\"data\": [{\"b\":1}]}\n{\"a\":2,\"data\": []}\n"), (vec![1, 2], None));
        assert_eq!(read("{\"a\":[{\"b\":1}]}\n"), (vec![1], None));
        assert_eq!(fault("{\"data\": [{\"a\":1}]"), "d: row 2: the file ends inside the object that holds the rows");
        assert_eq!(fault("{\"data\": [{\"a\":1}]} {}"), "d: row 1: not valid JSON: trailing characters (column 21)");
    }

    #[test]
    fn compressed_rows_are_read_and_other_kinds_are_named() {
        let zstd = |text: &str| {
            ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
        };
        let rows = "{\"a\":1}\n{\"a\":2}\n";
        assert_eq!(read(zstd(rows)), (vec![1, 2], None));
        assert_eq!(read(zstd("[{\"a\":1}]")), (vec![1], None));
        let whole = zstd(&rows.repeat(100));
        assert!(read(&whole[..whole.len() / 2]).1.is_some(), "a file that is cut off is read as if it were whole");
        let found = read(b"PK\x03\x04...").1.unwrap();
        assert!(found.ends_with("the file is a ZIP archive: unpack it first"), "{found}");
        assert!(read("version https://git-lfs.github.com/spec/v1\noid").1.unwrap().contains("git lfs pull"));
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
        let swallowed = fault("[{\"a\":[1}, {\"a\":2}, {\"a\":3]}]");
        assert_eq!(swallowed, "d: row 1: not valid JSON: the brackets of this element do not match");
        assert!(fault("[\n{\"a\":1},\n{\"a\"\n 1}]").contains("line 2, column 2 of the element"));
        assert_eq!(read([0xFF, 0xFE, b'{', 0]).1.unwrap(), "d: row 1: the file is in UTF-16, expected UTF-8");
        assert!(read(b"{\"a\":\"\xff\"}").1.unwrap().starts_with("d: row 1: not valid JSON"));
    }
}
