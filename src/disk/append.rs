//! A file that grows at its end.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::fault::appending;
use super::names::parent;
use super::sync::{sync_dir, sync_file};
use crate::error::{Error, Result};

/// A file, open for appending.
#[derive(Debug)]
pub(crate) struct Append {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Append {
    /// Opens a file behind its first `bytes`, or at its end where it is shorter; what lies behind is cut off. It is
    /// made where there is none.
    pub fn open(path: &Path, bytes: u64) -> Result<Append> {
        // Not opened to append: Windows then refuses to cut it.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(Error::io(path))?;
        let bytes = bytes.min(file.metadata().map_err(Error::io(path))?.len());
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).map_err(Error::io(path))?;
        sync_dir(parent(path));
        Ok(Append { path: path.to_path_buf(), file, bytes })
    }

    /// Appends all of it, or nothing.
    pub fn append(&mut self, text: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all(text) {
            let error = appending(&self.path, self.bytes, Some(text.len() as u64))(e);
            let _ = self.file.set_len(self.bytes).and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)));
            return Err(error);
        }
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Brings it to the disk.
    pub fn sync(&self) -> Result<()> {
        sync_file(&self.file, &self.path)
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
