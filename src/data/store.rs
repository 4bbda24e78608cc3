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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::build::build;
use super::chat::{ChatFacts, ChatFormat};
use super::files::{list, Kind};
pub use super::index::RowCounts;
use super::index::VERSION;
use super::part::{Part, Paths};
use super::rows::RowReader;
use super::select::Selection;
use super::source_hash::source_hash;
use super::template::{Rendered, Template};
use super::tokenizer::{Tokenizer, TARGET};
use crate::config::DataOptions;
use crate::disk::sweep;
use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("token stores are mapped as they lie on disk, in little endian");

/// What a store is made from.
#[derive(Clone, Copy)]
pub struct StoreRequest<'a> {
    /// The rows: a file, or a folder of texts.
    pub data: &'a Path,
    /// How rows become examples.
    pub options: &'a DataOptions,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Longest example in tokens, ≥ 2.
    pub max_length: usize,
    /// Where stores are kept; made where absent.
    pub cache_dir: &'a Path,
    /// Threads that tokenise, ≥ 1.
    pub threads: usize,
    /// Asked on the caller's thread, ten times a second or oftener; true ends the build.
    pub stop: &'a dyn Fn() -> bool,
}

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

/// Bits of [`Example::source_row`] below the number of its file.
const ROW_BITS: u32 = 40;

/// The data file, from 0, and the row in it, from 1, of an [`Example::source_row`].
pub fn file_and_row(source_row: u64) -> (usize, u64) {
    ((source_row >> ROW_BITS) as usize, source_row & ((1 << ROW_BITS) - 1))
}

/// An [`Example::source_row`] in words: `row 12`, or `row 12 of file 2` where it is not of the first file.
pub fn row_name(source_row: u64) -> String {
    match file_and_row(source_row) {
        (0, row) => format!("row {row}"),
        (file, row) => format!("row {row} of file {}", file + 1),
    }
}

/// What became of the rows of one data file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// The file or folder.
    pub path: PathBuf,
    /// How often an epoch has a row of it.
    pub weight: f64,
    /// How its rows became examples.
    pub rows: RowCounts,
    /// Rows that were held out for validation.
    pub held_out: u64,
    /// Rows of this set, a row once for each of its copies.
    pub taken: u64,
    /// Examples of these.
    pub examples: u64,
}

/// What a store's examples are together.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub examples: u64,
    pub tokens: u64,
    pub supervised: u64,
    pub longest: u32,
    pub max_id: u32,
    pub counts: RowCounts,
    pub content: [u8; 32],
}

/// A mapped token store.
#[derive(Debug)]
pub struct TokenStore {
    pub(super) parts: Vec<Arc<Part>>,
    /// Which examples of the parts; without it, those of the only part.
    pub(super) selection: Option<Selection>,
    pub(super) sources: Vec<SourceCounts>,
    pub(super) totals: Totals,
}

impl TokenStore {
    /// Opens the store of this data, or makes it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InvalidConfig`], [`Error::Tokenizer`], [`Error::ChatTemplate`], [`Error::Threads`];
    /// [`Error::DataInvalid`] names the row; [`Error::NothingToTrain`] holds the counts;
    /// [`Error::Stopped`] when `stop` said so.
    pub fn open_or_build(request: &StoreRequest<'_>) -> Result<TokenStore> {
        let StoreRequest { data, options, cache_dir, .. } = *request;
        if request.max_length < 2 {
            return Err(Error::config("max_length", format!("expected ≥ 2, found {}", request.max_length)));
        }
        options.validate()?;
        std::fs::create_dir_all(cache_dir).map_err(Error::io(cache_dir))?;
        let (contents, stamp) = source_hash(data, cache_dir, request.stop)?;
        let kind = Kind::of(data)?;
        let format = ChatFormat::of(request.tokenizer, options)?;
        let key = key_of(&contents, &kind, request, &format)?;
        let paths = Paths::new(cache_dir, &key);
        let open = || paths.open(&key, data, options, &format);
        if data.is_dir() {
            warn_of_left_out(data)?;
        }
        if paths.index.exists() {
            match open() {
                Ok(part) => return TokenStore::of(part),
                Err(reason) => log::warn!("{}: {reason}; the store is made anew", paths.index.display()),
            }
        }
        sweep(cache_dir)?;
        let built = build(request, &format, &key, &stamp)?;
        // On Windows a mapped file cannot be replaced; where another process was first, its store,
        // which has the same bytes, is the one that opens.
        let placed = built.tokens.keep(&paths.tokens).and_then(|()| built.index.keep(&paths.index));
        match (open(), placed) {
            (Ok(part), _) => TokenStore::of(part),
            (Err(_), Err(e)) => Err(e),
            (Err(reason), Ok(())) => Err(Error::io(&paths.index)(std::io::Error::other(reason))),
        }
    }

    /// Every example of one file.
    fn of(mut part: Part) -> Result<TokenStore> {
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
            taken: h.counts.rows - h.counts.empty - h.counts.no_target,
            rows: h.counts.clone(),
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

/// Says what is not read of a folder.
fn warn_of_left_out(folder: &Path) -> Result<()> {
    if let (n @ 1.., Some(first)) = list(folder)?.left_out {
        log::warn!(
            "{}: {n} files that are no .txt or .md, or hidden, are left out, as {}",
            folder.display(),
            first.display()
        );
    }
    Ok(())
}

/// Rendered text of some rows of a data file (numbers from 1, in any order). The file is read once,
/// up to the last of them; rows that it lacks are absent from the answer.
///
/// # Errors
/// [`Error::Io`], [`Error::InvalidConfig`], [`Error::ChatTemplate`], [`Error::DataInvalid`].
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
    let mut template = None;
    for item in RowReader::open(source)? {
        if found.len() == wanted.len() {
            break;
        }
        let (row, object) = item?;
        let template = match &template {
            Some(template) => template,
            None => template.insert(Template::resolve(options, format, source, row, &object)?),
        };
        if wanted.binary_search(&row).is_ok() {
            found.insert(row, template.render(source, row, &object)?);
        } else if wanted.last().is_some_and(|last| row > *last) {
            break;
        }
    }
    Ok(found)
}

fn key_of(contents: &[u8; 32], kind: &Kind, request: &StoreRequest<'_>, format: &ChatFormat) -> Result<[u8; 32]> {
    // What a template says counts, and not where it lies.
    let options = DataOptions { chat_template: None, ..request.options.clone() };
    let options = serde_json::to_vec(&options).map_err(|e| Error::config("data options", e.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(contents);
    hasher.update(kind.tag());
    hasher.update(&(options.len() as u64).to_le_bytes());
    hasher.update(&options);
    hasher.update(&request.tokenizer.content_hash());
    hasher.update(&(request.max_length as u64).to_le_bytes());
    hasher.update(&format.key());
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
