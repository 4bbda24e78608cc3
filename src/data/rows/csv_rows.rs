//! Records of CSV or TSV as rows: columns by the names in the first record, every value a string. Where a `.csv` has no
//! comma in that record, it may be parted by semicolons, as spreadsheets write it where the comma is decimal, by tabs or
//! by bars.

use std::io::{Cursor, Error as IoError, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};

use super::compressed;
use super::raw::{RawRows, RowParser, MAX_ROW_BYTES};
use crate::error::{Error, Result};

/// What the library reads ahead.
const BUFFER: usize = 1 << 16;

/// So much of a file is looked at for what parts its values.
const HEAD: u64 = 1 << 16;

/// What parts the values of the first record: another than expected where that parts none.
fn delimiter_of(head: &[u8], expected: u8) -> u8 {
    let parts = |delimiter: u8| {
        let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(head);
        reader.byte_headers().map_or(0, |names| names.len())
    };
    if expected != b',' || parts(expected) > 1 {
        return expected;
    }
    b";\t|".iter().copied().max_by_key(|d| (parts(*d), *d == b';')).filter(|d| parts(*d) > 1).unwrap_or(expected)
}

/// Reads the records of a file.
pub(crate) struct CsvRows {
    parser: RowParser,
    reader: Reader<Limited>,
    left: Arc<AtomicUsize>,
    /// The columns, as JSON.
    columns: Vec<String>,
    record: StringRecord,
    row: u64,
    /// The last error was of one record.
    goes_on: bool,
}

/// A file of which only so many bytes are handed out: a quote that is never closed would otherwise be read into
/// memory with all that follows it.
struct Limited {
    file: Box<dyn Read + Send>,
    left: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        match self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(n)) {
            Ok(_) => Ok(n),
            Err(_) => Err(IoError::other(TooLong)),
        }
    }
}

#[derive(Debug)]
struct TooLong;

impl std::error::Error for TooLong {}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the row is longer than {} MiB; is a quote left open?", MAX_ROW_BYTES >> 20)
    }
}

impl CsvRows {
    /// Opens a file and reads its columns.
    pub fn open(path: &Path, delimiter: u8) -> Result<CsvRows> {
        let mut file = compressed::open(path).map_err(Error::io(path))?;
        let mut head = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut head).map_err(Error::io(path))?;
        if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
            return Err(RowParser::new(path).fault(1, "the file is in UTF-16, expected UTF-8"));
        }
        let found = delimiter_of(&head, delimiter);
        if found != delimiter {
            log::info!("{}: its values are parted by {:?}", path.display(), char::from(found));
        }
        let file = Box::new(Cursor::new(head).chain(file));
        let left = Arc::new(AtomicUsize::new(MAX_ROW_BYTES));
        let reader = ReaderBuilder::new()
            .delimiter(found)
            .buffer_capacity(BUFFER)
            .from_reader(Limited { file, left: left.clone() });
        let parser = RowParser::new(path);
        let mut rows =
            CsvRows { parser, reader, left, columns: Vec::new(), record: StringRecord::new(), row: 0, goes_on: false };
        let names = rows.reader.headers().cloned().map_err(|e| rows.fault(e, 1))?;
        for (i, name) in names.iter().enumerate() {
            if names.iter().take(i).any(|n| n == name) {
                return Err(rows.parser.fault(1, format!("two columns have the name {name:?}")));
            }
            rows.columns.push(serde_json::Value::from(name).to_string());
        }
        Ok(rows)
    }

    fn fault(&self, e: csv::Error, row: u64) -> Error {
        let line = |p: &Option<csv::Position>| p.as_ref().map_or(0, csv::Position::line);
        match e.into_kind() {
            ErrorKind::UnequalLengths { pos, expected_len, len } => {
                let reason = format!("expected {expected_len} values, found {len} (from line {} on)", line(&pos));
                self.parser.fault(row, reason)
            }
            ErrorKind::Utf8 { pos, err } => {
                let column = err.field() + 1;
                self.parser.fault(row, format!("value {column} is not in UTF-8 (from line {} on)", line(&pos)))
            }
            ErrorKind::Io(e) if e.get_ref().is_some_and(|e| e.is::<TooLong>()) => self.parser.fault(row, e.to_string()),
            ErrorKind::Io(e) => Error::io(&self.parser.path)(e),
            other => self.parser.fault(row, format!("{other:?}")),
        }
    }
}

