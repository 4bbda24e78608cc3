//! The token store: the examples of a data file as tokens on disk, mapped into memory.
//!
//! A store is named by what it was made from: the data's contents, the options, the tokenizer and
//! the limit of length. So an unchanged file is tokenised once, and two runs share the result. It
//! is two files: `<name>.tokens`, ids as u32 little endian with [`TARGET`] set where trained, and
//! `<name>.index`, see `index.rs`. Nothing is held in memory per example; both are read through
//! the maps. The index takes its place last, so a build that was killed leaves no store.
//!
//! A store of several files, or of a share of the rows, is a list of examples over the stores of the files: see
//! `select.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::counts::{SourceCounts, Totals};
pub use super::index::RowCounts;
use super::part::Part;
use super::selection::Selection;
use super::source_row::{file_and_row, ROW_BITS};
use super::tokenizer::TARGET;
use crate::config::DataOptions;
use crate::data::rows::{CutRow, RowReader};
use crate::data::text::chat::{ChatFacts, ChatFormat};
use crate::data::text::Rendered;
use crate::data::text::Template;
use crate::error::Result;

#[cfg(target_endian = "big")]
compile_error!("token stores are mapped as they lie on disk, in little endian");

/// One example of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example<'a> {
    /// Ids with [`TARGET`] set where the token is trained; never at position 0.
    pub tokens: &'a [u32],
    /// Row in the data file, from 1: line, element of an array, record, or file of a folder. Where there are
    /// several data files, the file stands in it too: see [`file_and_row`].
    pub source_row: u64,
    /// Name of the example by its contents ([`Rendered::hash`]).
    pub text_hash: [u8; 16],
    /// Trained tokens, ≥ 1.
    pub n_supervised: u32,
}

impl<'a> Example<'a> {
    /// The ids.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.tokens.iter().map(|t| t & !TARGET)
    }

    /// Whether the token at this position is trained; false beyond the end.
    pub fn is_target(&self, position: usize) -> bool {
        self.tokens.get(position).is_some_and(|t| t & TARGET != 0)
    }
}

/// A mapped token store.
#[derive(Debug)]
pub struct TokenStore {
    pub(crate) parts: Vec<Arc<Part>>,
    /// Which examples of the parts; without it, those of the only part.
    pub(crate) selection: Option<Selection>,
    pub(crate) sources: Vec<SourceCounts>,
    pub(crate) totals: Totals,
}

impl TokenStore {
    /// Every example of one file.
    pub(crate) fn of(mut part: Part) -> Result<TokenStore> {
        part.note_chat()?;
        let h = &part.header;
        let totals = Totals {
            examples: h.examples,
            tokens: h.tokens,
            supervised: h.supervised,
            longest: h.longest,
            max_id: h.max_id,
            counts: h.counts.clone(),
            content: h.content,
        };
        let source = SourceCounts {
            path: part.source.clone(),
            weight: 1.0,
            taken: h.counts.rows - h.counts.without_example(),
            rows: h.counts.clone(),
            skipped: part.skipped.clone(),
            held_out: 0,
            examples: h.examples,
        };
        Ok(TokenStore { parts: vec![Arc::new(part)], selection: None, sources: vec![source], totals })
    }

    /// How conversations are written; `None` where the rows are none.
    pub fn chat(&self) -> Option<&ChatFacts> {
        self.parts.iter().find_map(|p| p.chat.as_ref())
    }

    /// Number of examples; fits in u32.
    pub fn len(&self) -> usize {
        self.totals.examples as usize
    }

