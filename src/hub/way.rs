//! The files of one download on their way into a cache's snapshot, one after the other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::client::{Client, HubFile};
use super::fetch::fetch;
use super::name::ModelName;
use crate::error::{Error, Result};

/// How far a download is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DownloadProgress<'a> {
    /// The file that is being read.
    pub file: &'a str,
    /// Bytes of all files that are there.
    pub done: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A download on its way.
pub(super) struct Way<'a> {
    pub client: &'a Client,
    pub name: &'a ModelName,
    pub commit: &'a str,
    pub root: &'a Path,
    pub model: &'a Path,
    /// Bytes of the files that are there.
    pub have: u64,
    /// Bytes of the files that are known to be needed.
    pub of: u64,
    pub observe: &'a mut dyn FnMut(&DownloadProgress<'_>) -> ControlFlow<()>,
}

impl Way<'_> {
    /// The folder of the commit's snapshot.
    pub fn snapshot(&self) -> PathBuf {
        self.model.join("snapshots").join(self.commit)
    }

    /// Brings these files into the snapshot.
    pub fn all(&mut self, names: &[&str]) -> Result<Vec<HubFile>> {
        let about = |name: &&str| self.client.about(&self.name.repo, self.commit, name);
        let files = names.iter().map(about).collect::<Result<Vec<_>>>()?;
        self.of += files.iter().map(|f| f.bytes).sum::<u64>();
        files.iter().try_for_each(|file| self.one(file))?;
        Ok(files)
    }

    fn one(&mut self, file: &HubFile) -> Result<()> {
        let pointer = self.snapshot().join(&file.name);
        let is_whole = |path: &Path| path.is_file() && fs::metadata(path).is_ok_and(|m| m.len() == file.bytes);
        let blobs = self.model.join("blobs");
        let blob = blobs.join(&file.etag);
        if !is_whole(&pointer) {
            fs::create_dir_all(&blobs).map_err(Error::io(&blobs))?;
            let _alone = self.alone(&file.etag)?;
            if !is_whole(&blob) {
                let (have, of) = (self.have, self.of);
                let observe = &mut *self.observe;
                let mut tell =
                    |bytes: u64| match observe(&DownloadProgress { file: &file.name, done: have + bytes, bytes: of }) {
                        ControlFlow::Continue(()) => Ok(()),
                        ControlFlow::Break(()) => Err(Error::Stopped { checkpoint: None }),
                    };
                fetch(self.client, (&self.name.repo, self.commit), file, &blobs, &mut tell)?;
            }
            link(&blob, &pointer, &file.name)?;
        }
        self.have += file.bytes;
        match (self.observe)(&DownloadProgress { file: &file.name, done: self.have, bytes: self.of }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped { checkpoint: None }),
        }
    }

    /// Waits until no other download, nor one of `huggingface_hub`, writes this blob.
    fn alone(&self, etag: &str) -> Result<File> {
        let path = self.root.join(".locks").join(self.name.folder()).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                log::warn!("{}: another process downloads this file; waiting for it", path.display());
                file.lock().map_err(Error::io(&path))?;
            }
            // Some network file systems have no locks.
            Err(fs::TryLockError::Error(e)) => log::warn!("{}: not locked: {e}", path.display()),
        }
        Ok(file)
    }
}

/// Gives a blob its name in a snapshot: by a link, or where the system has none for us, by its place.
fn link(blob: &Path, pointer: &Path, name: &str) -> Result<()> {
    make_parent(pointer)?;
    match fs::remove_file(pointer) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(pointer)(e)),
        _ => {}
    }
    let up = "../".repeat(2 + name.matches('/').count());
    let to = blob.file_name().map(|etag| Path::new(&up).join("blobs").join(etag));
    let linked = to.is_some_and(|to| symlink(&to, pointer).is_ok()) || fs::hard_link(blob, pointer).is_ok();
    if !linked {
        fs::rename(blob, pointer).map_err(Error::io(pointer))?;
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(to: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, pointer)
}

#[cfg(windows)]
fn symlink(to: &Path, pointer: &Path) -> io::Result<()> {
    let to: PathBuf = to.components().collect();
    std::os::windows::fs::symlink_file(to, pointer)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(Error::io(parent)),
        None => Ok(()),
    }
}
