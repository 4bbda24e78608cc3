//! The token store: the examples of a data file as tokens on disk, mapped into memory.
//!
//! A store is named by what it was made from: the data's contents, the options, the tokenizer and
//! the limit of length. So an unchanged file is tokenised once, and two runs share the result. It
//! is two files: `<name>.tokens`, ids as u32 little endian with [`TARGET`] set where trained, and
//! `<name>.index`, see `index.rs`. Nothing is held in memory per example; both are read through
//! the maps. The index takes its place last, so a build that was killed leaves no store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::build::build;
use super::chat::{ChatFacts, ChatFormat};
pub use super::index::RowCounts;
use super::index::{Header, Record, HEADER_BYTES, RECORD_BYTES, VERSION};
use super::rows::RowReader;
use super::source_hash::source_hash;
use super::template::{Rendered, Template};
use super::temporary::Temporary;
use super::tokenizer::{Tokenizer, TARGET};
use crate::config::DataOptions;
use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("token stores are mapped as they lie on disk, in little endian");

/// What a store is made from.
#[derive(Clone, Copy)]
pub struct StoreRequest<'a> {
    /// The rows: JSONL, or one JSON array of objects.
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
    /// Row in the data file, from 1: line, or element of the array.
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
    tokens: Mmap,
    index: Mmap,
    header: Header,
    source: PathBuf,
    options: DataOptions,
    format: ChatFormat,
    chat: Option<ChatFacts>,
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
        let format = request.tokenizer.chat_format(options)?;
        let key = key_of(&contents, request, &format)?;
        let name = blake3::Hash::from_bytes(key).to_hex();
        let paths =
            Paths { tokens: cache_dir.join(format!("{name}.tokens")), index: cache_dir.join(format!("{name}.index")) };
        let open = || -> std::result::Result<TokenStore, String> {
            let (tokens, index, header) = paths.open(&key)?;
            let (options, format) = (options.clone(), format.clone());
            Ok(TokenStore { tokens, index, header, source: data.to_path_buf(), options, format, chat: None })
        };
        if paths.index.exists() {
            match open() {
                Ok(store) => return store.with_chat(),
                Err(reason) => log::warn!("{}: {reason}; the store is made anew", paths.index.display()),
            }
        }
        Temporary::sweep(cache_dir);
        let built = build(request, &format, &key, &stamp)?;
        // On Windows a mapped file cannot be replaced; where another process was first, its store,
        // which has the same bytes, is the one that opens.
        let placed = built.tokens.keep(&paths.tokens).and_then(|()| built.index.keep(&paths.index));
        match (open(), placed) {
            (Ok(store), _) => store.with_chat(),
            (Err(_), Err(e)) => Err(e),
            (Err(reason), Ok(())) => Err(Error::io(&paths.index)(std::io::Error::other(reason))),
        }
    }

    /// Notes how conversations are written, which the first row's shape tells.
    fn with_chat(mut self) -> Result<TokenStore> {
        if let Some(first) = RowReader::open(&self.source)?.next() {
            let (row, object) = first?;
            self.chat = Template::resolve(&self.options, &self.format, &self.source, row, &object)?.chat_facts();
        }
        Ok(self)
    }

    /// How conversations are written; `None` where the rows are none.
    pub fn chat(&self) -> Option<&ChatFacts> {
        self.chat.as_ref()
    }

    /// Number of examples; fits in u32.
    pub fn len(&self) -> usize {
        self.header.examples as usize
    }

    /// Whether there is no example; a store that opened has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th example, in the order of the data file.
    ///
    /// # Panics
    /// When `i` is not below [`TokenStore::len`], as a slice does.
    pub fn example(&self, i: usize) -> Example<'_> {
        let (record, bytes) = self.record(i);
        // SAFETY: every bit pattern is a u32; `align_to` looks after alignment, and the map begins
        // on a page, so nothing is left over in front.
        let (head, tokens, _) = unsafe { bytes.align_to::<u32>() };
        debug_assert!(head.is_empty() && tokens.len() == record.tokens as usize);
        let Record { source_row, text_hash, supervised, .. } = record;
        Example { tokens, source_row, text_hash, n_supervised: supervised }
    }

    fn record(&self, i: usize) -> (Record, &[u8]) {
        assert!(i < self.len(), "example {i} of {}", self.len());
        let record = Record::parse(&self.index[HEADER_BYTES + i * RECORD_BYTES..]);
        let start = record.offset as usize * 4;
        (record, &self.tokens[start..start + record.tokens as usize * 4])
    }

    /// Tokens of all examples.
    pub fn total_tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Trained tokens of all examples.
    pub fn supervised_tokens(&self) -> u64 {
        self.header.supervised
    }

    /// Tokens of the longest example.
    pub fn longest(&self) -> usize {
        self.header.longest as usize
    }

    /// Largest token id, to be compared with the rows of the embedding.
    pub fn max_id(&self) -> u32 {
        self.header.max_id
    }

    /// What became of the rows.
    pub fn counts(&self) -> &RowCounts {
        &self.header.counts
    }

    /// Hash of the examples: their tokens, targets and text hashes, in order. The same on every
    /// machine, and for every file that yields the same examples.
    pub fn hash(&self) -> [u8; 32] {
        self.header.content
    }

    /// The data file.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The rendered text of some rows of the data file, by [`Example::source_row`]. Reads the file
    /// once, up to the last of them; rows that the file lacks are absent.
    ///
    /// # Errors
    /// As [`read_rows`].
    pub fn source_rows(&self, rows: &[u64]) -> Result<BTreeMap<u64, Rendered>> {
        read_rows(&self.source, &self.options, &self.format, rows)
    }

    /// Reads the store through and compares it with [`TokenStore::hash`]. Opening checks lengths
    /// and the index only.
    pub fn verify(&self) -> bool {
        let mut hasher = blake3::Hasher::new();
        for i in 0..self.len() {
            let (record, bytes) = self.record(i);
            hasher.update(&record.text_hash);
            hasher.update(&u64::from(record.tokens).to_le_bytes());
            hasher.update(bytes);
        }
        *hasher.finalize().as_bytes() == self.header.content
    }
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