    /// Whether there is no example; a store that opened has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th example, in the order of the data files.
    ///
    /// # Panics
    /// When `i` is not below [`TokenStore::len`], as a slice does.
    pub fn example(&self, i: usize) -> Example<'_> {
        let (file, at) = self.place(i);
        let part = &self.parts[file];
        let record = part.record(at);
        // SAFETY: every bit pattern is a u32; `align_to` looks after alignment, and the map begins
        // on a page, so nothing is left over in front.
        let (head, tokens, _) = unsafe { part.bytes(&record).align_to::<u32>() };
        debug_assert!(head.is_empty() && tokens.len() == record.tokens as usize);
        let source_row = (file as u64) << ROW_BITS | record.source_row;
        Example { tokens, source_row, text_hash: record.text_hash, n_supervised: record.supervised }
    }

    /// The part of an example, and its number there.
    fn place(&self, i: usize) -> (usize, u32) {
        assert!(i < self.len(), "example {i} of {}", self.len());
        match &self.selection {
            None => (0, i as u32),
            Some(selection) => selection.place(i),
        }
    }

    /// The data file of an example, and the row in it.
    ///
    /// # Panics
    /// As [`TokenStore::example`].
    pub fn origin(&self, i: usize) -> (&Path, u64) {
        let (file, at) = self.place(i);
        (&self.parts[file].source, self.parts[file].record(at).source_row)
    }

    /// Tokens of all examples.
    pub fn total_tokens(&self) -> u64 {
        self.totals.tokens
    }

    /// Trained tokens of all examples.
    pub fn supervised_tokens(&self) -> u64 {
        self.totals.supervised
    }

    /// Tokens of the longest example.
    pub fn longest(&self) -> usize {
        self.totals.longest as usize
    }

    /// Largest token id, to be compared with the rows of the embedding.
    pub fn max_id(&self) -> u32 {
        self.totals.max_id
    }

    /// What became of the rows.
    pub fn counts(&self) -> &RowCounts {
        &self.totals.counts
    }

    /// Hash of the examples: their tokens, targets and text hashes, in order. The same on every
    /// machine, and for every file that yields the same examples.
    pub fn hash(&self) -> [u8; 32] {
        self.totals.content
    }

    /// The data files, and what became of their rows.
    pub fn sources(&self) -> &[SourceCounts] {
        &self.sources
    }

    /// Says which rows were left out, where nothing else does.
    pub(crate) fn warn_of_skipped(&self) {
        for source in &self.sources {
            for s in &source.skipped {
                let named: Vec<String> = s.first.iter().take(10).map(u64::to_string).collect();
                let more = if s.rows > named.len() as u64 { ", …" } else { "" };
                let (path, rows) = (source.path.display(), named.join(", "));
                log::warn!("{path}: {} rows are no examples and are left out: {} (row {rows}{more})", s.rows, s.reason);
            }
        }
    }

    /// The rendered text of some rows of the data files, by [`Example::source_row`]. Reads each file
    /// once, up to the last of them; rows that the file lacks are absent.
    ///
    /// # Errors
    /// As [`read_rows`].
    pub fn source_rows(&self, rows: &[u64]) -> Result<BTreeMap<u64, Rendered>> {
        let mut found = BTreeMap::new();
        for (file, part) in self.parts.iter().enumerate() {
            let own: Vec<u64> = rows.iter().map(|&r| file_and_row(r)).filter(|r| r.0 == file).map(|r| r.1).collect();
            if !own.is_empty() {
                let read = read_rows(&part.source, &part.options, &part.format, &own)?;
                found.extend(read.into_iter().map(|(row, text)| ((file as u64) << ROW_BITS | row, text)));
            }
        }
        Ok(found)
    }

    /// Reads the store through and compares it with the hashes it was made with. Opening checks lengths
    /// and the index only.
    pub fn verify(&self) -> bool {
        self.parts.iter().all(|p| p.verify())
    }
}

/// Rendered text of some rows of a data file (numbers from 1, in any order). The file is read once,
/// up to the last of them; rows that it lacks are absent from the answer.
///
/// # Errors
/// [`Error::Io`](crate::error::Error::Io), [`Error::InvalidConfig`](crate::error::Error::InvalidConfig),
/// [`Error::ChatTemplate`](crate::error::Error::ChatTemplate), [`Error::DataInvalid`](crate::error::Error::DataInvalid).
pub fn read_rows(
    source: &Path,
    options: &DataOptions,
    format: &ChatFormat,
    rows: &[u64],
) -> Result<BTreeMap<u64, Rendered>> {
    let mut wanted: Vec<u64> = rows.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let mut found = BTreeMap::new();
    let Some(template) = Template::of_rows(options, format, source)? else { return Ok(found) };
    let mut reader = RowReader::open(source)?;
    let parser = reader.parser().clone();
    let mut bytes = Vec::new();
    while found.len() < wanted.len() {
        bytes.clear();
        let Some(CutRow { row, fault }) = reader.next_cut(&mut bytes)? else { break };
        if wanted.binary_search(&row).is_ok() {
            fault.map_or(Ok(()), Err)?;
            found.insert(row, template.render(parser.file(row), row, &parser.parse(row, &bytes)?)?);
        } else if wanted.last().is_some_and(|last| row > *last) {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
