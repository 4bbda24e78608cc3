//! Temporary names that nobody else has, and the lock that says whether their writer lives.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Begins the name of what is being written; a stamp and the target's name follow.
pub(super) const TEMPORARY: &str = ".sftmix-tmp-";
/// Begins the name of a folder that is being replaced, likewise.
pub(super) const DISPLACED: &str = ".sftmix-old-";
/// Begins the name of the lock of both; the stamp follows.
pub(super) const LOCK: &str = ".sftmix-lock-";

/// What the stamps of this process begin with. Processes in other containers may have the same number, and so may
/// one that was killed.
pub(super) fn own_mark() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| {
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        format!("{}_{:08x}_", std::process::id(), random as u32)
    })
}

/// A temporary name, held by a lock; what has the name is removed on drop, where it was not renamed.
#[derive(Debug)]
pub(super) struct Temporary {
    pub path: PathBuf,
    /// Where the target lies while this takes its name.
    pub displaced: PathBuf,
    lock_path: PathBuf,
    /// Absent where the file system has no locks.
    lock: Option<File>,
}

impl Temporary {
    /// Makes something beside `target` under a name that nothing has. The lock is there before it.
    pub fn make<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(Temporary, T)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this path has no name of its own"));
        };
        loop {
            let stamp = format!("{}{}", own_mark(), NEXT.fetch_add(1, Ordering::Relaxed));
            let lock_path = parent(target).join(format!("{LOCK}{stamp}"));
            let taken = match OpenOptions::new().write(true).create_new(true).open(&lock_path) {
                Ok(file) => hold(file, &lock_path)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            };
            let Some(lock) = taken else { continue };
            let under = |prefix: &str| parent(target).join(stamped(prefix, &stamp, name));
            let held = Temporary { path: under(TEMPORARY), displaced: under(DISPLACED), lock_path, lock };
            match make(&held.path) {
                Ok(made) => return Ok((held, made)),
                Err(e) => {
                    // What has the name is not ours.
                    let mut held = held;
                    let there = e.kind() == io::ErrorKind::AlreadyExists;
                    held.path = PathBuf::new();
                    drop(held);
                    if !there {
                        return Err(e);
                    }
                }
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            if let Err(e) = remove(&self.path) {
                log::warn!("not removed: {e}");
                // The lock's file stays for the sweep.
                return;
            }
        }
        if matches!(present(&self.displaced), Ok(false)) && self.lock.take().is_some() {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Locks a file just made. `None` when a sweep took it first; no lock where the file system has none, and then the
/// file goes, so that nobody takes what lies beside it for left behind.
fn hold(file: File, path: &Path) -> io::Result<Option<Option<File>>> {
    match file.try_lock() {
        // A sweep that saw it before it was locked may have removed it.
        Ok(()) => Ok(path.try_exists()?.then_some(Some(file))),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(e)) => {
            log::debug!("{}: not locked: {e}", path.display());
            drop(file);
            fs::remove_file(path)?;
            Ok(Some(None))
        }
    }
}

fn stamped(prefix: &str, stamp: &str, name: &OsStr) -> OsString {
    let mut full = OsString::from(format!("{prefix}{stamp}-"));
    full.push(name);
    full
}

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Whether something has this name, be it a dangling link.
pub(super) fn present(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Removes a file or folder; a link, not what it points to. Absent is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// The file's bytes; `None` where there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}