fn key_of(contents: &[u8; 32], request: &StoreRequest<'_>, format: &ChatFormat) -> Result<[u8; 32]> {
    // What a template says counts, and not where it lies.
    let options = DataOptions { chat_template: None, ..request.options.clone() };
    let options = serde_json::to_vec(&options).map_err(|e| Error::config("data options", e.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(contents);
    hasher.update(&(options.len() as u64).to_le_bytes());
    hasher.update(&options);
    hasher.update(&request.tokenizer.content_hash());
    hasher.update(&(request.max_length as u64).to_le_bytes());
    hasher.update(&format.key());
    Ok(*hasher.finalize().as_bytes())
}

struct Paths {
    tokens: PathBuf,
    index: PathBuf,
}

impl Paths {
    /// Maps both files after checking that every record lies inside the tokens, so that no read
    /// through the maps can leave them.
    fn open(&self, key: &[u8; 32]) -> std::result::Result<(Mmap, Mmap, Header), String> {
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
        if index.metadata().map_err(text)?.len() != HEADER_BYTES as u64 + header.examples * RECORD_BYTES as u64 {
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
        if next != header.tokens || *hasher.finalize().as_bytes() != header.records {
            return Err("the records do not match their hash".into());
        }
        // SAFETY: the files have names of their own and are replaced, never written to in place,
        // by this library; a foreign program that cuts them short is outside its reach.
        let (tokens, index) = unsafe { (Mmap::map(&tokens).map_err(text)?, Mmap::map(&index).map_err(text)?) };
        Ok((tokens, index, header))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