impl RawRows for CsvRows {
    fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>> {
        self.left.store(MAX_ROW_BYTES, Relaxed);
        let line = self.reader.position().line();
        match self.reader.read_record(&mut self.record) {
            Ok(false) => return Ok(None),
            Ok(true) => self.row += 1,
            Err(e) => {
                self.row += 1;
                let pos = match e.kind() {
                    ErrorKind::UnequalLengths { pos, .. } | ErrorKind::Utf8 { pos, .. } => pos.as_ref(),
                    _ => None,
                };
                // Over several lines, a quote is left open: many records may be in it.
                let begins = pos.map_or(line, |pos| pos.line().max(line));
                self.goes_on = pos.is_some() && self.reader.position().line() <= begins + 1;
                return Err(self.fault(e, self.row));
            }
        }
        for (i, (column, value)) in self.columns.iter().zip(&self.record).enumerate() {
            bytes.push(if i == 0 { b'{' } else { b',' });
            bytes.extend_from_slice(column.as_bytes());
            bytes.push(b':');
            serde_json::to_writer(&mut *bytes, value).map_err(|e| self.parser.fault(self.row, e.to_string()))?;
        }
        bytes.push(b'}');
        Ok(Some(self.row))
    }

    fn goes_on(&self) -> bool {
        self.goes_on
    }
}

#[cfg(test)]
mod tests {
    use crate::data::rows::RowReader;

    fn read(name: &str, text: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let text = |e: crate::error::Error| e.to_string().replace(&path.display().to_string(), "d");
        let rows = RowReader::open(&path).map_err(text)?;
        rows.map(|r| r.map(|(n, row)| format!("{n} {}", serde_json::to_string(&row).unwrap())).map_err(text)).collect()
    }

    #[test]
    fn values_are_strings_by_column() {
        let text = "\u{feff}q,\"a, b\"\r\n1,\"say \"\"x\"\"\nthen y\"\r\n,é\r\n";
        let rows = [r#"1 {"q":"1","a, b":"say \"x\"\nthen y"}"#, r#"2 {"q":"","a, b":"é"}"#];
        assert_eq!(read("d.csv", text).unwrap(), rows);
        assert_eq!(read("d.tsv", "q\ta\n1, 2\t3\n").unwrap(), [r#"1 {"q":"1, 2","a":"3"}"#]);
        assert_eq!(read("d.csv", "").unwrap(), [""; 0]);
        assert_eq!(read("d.csv", "a,b\n").unwrap(), [""; 0]);
        // As spreadsheets write them.
        let parted = [r#"1 {"q":"1,5","a":"x; y"}"#];
        assert_eq!(read("d.csv", "q;a\n1,5;\"x; y\"\n").unwrap(), parted);
        assert_eq!(read("d.csv", "\u{feff}q\ta\n1,5\tx; y\n").unwrap(), parted);
        assert_eq!(read("d.tsv", "a|b\n1|2\n").unwrap(), [r#"1 {"a|b":"1|2"}"#]);
        assert_eq!(read("d.csv", "text\na; b\n").unwrap(), [r#"1 {"text":"a; b"}"#]);
        assert_eq!(read("d.csv", "\"a;b\",c\n1,2\n").unwrap(), [r#"1 {"a;b":"1","c":"2"}"#]);
    }

    #[test]
    fn a_fault_names_its_row() {
        let fault = |text: &[u8]| read("d.csv", text).unwrap_err();
        assert_eq!(fault(b"a,b\n1,2\n\n3\n"), "d: row 2: expected 2 values, found 1 (from line 3 on)");
        assert_eq!(fault(b"a,b\n1,2,3\n"), "d: row 1: expected 2 values, found 3 (from line 2 on)");
        assert_eq!(fault(b"a,b\n1,\xff\n"), "d: row 1: value 2 is not in UTF-8 (from line 2 on)");
        assert_eq!(fault(b"\xff\xfea\0"), "d: row 1: the file is in UTF-16, expected UTF-8");
        assert_eq!(fault(b"a,a\n"), "d: row 1: two columns have the name \"a\"");
        let open = [b"a\n1\n\"2\n".as_slice(), &b"x\n".repeat(40 << 20)].concat();
        assert_eq!(fault(&open), "d: row 2: the row is longer than 64 MiB; is a quote left open?");
    }
}
