//! Building a token store. Blocks of rows go round: each worker cuts one off the file, tokenises it and hands it
//! over; the thread that asked for the store writes them in order and gives them back. So memory is that of a
//! few blocks, no worker waits for the file or the disk, and the result does not depend on their number.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use super::index::{Header, Record, HEADER_BYTES};
use super::pipeline::{Blocks, Made, MadeExample};
use super::request::StoreRequest;
use super::source_hash::{changed, Stamp};
use super::tokenizer::TARGET;
use crate::data::rows::RowReader;
use crate::data::text::chat::ChatFormat;
use crate::data::text::columns::invalid;
use crate::data::text::Template;
use crate::disk::{sync_file, writing, Draft};
use crate::error::{Error, Result};

/// How long a stop may go unheard while no block is done.
const STOP_ASKED: Duration = Duration::from_millis(100);

/// Both files, whole and synced, under their temporary names.
pub(crate) struct Built {
    pub tokens: Draft,
    pub index: Draft,
}

pub(crate) fn build(request: &StoreRequest<'_>, format: &ChatFormat, key: &[u8; 32], stamp: &Stamp) -> Result<Built> {
    let data = request.data;
    let name = blake3::Hash::from_bytes(*key).to_hex();
    let mut writer = Writer::new(&request.cache_dir.join(format!("{name}.store")), *key)?;
    // The first row may decide the shape of all, so it is read ahead of them.
    if let Some(first) = RowReader::open(data)?.next() {
        let (row, object) = first?;
        let template = Template::resolve(request.options, format, data, row, &object)?;
        let blocks = Blocks { data, tokenizer: request.tokenizer, max_length: request.max_length, template: &template };
        blocks.run(request.threads.max(1), STOP_ASKED, request.stop, |made| writer.add(data, made))?;
    }
    if Stamp::of(data)? != *stamp {
        return Err(changed(data));
    }
    writer.finish(data)
}

/// Both files while they are written. The header is written last, over the room left for it.
struct Writer {
    tokens: (Draft, BufWriter<File>),
    index: (Draft, BufWriter<File>),
    header: Header,
    content: blake3::Hasher,
    records: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(beside: &Path, key: [u8; 32]) -> Result<Writer> {
        let open = |size| -> Result<_> {
            let (draft, file) = Draft::create(beside)?;
            Ok((draft, BufWriter::with_capacity(size, file)))
        };
        let tokens = open(1 << 18)?;
        let mut index = open(1 << 16)?;
        index.1.write_all(&[0; HEADER_BYTES]).map_err(writing(index.0.target(), Some(HEADER_BYTES as u64)))?;
        Ok(Writer {
            tokens,
            index,
            header: Header { key, ..Default::default() },
            content: blake3::Hasher::new(),
            records: blake3::Hasher::new(),
            bytes: Vec::new(),
        })
    }

    fn add(&mut self, data: &Path, made: &Made) -> Result<()> {
        let (mut examples, mut tokens) = (made.examples.iter(), &made.tokens[..]);
        for row in &made.rows {
            self.header.counts.count(row.cut, row.empty, row.split, row.examples as u64);
            for example in examples.by_ref().take(row.examples) {
                let (own, rest) = tokens.split_at(example.tokens);
                self.example(data, own, row.row, example)?;
                tokens = rest;
            }
        }
        Ok(())
    }

    fn example(&mut self, data: &Path, tokens: &[u32], row: u64, made: &MadeExample) -> Result<()> {
        let header = &mut self.header;
        if header.examples == u64::from(u32::MAX) {
            return Err(invalid(data, row, "more than 2^32 - 1 examples"));
        }
        self.bytes.clear();
        for token in tokens {
            self.bytes.extend_from_slice(&token.to_le_bytes());
            header.max_id = header.max_id.max(token & !TARGET);
        }
        self.tokens.1.write_all(&self.bytes).map_err(writing(self.tokens.0.target(), Some(self.bytes.len() as u64)))?;
        self.content.update(&made.text_hash);
        self.content.update(&(tokens.len() as u64).to_le_bytes());
        self.content.update(&self.bytes);
        let (n_tokens, supervised) = (tokens.len() as u32, made.supervised);
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

    fn finish(mut self, data: &Path) -> Result<Built> {
        if self.header.examples == 0 {
            return Err(Error::NothingToTrain { reason: format!("{}: {}", data.display(), self.header.counts) });
        }
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
