//! Writing the two files of a store, example after example.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::index::{Header, Record, HEADER_BYTES};
use super::pipeline::{Made, MadeExample};
use super::skipped::Skips;
use super::tokenizer::TARGET;
use crate::data::text::columns::invalid;
use crate::disk::{sync_file, Draft};
use crate::error::{Error, Result};

/// Both files, whole and synced, under their temporary names.
pub(crate) struct Built {
    pub tokens: Draft,
    pub index: Draft,
}

/// Both files while they are written. The header is written last, over the room left for it.
pub(super) struct Writer {
    tokens: (Draft, BufWriter<File>),
    index: (Draft, BufWriter<File>),
    pub header: Header,
    pub skips: Skips,
    content: blake3::Hasher,
    records: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Writer {
    /// Two files beside this name.
    pub fn new(beside: &Path) -> Result<Writer> {
        let open = |size| -> Result<_> {
            let (draft, file) = Draft::create(beside)?;
            Ok((draft, BufWriter::with_capacity(size, file)))
        };
        let tokens = open(1 << 18)?;
        let mut index = open(1 << 16)?;
        index.1.write_all(&[0; HEADER_BYTES]).map_err(Error::io(index.0.target()))?;
        Ok(Writer {
            tokens,
            index,
            header: Header::default(),
            skips: Skips::default(),
            content: blake3::Hasher::new(),
            records: blake3::Hasher::new(),
            bytes: Vec::new(),
        })
    }

    /// Writes what a block of rows became.
    pub fn add(&mut self, data: &Path, made: &Made) -> Result<()> {
        made.bad.iter().for_each(|(row, why)| self.skips.add(*row, why));
        self.header.counts.skip(made.bad.len() as u64);
        let (mut examples, mut tokens) = (made.examples.iter(), &made.tokens[..]);
        for row in &made.rows {
            self.header.counts.count(row);
            for example in examples.by_ref().take(row.examples) {
                let (own, rest) = tokens.split_at(example.tokens);
                self.bytes.clear();
                own.iter().for_each(|token| self.bytes.extend_from_slice(&token.to_le_bytes()));
                let bytes = std::mem::take(&mut self.bytes);
                self.example(data, &bytes, row.row, example)?;
                (self.bytes, tokens) = (bytes, rest);
            }
        }
        Ok(())
    }

    /// Writes an example, whose tokens are given as they lie in the file.
    pub fn example(&mut self, data: &Path, bytes: &[u8], row: u64, made: &MadeExample) -> Result<()> {
        let header = &mut self.header;
        if header.examples == u64::from(u32::MAX) {
            return Err(invalid(data, row, "more than 2^32 - 1 examples"));
        }
        for token in bytes.chunks_exact(4) {
            let token = u32::from_le_bytes([token[0], token[1], token[2], token[3]]);
            header.max_id = header.max_id.max(token & !TARGET);
        }
        self.tokens.1.write_all(bytes).map_err(Error::io(self.tokens.0.target()))?;
        self.content.update(&made.text_hash);
        self.content.update(&(made.tokens as u64).to_le_bytes());
        self.content.update(bytes);
        let (n_tokens, supervised) = (made.tokens as u32, made.supervised);
        let record =
            Record { offset: header.tokens, tokens: n_tokens, supervised, source_row: row, text_hash: made.text_hash };
        let bytes = record.to_bytes();
        self.records.update(&bytes);
        self.index.1.write_all(&bytes).map_err(Error::io(self.index.0.target()))?;
        header.examples += 1;
        header.tokens += u64::from(n_tokens);
        header.supervised += u64::from(supervised);
        header.longest = header.longest.max(n_tokens);
        Ok(())
    }

    /// Ends both files, as the store of this key.
    pub fn finish(mut self, key: [u8; 32], data: &Path) -> Result<Built> {
        if self.header.examples == 0 {
            return Err(Error::NothingToTrain { reason: format!("{}: {}", data.display(), self.header.counts) });
        }
        if !self.skips.reasons.is_empty() {
            let list = serde_json::to_vec(&self.skips.reasons)
                .map_err(|e| Error::io(self.index.0.target())(std::io::Error::other(e)))?;
            self.index.1.write_all(&list).map_err(Error::io(self.index.0.target()))?;
            self.records.update(&list);
            self.header.skipped_bytes = list.len() as u64;
        }
        self.header.key = key;
        self.header.content = *self.content.finalize().as_bytes();
        self.header.records = *self.records.finalize().as_bytes();
        let header = self.header.to_bytes();
        let (tokens, index) = (self.tokens, self.index);
        sync(tokens.1, tokens.0.target())?;
        let (mut file, path) = (index.1, index.0.target());
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(Error::io(path))?;
        sync(file, path)?;
        Ok(Built { tokens: tokens.0, index: index.0 })
    }
}

fn sync(file: BufWriter<File>, path: &Path) -> Result<()> {
    let file = file.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    sync_file(&file, path)
}
