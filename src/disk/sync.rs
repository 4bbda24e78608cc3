//! Bringing files and folders to the disk: each file once, then the folder that names it.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use super::fault::writing;
use crate::error::{Error, Result};

#[cfg(test)]
thread_local! {
    /// Files and folders that this thread has synced.
    pub(super) static SYNCED: std::cell::Cell<(usize, usize)> = const { std::cell::Cell::new((0, 0)) };
}

/// Brings an open file to the disk; `path` is the name in its error.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<()> {
    #[cfg(test)]
    SYNCED.with(|s| s.set((s.get().0 + 1, s.get().1)));
    // A file system that allocates late says only here that it is full.
    file.sync_all().map_err(|e| writing(path, file.metadata().ok().map(|m| m.len()))(e))
}

/// Makes names in a folder last, where the system has a way: Windows opens no folder as a file and orders renames
/// itself. Some file systems refuse; then it is up to them.
pub(crate) fn sync_dir(dir: &Path) {
    #[cfg(test)]
    SYNCED.with(|s| s.set((s.get().0, s.get().1 + 1)));
    #[cfg(unix)]
    if let Err(e) = File::open(dir).and_then(|d| d.sync_all()) {
        log::debug!("{}: not synced: {e}", dir.display());
    }
    #[cfg(not(unix))]
    let _ = dir;
}

/// Everything in a folder, then the folder.
pub(super) fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io(&path))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows flushes only what is open for writing.
            let file = OpenOptions::new().read(true).write(cfg!(windows)).open(&path).map_err(Error::io(&path))?;
            sync_file(&file, &path)?;
        }
    }
    sync_dir(dir);
    Ok(())
}
