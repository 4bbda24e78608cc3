//! The two files of one store, mapped.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::index::{Header, Record, HEADER_BYTES, RECORD_BYTES};
use super::skipped::SkippedRows;
use crate::config::DataOptions;
use crate::data::text::chat::{ChatFacts, ChatFormat};
use crate::data::text::Template;
use crate::error::Result;

/// Every example of one file or folder.
#[derive(Debug)]
pub(crate) struct Part {
    tokens: Mmap,
    index: Mmap,
    pub header: Header,
    pub source: PathBuf,
    pub options: DataOptions,
    pub format: ChatFormat,
    /// How conversations are written; `None` where the rows are none.
    pub chat: Option<ChatFacts>,
    /// Rows that were left out, by reason.
    pub skipped: Vec<SkippedRows>,
}

impl Part {
    /// Notes how conversations are written, which the first row's shape tells.
    pub fn note_chat(&mut self) -> Result<()> {
        let template = Template::of_rows(&self.options, &self.format, &self.source)?;
        self.chat = template.and_then(|t| t.chat_facts());
        Ok(())
    }

    /// Number of examples.
    pub fn len(&self) -> u32 {
        self.header.examples as u32
    }

    /// The `i`-th record; `i` is below [`Part::len`].
    pub fn record(&self, i: u32) -> Record {
        Record::parse(&self.index[HEADER_BYTES + i as usize * RECORD_BYTES..])
    }

    /// The tokens of a record of this part, as bytes.
    pub fn bytes(&self, record: &Record) -> &[u8] {
        let start = record.offset as usize * 4;
        &self.tokens[start..start + record.tokens as usize * 4]
    }

    /// The rows that have an example, in order: number, and examples.
    pub fn rows(&self) -> impl Iterator<Item = (u64, Range<u32>)> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            let row = (first < self.len()).then(|| self.record(first).source_row)?;
            while next < self.len() && self.record(next).source_row == row {
                next += 1;
            }
            Some((row, first..next))
        })
    }

    /// Reads the tokens through and compares them with the header's hash.
    pub fn verify(&self) -> bool {
        let mut hasher = blake3::Hasher::new();
        for i in 0..self.len() {
            let record = self.record(i);
            hasher.update(&record.text_hash);
            hasher.update(&u64::from(record.tokens).to_le_bytes());
            hasher.update(self.bytes(&record));
        }
        *hasher.finalize().as_bytes() == self.header.content
    }
}

/// Where the files of a store lie.
pub(crate) struct Paths {
    pub tokens: PathBuf,
    pub index: PathBuf,
}

impl Paths {
    /// Of the store of this key.
    pub fn new(cache_dir: &Path, key: &[u8; 32]) -> Paths {
        let name = blake3::Hash::from_bytes(*key).to_hex();
        Paths { tokens: cache_dir.join(format!("{name}.tokens")), index: cache_dir.join(format!("{name}.index")) }
    }

    /// Maps both files after checking that every record lies inside the tokens, so that no read
    /// through the maps can leave them.
    pub fn open(
        &self,
        key: &[u8; 32],
        source: &Path,
        options: &DataOptions,
        format: &ChatFormat,
    ) -> std::result::Result<Part, String> {
        let text = |e: std::io::Error| e.to_string();
        let index = File::open(&self.index).map_err(text)?;
        let tokens = File::open(&self.tokens).map_err(text)?;
        let mut reader = BufReader::with_capacity(1 << 16, &index);
        let mut bytes = [0; HEADER_BYTES];
        reader.read_exact(&mut bytes).map_err(|_| "it is shorter than its header")?;
        let header = Header::parse(&bytes)?;
        if header.key != *key {
            return Err("it belongs to other data".into());
        }
        if header.examples == 0 || header.examples > u64::from(u32::MAX) {
            return Err("its number of examples is out of range".into());
        }
        let behind = HEADER_BYTES as u64 + header.examples * RECORD_BYTES as u64;
        if behind.checked_add(header.skipped_bytes) != Some(index.metadata().map_err(text)?.len()) {
            return Err("its length does not fit its header".into());
        }
        if header.tokens.checked_mul(4) != Some(tokens.metadata().map_err(text)?.len()) {
            return Err("the length of the tokens does not fit the header".into());
        }
        let mut hasher = blake3::Hasher::new();
        let mut next = 0u64;
        for _ in 0..header.examples {
            let mut bytes = [0; RECORD_BYTES];
            reader.read_exact(&mut bytes).map_err(text)?;
            hasher.update(&bytes);
            let record = Record::parse(&bytes);
            if record.offset != next {
                return Err("a record does not follow the one before".into());
            }
            next += u64::from(record.tokens);
        }
        let mut skipped = Vec::new();
        reader.read_to_end(&mut skipped).map_err(text)?;
        hasher.update(&skipped);
        if next != header.tokens || *hasher.finalize().as_bytes() != header.records {
            return Err("the records do not match their hash".into());
        }
        let skipped = match skipped.as_slice() {
            [] => Vec::new(),
            list => serde_json::from_slice(list).map_err(|e| format!("its skipped rows: {e}"))?,
        };
        // SAFETY: the files have names of their own and are replaced, never written to in place,
        // by this library; a foreign program that cuts them short is outside its reach.
        let (tokens, index) = unsafe { (Mmap::map(&tokens).map_err(text)?, Mmap::map(&index).map_err(text)?) };
        let (source, options, format) = (source.to_path_buf(), options.clone(), format.clone());
        Ok(Part { tokens, index, header, source, options, format, chat: None, skipped })
    }
}
