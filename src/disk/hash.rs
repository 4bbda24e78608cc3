//! Content hashes of files, and a cache of them: the weights of a large model take a while.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::write::write_file;
use crate::error::{Error, Result};
use crate::held::HeldFile;

const CACHE: &str = "hashes.json";

/// A file changed this shortly before it was hashed may change again without a new modification time:
/// clocks of file systems are coarse (FAT: 2 s).
const SETTLED: Duration = Duration::from_secs(3);

/// BLAKE3 of a file's content, read piece by piece.
pub fn hash_file(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut read = || hasher.update_reader(File::open(path)?).map(drop);
    read().map_err(Error::io(path))?;
    Ok(hasher.finalize())
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KnownHash {
    size: u64,
    mtime_nanos: u64,
    hash: String,
}

/// Hashes of files, kept in `hashes.json`; one holds as long as the file's size and modification time do.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    entries: BTreeMap<String, KnownHash>,
}

impl HashCache {
    /// The cache kept in this folder; empty where there is none, or a damaged one. An absent folder is not made, here or
    /// later: a run that is refused may have taken its own away.
    pub fn open(dir: &Path) -> HashCache {
        let path = dir.join(CACHE);
        let entries = fs::read(&path).ok().and_then(|text| {
            let read: serde_json::Result<BTreeMap<String, KnownHash>> = serde_json::from_slice(&text);
            read.inspect_err(|e| log::warn!("{}: ignored: {e}", path.display())).ok()
        });
        let mut entries = entries.unwrap_or_default();
        entries.retain(|_, e| blake3::Hash::from_hex(&e.hash).is_ok());
        HashCache { path, entries }
    }

    /// The BLAKE3 of a file in hexadecimal, computed where it is not known. A cache that cannot be
    /// written is reported in the log only.
    pub fn file(&mut self, path: &Path) -> Result<String> {
        let absolute = fs::canonicalize(path).map_err(Error::io(path))?;
        let stat = || fs::metadata(path).map_err(Error::io(path));
        self.known_or(Some(&absolute), stat, || Ok(hash_file(path)?.to_hex().to_string()))
    }

    /// As [`HashCache::file`], read through an open file, whatever its name stands for by now.
    pub(crate) fn held(&mut self, file: &HeldFile) -> Result<String> {
        // A file that has lost its name is hashed all the same, and not kept.
        let absolute = fs::canonicalize(file.path()).ok();
        let hash = || {
            let mut hasher = blake3::Hasher::new();
            file.read_through(|piece| {
                hasher.update(piece);
            })?;
            file.unchanged()?;
            Ok(hasher.finalize().to_hex().to_string())
        };
        file.unchanged()?;
        self.known_or(absolute.as_deref(), || file.metadata(), hash)
    }

    /// The hash that is kept of this file while `stat` says what it said then, or else the one that `hash` takes.
    fn known_or(
        &mut self,
        absolute: Option<&Path>,
        stat: impl Fn() -> Result<Metadata>,
        hash: impl FnOnce() -> Result<String>,
    ) -> Result<String> {
        let stat = || stat().map(|m| stamp(&m));
        let (size, modified) = stat()?;
        let nanos = modified.and_then(|t| u64::try_from(t.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok());
        let key = absolute.and_then(Path::to_str);
        if let (Some(nanos), Some(known)) = (nanos, key.and_then(|k| self.entries.get(k))) {
            if (known.size, known.mtime_nanos) == (size, nanos) {
                return Ok(known.hash.clone());
            }
        }
        let now = SystemTime::now();
        let hash = hash()?;
        let settled = modified.is_some_and(|t| now.duration_since(t).is_ok_and(|age| age >= SETTLED));
        if let (Some(mtime_nanos), Some(key), true) = (nanos, key, settled && stat()? == (size, modified)) {
            self.entries.insert(key.into(), KnownHash { size, mtime_nanos, hash: hash.clone() });
            if let Err(e) = self.save() {
                log::warn!("hashes are not kept: {e}");
            }
        }
        Ok(hash)
    }

    fn save(&self) -> Result<()> {
        let json = serde_json::to_vec_pretty(&self.entries).map_err(|e| Error::io(&self.path)(e.into()))?;
        write_file(&self.path, &json)
    }
}

fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

/// The hash of a text or of a small file's bytes, in hexadecimal.
pub(crate) fn hash_of(bytes: impl AsRef<[u8]>) -> String {
    blake3::hash(bytes.as_ref()).to_hex().to_string()
}

/// One hash, in hexadecimal, over files by their names and content hashes, in the order of names.
pub(crate) fn hash_of_files(files: &BTreeMap<String, String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, hash) in files {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(hash.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &[u8], age: u64) -> SystemTime {
        fs::write(path, text).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + age);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        time
    }

    fn hex(text: &[u8]) -> String {
        blake3::hash(text).to_hex().to_string()
    }

    #[test]
    fn hashes_a_file_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let text: Vec<u8> = (0..300_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        fs::write(&path, &text).unwrap();
        assert_eq!(hash_file(&path).unwrap(), blake3::hash(&text));
        assert!(matches!(hash_file(&dir.path().join("absent")), Err(Error::Io { .. })));
    }

    #[test]
    fn keeps_hashes_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, kept) = (dir.path().join("x"), dir.path().join("cache/deep"));
        write(&path, b"one", 0);
        assert_eq!(HashCache::open(&kept).file(&path).unwrap(), hex(b"one"));
        assert!(!kept.exists());
        fs::create_dir_all(&kept).unwrap();
        assert_eq!(HashCache::open(&kept).file(&path).unwrap(), hex(b"one"));
        assert!(kept.join(CACHE).exists());
        // Same size and time: not read again.
        write(&path, b"two", 0);
        assert_eq!(HashCache::open(&kept).file(&path).unwrap(), hex(b"one"));
        // Another time, another size.
        write(&path, b"two", 1);
        let mut cache = HashCache::open(&kept);
        assert_eq!(cache.file(&path).unwrap(), hex(b"two"));
        write(&path, b"three", 1);
        assert_eq!(cache.file(&path).unwrap(), hex(b"three"));
        assert_eq!(HashCache::open(&kept).entries, cache.entries);
        assert!(matches!(cache.file(&dir.path().join("absent")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_file_just_written_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "one").unwrap();
        let mut cache = HashCache::open(dir.path());
        assert_eq!(cache.file(&path).unwrap(), hex(b"one"));
        fs::write(&path, "two").unwrap();
        assert_eq!(cache.file(&path).unwrap(), hex(b"two"));
        assert!(cache.entries.is_empty());
    }

    #[test]
    fn a_damaged_cache_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path, b"one", 0);
        HashCache::open(dir.path()).file(&path).unwrap();
        let good = fs::read_to_string(dir.path().join(CACHE)).unwrap();
        for bad in ["", "[1]", &good[..good.len() / 2], &good.replace(&hex(b"one"), "12")] {
            fs::write(dir.path().join(CACHE), bad).unwrap();
            assert_eq!(HashCache::open(dir.path()).file(&path).unwrap(), hex(b"one"));
            assert_eq!(fs::read_to_string(dir.path().join(CACHE)).unwrap(), good);
        }
        // Nowhere to keep it: the hash is right all the same.
        assert_eq!(HashCache::open(&path).file(&path).unwrap(), hex(b"one"));
    }
}
