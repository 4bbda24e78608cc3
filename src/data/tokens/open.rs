//! Opening the token store of a data file, or making it where there is none.

use std::path::Path;

use super::build::build;
use super::index::VERSION;
use super::part::Paths;
use super::request::StoreRequest;
use super::source_hash::source_hash;
use super::store::TokenStore;
use super::unfinished::Unfinished;
use crate::config::DataOptions;
use crate::data::rows::files::{list, RowFormat};
use crate::data::text::chat::ChatFormat;
use crate::disk::sweep;
use crate::error::{Error, Result};

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
        let kind = RowFormat::of(data)?;
        let format = ChatFormat::of(request.tokenizer, options, request.template)?;
        let key = key_of(&contents, &kind, request, &format)?;
        let paths = Paths::new(cache_dir, &key);
        let open = || paths.open(&key, data, options, &format);
        if data.is_dir() {
            warn_of_left_out(data)?;
        }
        let unfinished = Unfinished::new(cache_dir, &key);
        if paths.index.exists() {
            match open() {
                Ok(part) => {
                    unfinished.remove();
                    return TokenStore::of(part);
                }
                Err(reason) => log::warn!("{}: {reason}; the store is made anew", paths.index.display()),
            }
        }
        sweep(cache_dir)?;
        let built = build(request, &format, &key, &stamp)?;
        // On Windows a mapped file cannot be replaced; where another process was first, its store,
        // which has the same bytes, is the one that opens.
        let placed = built.tokens.keep(&paths.tokens).and_then(|()| built.index.keep(&paths.index));
        match (open(), placed) {
            (Ok(part), _) => {
                unfinished.remove();
                TokenStore::of(part)
            }
            (Err(_), Err(e)) => Err(e),
            (Err(reason), Ok(())) => Err(Error::io(&paths.index)(std::io::Error::other(reason))),
        }
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

fn key_of(contents: &[u8; 32], kind: &RowFormat, request: &StoreRequest<'_>, format: &ChatFormat) -> Result<[u8; 32]> {
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
