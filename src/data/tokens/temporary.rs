//! Files that appear whole or not at all: written under a name of their own, synced, renamed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

const SUFFIX: &str = ".sftmix-tmp";
/// What a killed process left is swept after this time; a build that still runs is younger.
const STALE: Duration = Duration::from_secs(48 * 3600);

/// A name that no other process or thread writes to; removed on drop unless kept.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    /// A name beside `target`, on its file system.
    pub fn beside(target: &Path) -> Temporary {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}-{nanos}-{n}{SUFFIX}", std::process::id()));
        Temporary { path: target.with_file_name(name), kept: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn create(&self) -> Result<File> {
        File::options().write(true).create_new(true).open(&self.path).map_err(Error::io(&self.path))
    }

    /// Takes the place of `target`. The file has been synced and closed.
    pub fn keep(mut self, target: &Path) -> Result<()> {
        std::fs::rename(&self.path, target).map_err(Error::io(target))?;
        self.kept = true;
        // A folder can be synced on some systems only; elsewhere the rename is ordered by itself.
        if let Some(folder) = target.parent().and_then(|p| File::open(p).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// Writes a small file.
    pub fn write(target: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = Temporary::beside(target);
        let mut file = temporary.create()?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(temporary.path()))?;
        drop(file);
        temporary.keep(target)
    }

    /// Removes what killed processes left in a folder.
    pub fn sweep(folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let ours = entry.file_name().to_string_lossy().ends_with(SUFFIX);
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if ours && age.is_some_and(|age| age > STALE) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_goes_and_old_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let (one, two) = (Temporary::beside(&target), Temporary::beside(&target));
        assert_ne!(one.path(), two.path());
        let left = one.path().to_path_buf();
        one.create().unwrap();
        drop(one);
        assert!(!left.exists());
        two.create().unwrap();
        two.keep(&target).unwrap();
        assert!(target.exists());
        let file = File::create(&left).unwrap();
        Temporary::sweep(dir.path());
        assert!(left.exists());
        file.set_modified(SystemTime::now() - STALE * 2).unwrap();
        drop(file);
        Temporary::sweep(dir.path());
        assert!(!left.exists() && target.exists());
    }
}
