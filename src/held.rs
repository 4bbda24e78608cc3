//! Files that stay open: read through one handle however often, and asked whether they are still what they were.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// Bytes that are read at once where a file is read through.
const PIECE: usize = 1 << 18;
/// What a Git LFS pointer begins with: the text that a clone without LFS leaves in the place of a large file.
const POINTER: &[u8] = b"version https://git-lfs";
/// By its specification a pointer is shorter.
const POINTER_LENGTH: u64 = 1024;

/// That this content is a Git LFS pointer, and what to do about it; `None` of any other content.
pub(crate) fn lfs_pointer(content: &[u8]) -> Option<String> {
    if !content.starts_with(POINTER) {
        return None;
    }
    let text = String::from_utf8_lossy(&content[..content.len().min(POINTER_LENGTH as usize)]);
    let size = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
    let size = size.map(|n| format!(" of {n} bytes")).unwrap_or_default();
    Some(format!("a Git LFS pointer lies in place of the file{size}: `git lfs pull` in its repository fetches it"))
}

/// An open file, with its length and modification time at opening.
#[derive(Debug)]
pub(crate) struct HeldFile {
    path: PathBuf,
    file: File,
    length: u64,
    modified: Option<SystemTime>,
}

impl HeldFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::ModelFormat`] where a Git LFS pointer lies in its place.
    pub fn open(path: &Path) -> Result<HeldFile> {
        let file = File::open(path).map_err(Error::io(path))?;
        let at = file.metadata().map_err(Error::io(path))?;
        let held = HeldFile { path: path.into(), length: at.len(), modified: at.modified().ok(), file };
        if at.is_file() && held.length < POINTER_LENGTH {
            if let Some(reason) = lfs_pointer(&held.read()?) {
                return Err(Error::ModelFormat { path: path.into(), tensor: "file".into(), reason });
            }
        }
        Ok(held)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes it had at opening.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What the system says of it now.
    pub fn metadata(&self) -> Result<Metadata> {
        self.file.metadata().map_err(Error::io(&self.path))
    }

    /// Refuses a file that has another length or modification time than at opening. A file that was put in its place
    /// under its name is another file, and no matter.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] with both lengths.
    pub fn unchanged(&self) -> Result<()> {
        let now = self.metadata()?;
        match (now.len(), now.modified().ok()) {
            (length, _) if length != self.length => Err(self.changed(length)),
            (length, modified) if modified != self.modified => Err(self.changed(length)),
            _ => Ok(()),
        }
    }

    fn changed(&self, now: u64) -> Error {
        let reason = match now == self.length {
            true => format!("it was written to while it was in use: {now} bytes then and now, of another time"),
            false => format!("it was changed while it was in use: {} bytes at opening, {now} now", self.length),
        };
        Error::ModelFormat { path: self.path.clone(), tensor: "file".into(), reason }
    }

    /// Hands the content on, piece by piece; others may read the file meanwhile.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] where it ends before the length that it had at opening.
    pub fn read_through(&self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut piece = vec![0; PIECE.min(self.length as usize)];
        let mut at = 0;
        while at < self.length {
            let wanted = piece.len().min((self.length - at) as usize);
            let n = match read_at(&self.file, &mut piece[..wanted], at) {
                Ok(0) => return Err(self.changed(at)),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::io(&self.path)(e)),
            };
            take(&piece[..n]);
            at += n as u64;
        }
        Ok(())
    }

    /// The whole content.
    ///
    /// # Errors
    /// As [`HeldFile::read_through`].
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.length as usize);
        self.read_through(|piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, at)
}

#[cfg(windows)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, at)
}

/// A file that is mapped read-only beside its handle. The pages are the file's: what another program does to them is
/// seen here, and where it cuts them off a read ends the process. So users ask [`HeldFile::unchanged`] before each use.
#[derive(Debug)]
pub(crate) struct MappedFile {
    held: HeldFile,
    map: Mmap,
}

impl MappedFile {
    /// Opens and maps a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<MappedFile> {
        let held = HeldFile::open(path)?;
        // SAFETY: a read-only map; that nobody changes the file meanwhile is asked before each use.
        let map = unsafe { MmapOptions::new().map(&held.file) }.map_err(Error::io(path))?;
        // It may have been cut between the two calls.
        if map.len() as u64 != held.length {
            return Err(held.changed(map.len() as u64));
        }
        Ok(MappedFile { held, map })
    }

    /// The map.
    pub fn map(&self) -> &Mmap {
        &self.map
    }
}

impl Deref for MappedFile {
    type Target = HeldFile;

    fn deref(&self) -> &HeldFile {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn reason(file: &HeldFile) -> String {
        match file.unchanged().unwrap_err() {
            Error::ModelFormat { path, reason, .. } if path == file.path() => reason,
            e => panic!("{e:?}"),
        }
    }

    #[test]
    fn a_change_is_seen_and_a_replacement_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let content: Vec<u8> = (0..700_000u32).map(|i| (i >> 5) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let held = HeldFile::open(&path).unwrap();
        assert_eq!(held.read().unwrap(), content);
        held.unchanged().unwrap();

        let other = dir.path().join("y");
        std::fs::write(&other, "other").unwrap();
        if cfg!(unix) {
            std::fs::rename(&other, &path).unwrap();
            held.unchanged().unwrap();
            assert_eq!(held.read().unwrap(), content);
        }

        std::fs::write(&path, "abc").unwrap();
        let held = HeldFile::open(&path).unwrap();
        let write = || File::options().write(true).open(&path).unwrap();
        write().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
        assert!(reason(&held).contains("3 bytes then and now"), "{}", reason(&held));
        write().set_len(1).unwrap();
        assert!(reason(&held).contains("3 bytes at opening, 1 now"), "{}", reason(&held));
        assert!(matches!(held.read(), Err(Error::ModelFormat { .. })));
        assert!(matches!(HeldFile::open(&dir.path().join("absent")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_git_lfs_pointer_is_told_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n";
        std::fs::write(&path, pointer).unwrap();
        let says = "a Git LFS pointer lies in place of the file of 269060552 bytes: `git lfs pull` in its repository \
                    fetches it";
        for opened in [HeldFile::open(&path).map(drop), MappedFile::open(&path).map(drop)] {
            match opened.unwrap_err() {
                Error::ModelFormat { path: at, tensor, reason } => {
                    assert_eq!((at.as_path(), tensor.as_str(), reason.as_str()), (path.as_path(), "file", says));
                }
                e => panic!("{e:?}"),
            }
        }
        assert!(lfs_pointer(b"version https://git-lfs.github.com/spec/v1\nsize x").unwrap().contains("the file: `git"));
        for other in ["version 1", "", " version https://git-lfs", "{}"] {
            assert_eq!(lfs_pointer(other.as_bytes()), None, "{other:?}");
        }
        // A long text that begins so is somebody's file.
        std::fs::write(&path, format!("{pointer}{}", " ".repeat(1024))).unwrap();
        HeldFile::open(&path).unwrap();
    }
}
