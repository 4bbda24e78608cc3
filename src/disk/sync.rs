//! Bringing files and folders to the disk: each file once, then the folder that names it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;

use super::fault::writing;
use crate::error::{Error, Result};

/// What this thread has brought to the disk or given its name, in order: what a checkpoint refers to must be there
/// before it is.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    /// A file, as long as it was then.
    File(PathBuf, u64),
    /// The names in a folder.
    Folder(PathBuf),
    /// A file or folder got this name.
    Named(PathBuf),
}

#[cfg(test)]
thread_local! {
    pub(crate) static DONE: std::cell::RefCell<Vec<Done>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
fn note(done: Done) {
    DONE.with_borrow_mut(|all| all.push(done));
}

/// Brings an open file to the disk; `path` is the name in its error.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<()> {
    // A file system that allocates late says only here that it is full.
    file.sync_all().map_err(|e| writing(path, file.metadata().ok().map(|m| m.len()))(e))?;
    #[cfg(test)]
    note(Done::File(path.to_path_buf(), file.metadata().map_err(Error::io(path))?.len()));
    Ok(())
}

/// Likewise what is in it and its length, not its times.
pub(crate) fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    file.sync_data()?;
    #[cfg(test)]
    note(Done::File(path.to_path_buf(), file.metadata()?.len()));
    let _ = path;
    Ok(())
}

/// Gives a file or folder its name; that lasts once its folder is synced.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    #[cfg(test)]
    note(Done::Named(to.to_path_buf()));
    Ok(())
}

/// Makes names in a folder last, where the system has a way: Windows opens no folder as a file and orders renames
/// itself. Some file systems refuse; then it is up to them.
pub(crate) fn sync_dir(dir: &Path) {
    #[cfg(test)]
    note(Done::Folder(dir.to_path_buf()));
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
