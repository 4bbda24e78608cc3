//! Hash of a data file's contents, remembered by size and time of change so that an unchanged file
//! is not read again. Of a folder of texts, all of them together.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::data::rows::files::list;
use crate::disk::write_file;
use crate::error::{Error, Result};
use crate::stop::StopIf;

/// A file that changed later than this before it was hashed may change again without its time
/// moving on (file systems count in steps of up to two seconds), so its hash is not remembered.
const SETTLED: Duration = Duration::from_secs(3);

/// What is looked at to tell whether a file changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    path: PathBuf,
    size: u64,
    modified_ns: u64,
    /// Of a folder: hash of its texts' names, sizes and times. Size and time are those of all, and of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    texts: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    stamp: Stamp,
    blake3: String,
}

impl Stamp {
    pub fn of(path: &Path) -> Result<Stamp> {
        let path = std::fs::canonicalize(path).map_err(Error::io(path))?;
        let meta = std::fs::metadata(&path).map_err(Error::io(&path))?;
        if meta.is_dir() {
            return Stamp::of_folder(path);
        }
        if !meta.is_file() {
            return Err(Error::io(&path)(std::io::Error::new(ErrorKind::InvalidInput, "expected a file")));
        }
        Ok(Stamp { path, size: meta.len(), modified_ns: modified_ns(&meta), texts: None })
    }

    fn of_folder(path: PathBuf) -> Result<Stamp> {
        let (mut size, mut newest, mut hasher) = (0, 0, blake3::Hasher::new());
        for file in list(&path)?.files {
            let meta = std::fs::metadata(&file).map_err(Error::io(&file))?;
            let (own, modified) = (meta.len(), modified_ns(&meta));
            let name = file.as_os_str().as_encoded_bytes();
            for number in [name.len() as u64, own, modified] {
                hasher.update(&number.to_le_bytes());
            }
            hasher.update(name);
            (size, newest) = (size + own, newest.max(modified));
        }
        Ok(Stamp { path, size, modified_ns: newest, texts: Some(hasher.finalize().to_hex().to_string()) })
    }

    fn is_settled(&self) -> bool {
        let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_nanos(self.modified_ns));
        self.modified_ns != 0 && age.is_ok_and(|age| age > SETTLED)
    }
}

fn modified_ns(meta: &std::fs::Metadata) -> u64 {
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(modified.as_nanos()).unwrap_or(0)
}

/// blake3 of the file's contents and the stamp that it was read under.
pub(crate) fn source_hash(data: &Path, cache_dir: &Path, stop: StopIf<'_>) -> Result<([u8; 32], Stamp)> {
    let stamp = Stamp::of(data)?;
    // One small file a path, so that two processes have nothing to read, change and write back.
    let name = blake3::hash(stamp.path.as_os_str().as_encoded_bytes()).to_hex();
    let memo = cache_dir.join(format!("{}.source.json", &name[..24]));
    let known = std::fs::read(&memo).ok().and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    if let Some(known) = known.filter(|k| k.stamp == stamp) {
        if let Ok(hash) = blake3::Hash::from_hex(&known.blake3) {
            return Ok((*hash.as_bytes(), stamp));
        }
    }
    // Asked before the reading, which may take longer than it takes to settle.
    let settled = stamp.is_settled();
    let hash = match stamp.texts {
        None => hash_file(&stamp.path, stop)?,
        Some(_) => hash_texts(&stamp.path, stop)?,
    };
    if Stamp::of(data)? != stamp {
        return Err(changed(data));
    }
    if settled && stamp.path.to_str().is_some() {
        let remembered =
            Remembered { stamp: stamp.clone(), blake3: blake3::Hash::from_bytes(hash).to_hex().to_string() };
        let written = serde_json::to_vec(&remembered)
            .map_err(std::io::Error::from)
            .map_err(Error::io(&memo))
            .and_then(|json| write_file(&memo, &json));
        if let Err(e) = written {
            log::warn!("the hash of {} is not remembered: {e}", data.display());
        }
    }
    Ok((hash, stamp))
}

/// The error for a file that was written to while it was read.
pub(crate) fn changed(data: &Path) -> Error {
    Error::io(data)(std::io::Error::other("the file changed while it was read"))
}

/// Where the texts lie makes no other rows, but their order does.
fn hash_texts(folder: &Path, stop: StopIf<'_>) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    for file in list(folder)?.files {
        hasher.update(&hash_file(&file, stop)?);
    }
    Ok(*hasher.finalize().as_bytes())
}

fn hash_file(path: &Path, stop: StopIf<'_>) -> Result<[u8; 32]> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        if stop(false) {
            return Err(Error::Stopped { checkpoint: None });
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io(path)(e)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("d");
        std::fs::write(&data, "one").unwrap();
        let hash = || source_hash(&data, dir.path(), &|_| false).unwrap().0;
        let one = *blake3::hash(b"one").as_bytes();
        assert_eq!(hash(), one);
        let memos = || std::fs::read_dir(dir.path()).unwrap().count() - 1;
        assert_eq!(memos(), 0, "a file that has just changed is not remembered");
        // `set_modified` asks for write access on Windows.
        let file = File::options().write(true).open(&data).unwrap();
        let past = SystemTime::now() - Duration::from_secs(60);
        file.set_modified(past).unwrap();
        assert_eq!((hash(), memos()), (one, 1));
        // Same size, same time: taken from memory, which proves that it was not read.
        std::fs::write(&data, "two").unwrap();
        file.set_modified(past).unwrap();
        assert_eq!(hash(), one);
        file.set_modified(past + Duration::from_nanos(100)).unwrap();
        assert_eq!(hash(), *blake3::hash(b"two").as_bytes());
    }

    #[test]
    fn a_folder_is_its_texts_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let hash = || source_hash(dir.path(), cache.path(), &|_| false).unwrap().0;
        write("a.txt", "one");
        write("b.txt", "two");
        let first = hash();
        let mut hasher = blake3::Hasher::new();
        for text in ["one", "two"] {
            hasher.update(blake3::hash(text.as_bytes()).as_bytes());
        }
        assert_eq!(first, *hasher.finalize().as_bytes());
        write("notes.bin", "of no account");
        assert_eq!(hash(), first);
        std::fs::rename(dir.path().join("a.txt"), dir.path().join("c.txt")).unwrap();
        assert_ne!(hash(), first);
    }

    #[test]
    fn it_stops_and_refuses_folders_without_texts() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("d");
        std::fs::write(&data, "one").unwrap();
        assert!(matches!(source_hash(&data, dir.path(), &|_| true), Err(Error::Stopped { .. })));
        assert!(matches!(source_hash(dir.path(), dir.path(), &|_| false), Err(Error::Io { .. })));
    }
}
