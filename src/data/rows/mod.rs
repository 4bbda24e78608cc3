//! Rows of a file or folder as JSON objects, read as a stream: memory is that of one row, whatever the size of
//! the file. What is no JSON becomes JSON as it is read, so that workers parse one language.

mod compressed;
mod csv_rows;
pub(crate) mod files;
mod json_rows;
#[cfg(feature = "tables")]
mod parquet_rows;
pub(crate) mod raw;
mod splits;
pub(crate) mod strict;
mod texts;
mod wrapped;

use std::path::Path;

use serde_json::{Map, Value};

use self::files::RowFormat;
use self::json_rows::JsonRows;
use self::raw::{RawRows, RowParser};
use self::texts::TextRows;
use crate::error::{Error, Result};

/// A row: its number from 1 (line of JSONL, element of an array, record of a table, text of a folder), and its
/// object.
pub type Row = (u64, Map<String, Value>);

/// A row that was cut off its file.
pub(crate) struct CutRow {
    /// Its number.
    pub row: u64,
    /// Why it cannot be read, where that says nothing of those behind it; nothing was appended then.
    pub fault: Option<Error>,
}

/// Streaming reader of a file or folder of rows (see `files.rs` for the kinds); an iterator of [`Row`]s that ends
/// at the first error. Blank lines and a UTF-8 byte order mark are skipped.
pub struct RowReader {
    parser: RowParser,
    input: Box<dyn RawRows>,
    bytes: Vec<u8>,
    done: bool,
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").field("parser", &self.parser).finish_non_exhaustive()
    }
}

impl RowReader {
    /// Opens a file or a folder of texts.
    ///
    /// # Errors
    /// [`Error::Io`], also for a kind of file that this build does not read; [`Error::DataInvalid`] (row 1) for
    /// text in UTF-16 and for a table without columns of distinct names.
    pub fn open(path: impl AsRef<Path>) -> Result<RowReader> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(Error::io(path))?;
        if !meta.is_file() && !meta.is_dir() {
            // A pipe can be read once, and rows are read several times: the first one, those to show, all.
            let reason = "expected a file or a folder: what comes by a pipe has to be written to a file first";
            return Err(Error::io(path)(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason)));
        }
        let mut parser = RowParser::new(path);
        let input: Box<dyn RawRows> = match RowFormat::of(path)? {
            RowFormat::Json => {
                let rows = JsonRows::open(path)?;
                parser = rows.parser().clone();
                Box::new(rows)
            }
            RowFormat::Texts(files) => {
                parser.files = Some(files.clone());
                Box::new(TextRows::new(parser.clone(), files))
            }
            RowFormat::Csv(delimiter) => Box::new(self::csv_rows::CsvRows::open(path, delimiter)?),
            #[cfg(feature = "tables")]
            RowFormat::Parquet => Box::new(self::parquet_rows::ParquetRows::open(path)?),
            #[cfg(not(feature = "tables"))]
            RowFormat::Parquet => {
                let reason = "Parquet is read by builds with the feature `tables` (cargo build --features tables)";
                return Err(Error::io(path)(std::io::Error::new(std::io::ErrorKind::Unsupported, reason)));
            }
        };
        Ok(RowReader { parser, input, bytes: Vec::new(), done: false })
    }

    pub(crate) fn parser(&self) -> &RowParser {
        &self.parser
    }

    /// Appends the JSON of the next row; `None` at the end. Not to be called again after an error.
    pub(crate) fn next_cut(&mut self, bytes: &mut Vec<u8>) -> Result<Option<CutRow>> {
        let start = bytes.len();
        match self.input.next_raw(bytes) {
            Ok(found) => Ok(found.map(|row| CutRow { row, fault: None })),
            Err(fault @ Error::DataInvalid { row, .. }) if self.input.goes_on() => {
                bytes.truncate(start);
                Ok(Some(CutRow { row, fault: Some(fault) }))
            }
            Err(e) => Err(e),
        }
    }

    fn advance(&mut self) -> Result<Option<Row>> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let row = match self.next_cut(&mut bytes)? {
            None => None,
            Some(CutRow { fault: Some(e), .. }) => return Err(e),
            Some(CutRow { row, .. }) => Some((row, self.parser.parse(row, &bytes)?)),
        };
        self.bytes = bytes;
        Ok(row)
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
