//! Files of text, each a row with the key `text`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::raw::{RawRows, RowParser, MAX_ROW_BYTES};
use crate::error::{Error, Result};

/// Reads the files of a list.
pub(crate) struct TextRows {
    parser: RowParser,
    files: Arc<Vec<PathBuf>>,
    row: u64,
    text: Vec<u8>,
}

#[derive(Serialize)]
struct Row<'a> {
    text: &'a str,
}

impl TextRows {
    pub fn new(parser: RowParser, files: Arc<Vec<PathBuf>>) -> TextRows {
        TextRows { parser, files, row: 0, text: Vec::new() }
    }
}

impl RawRows for TextRows {
    fn next_raw(&mut self, bytes: &mut Vec<u8>) -> Result<Option<u64>> {
        let Some(path) = self.files.get(self.row as usize) else { return Ok(None) };
        self.row += 1;
        self.text.clear();
        self.text.shrink_to(1 << 20);
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(MAX_ROW_BYTES as u64 + 1).read_to_end(&mut self.text).map_err(Error::io(path))?;
        let fault = |reason: String| self.parser.fault(self.row, reason);
        if self.text.len() > MAX_ROW_BYTES {
            return Err(fault(format!("the file is longer than {} MiB, and it is one row", MAX_ROW_BYTES >> 20)));
        }
        let text = std::str::from_utf8(&self.text)
            .map_err(|e| fault(format!("the text is not in UTF-8 (byte {})", e.valid_up_to() + 1)))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        serde_json::to_writer(bytes, &Row { text }).map_err(|e| fault(e.to_string()))?;
        Ok(Some(self.row))
    }

    fn goes_on(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::data::rows::RowReader;

    #[test]
    fn each_file_is_a_row_and_a_fault_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a.txt"), "\u{feff}one \"line\"\r\nand é\n").unwrap();
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("b/c.md"), "# two").unwrap();
        let rows: Vec<_> = RowReader::open(dir.path()).unwrap().map(Result::unwrap).collect();
        let texts: Vec<_> = rows.iter().map(|(n, r)| (*n, r["text"].as_str().unwrap(), r.len())).collect();
        assert_eq!(texts, [(1, "one \"line\"\r\nand é\n", 1), (2, "# two", 1)]);
        assert_eq!(RowReader::open(at("b/c.md")).unwrap().count(), 1);

        std::fs::write(at("b/c.md"), b"ok\xff").unwrap();
        let e = RowReader::open(dir.path()).unwrap().nth(1).unwrap().unwrap_err().to_string();
        assert_eq!(e, format!("{}: row 2: the text is not in UTF-8 (byte 3)", at("b/c.md").display()));
    }
}
