//! The lock of a folder that one process works in.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const NAME: &str = ".lock";

/// A folder's lock, held until it is dropped. Until it is [kept](FolderLock::keep), what was made for it goes with it.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    file: Option<File>,
    /// Folders that were made, outermost first.
    made: Vec<PathBuf>,
    /// Folders of the crate's own inside that were absent.
    absent: Vec<PathBuf>,
    made_file: bool,
    kept: bool,
}

impl FolderLock {
    /// Locks `dir`, which is made where it is absent.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another process works in it: by its number, where the system lets it be read.
    pub fn take(dir: &Path) -> Result<FolderLock> {
        let mut made: Vec<PathBuf> =
            dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).map(Path::to_path_buf).collect();
        made.reverse();
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let path = dir.join(NAME);
        loop {
            let made_file = !path.exists();
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    // Windows lets nobody read what is locked.
                    let owner = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
                    let ours = owner == Some(std::process::id());
                    let owner = owner.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                    let reason = match ours {
                        true => "another job of this process works in this folder".to_string(),
                        false => format!("another process works in this folder{owner}"),
                    };
                    return Err(Error::Checkpoint { path: dir.to_path_buf(), reason });
                }
                // Some network file systems have no locks: then two runs in one folder are the caller's to avoid.
                Err(fs::TryLockError::Error(e)) => log::warn!("{}: not locked: {e}", path.display()),
            }
            let mut lock = FolderLock { path, file: None, made, absent: Vec::new(), made_file, kept: false };
            let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            lock.file = Some(file);
            return match written {
                Ok(()) => Ok(lock),
                Err(e) => Err(Error::io(&lock.path)(e)),
            };
        }
    }

    /// A folder of the crate's own inside: where it is absent now and the lock is not kept, it goes too.
    pub fn with(mut self, folder: PathBuf) -> FolderLock {
        if !folder.exists() {
            self.absent.push(folder);
        }
        self
    }

    /// What lies in the crate's own folders stays though the lock is not kept: a run that was stopped before it began
    /// has made what the next need not make again.
    pub fn leave(&mut self) {
        // Empty ones go.
        self.absent.drain(..).for_each(|folder| drop(fs::remove_dir(folder)));
    }

    /// What was made for the lock stays.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.absent.iter().for_each(|folder| drop(fs::remove_dir_all(folder)));
        // While it is held, so that nobody else's goes.
        if self.made_file {
            let _ = fs::remove_file(&self.path);
        }
        self.file = None;
        // Only what is empty goes.
        self.made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Whether a file still has its name: a refused run removes its lock while another process may wait to lock it.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |m: fs::Metadata| (m.dev(), m.ino());
        matches!((file.metadata().map(id), fs::metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}
