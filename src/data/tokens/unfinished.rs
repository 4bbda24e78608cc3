//! What a build that was stopped had made: a store like any other, of the rows up to there, under a name of its own. The
//! next build of the same data goes on behind it.

use std::path::{Path, PathBuf};

use super::part::Paths;
use super::pipeline::MadeExample;
use super::request::StoreRequest;
use super::skipped::Skips;
use super::writer::Writer;
use crate::data::text::chat::ChatFormat;
use crate::error::{Error, Result};

/// Where an unfinished build of a store lies.
pub(super) struct Unfinished {
    key: [u8; 32],
    paths: Paths,
}

impl Unfinished {
    /// Of the store of this key.
    pub fn new(cache_dir: &Path, key: &[u8; 32]) -> Unfinished {
        // Never to be taken for a whole one.
        let key = *blake3::Hasher::new().update(b"unfinished").update(key).finalize().as_bytes();
        Unfinished { key, paths: Paths::new(cache_dir, &key) }
    }

    /// Writes again what was made, unless it is damaged; returns how many rows it is made of. It stays until the whole
    /// store is there.
    ///
    /// # Errors
    /// [`Error::Stopped`]; when the store cannot be written.
    pub fn take_up(&self, writer: &mut Writer, request: &StoreRequest<'_>, format: &ChatFormat) -> Result<u64> {
        let data = request.data;
        if !self.paths.index.exists() {
            return Ok(0);
        }
        let part = match self.paths.open(&self.key, data, request.options, format) {
            Ok(part) if part.verify() => part,
            Ok(_) => return Ok(self.damaged("the tokens do not match their hash")),
            Err(reason) => return Ok(self.damaged(&reason)),
        };
        for i in 0..part.len() {
            if i % 4096 == 0 && (request.stop)(false) {
                return Err(Error::Stopped { checkpoint: None });
            }
            let record = part.record(i);
            let made = MadeExample {
                tokens: record.tokens as usize,
                supervised: record.supervised,
                text_hash: record.text_hash,
            };
            writer.example(data, part.bytes(&record), record.source_row, &made)?;
        }
        let counts = part.header.counts.clone();
        let rows = counts.rows;
        writer.header.counts = counts;
        writer.skips = Skips::of(part.skipped.clone());
        log::info!("{}: tokenised up to row {rows} before; it goes on from there", data.display());
        #[cfg(test)]
        TAKEN_UP.set(rows);
        Ok(rows)
    }

    fn damaged(&self, reason: &str) -> u64 {
        log::warn!("{}: {reason}; all rows are tokenised anew", self.paths.index.display());
        0
    }

    /// Keeps what a build has made until it was stopped. That it cannot be kept is no reason to fail: the rows are there.
    pub fn keep(&self, writer: Writer, data: &Path) {
        let kept = writer.finish(self.key, data).and_then(|built| {
            built.tokens.keep(&self.paths.tokens)?;
            built.index.keep(&self.paths.index)
        });
        if let Err(e) = kept {
            log::warn!("what was tokenised of {} is not kept: {e}", data.display());
        }
    }

    /// Removes it, once the whole store is there.
    pub fn remove(&self) {
        // The index first: tokens without one are nothing.
        for path in [&self.paths.index, &self.paths.tokens] as [&PathBuf; 2] {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("{}: not removed: {e}", path.display())
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Rows that the last build on this thread took up.
    pub(super) static TAKEN_UP: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
