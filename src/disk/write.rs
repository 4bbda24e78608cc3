//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::fault::writing;
use super::names::{parent, Temporary};
use super::sync::{rename, sync_dir, sync_file};
use crate::error::{Error, Result};

/// Writes a file under a temporary name beside it, syncs it and renames it into place.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file, draft| file.write_all(bytes).map_err(writing(draft, Some(bytes.len() as u64))))
}

/// The same with `fill` writing the file, whose temporary name it is told; when that fails, the temporary file is
/// removed and `path` is as it was.
pub(crate) fn write_with<T>(path: &Path, fill: impl FnOnce(&mut File, &Path) -> Result<T>) -> Result<T> {
    let (draft, mut file) = Draft::create(path)?;
    let made = fill(&mut file, draft.path()).map_err(|e| e.renamed(draft.path(), path))?;
    sync_file(&file, path)?;
    drop(file);
    draft.keep(path)?;
    Ok(made)
}

/// Writes a file into a folder that is itself under a temporary name and synced as a whole.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(writing(path, Some(bytes.len() as u64)))
}

/// Renames a file that is whole to `path`, on the same file system, and makes the name last.
pub(crate) fn place(from: &Path, path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(cfg!(windows)).open(from).map_err(Error::io(path))?;
    sync_file(&file, path)?;
    // Windows renames no file that is open.
    drop(file);
    rename(from, path).map_err(Error::io(path))?;
    sync_dir(parent(path));
    Ok(())
}

/// A file under a temporary name; removed on drop unless kept.
#[derive(Debug)]
pub(crate) struct Draft {
    temporary: Temporary,
    target: PathBuf,
}

impl Draft {
    /// Makes a file beside `target`, on its file system.
    pub fn create(target: &Path) -> Result<(Draft, File)> {
        let open = |p: &Path| OpenOptions::new().write(true).create_new(true).open(p);
        let (temporary, file) = Temporary::make(target, open).map_err(writing(target, None))?;
        Ok((Draft { temporary, target: target.to_path_buf() }, file))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// The name that errors give it.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Takes the place of `target`. The file has been synced and closed.
    pub fn keep(self, target: &Path) -> Result<()> {
        rename(self.path(), target).map_err(Error::io(target))?;
        sync_dir(parent(target));
        Ok(())
    }
}

/// A value as JSON for people to read, with a line end behind it.
///
/// # Errors
/// [`Error::Misuse`] for what JSON cannot say, as a path that is not UTF-8.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|e| Error::Misuse(format!("not to be said in JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
