//! Content hashes of a model's files, and a cache of them: the weights of a large model take a while.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::atomic;
use crate::weights::WeightStore;

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
struct Entry {
    size: u64,
    mtime_nanos: u64,
    hash: String,
}

/// Hashes of files, kept in `hashes.json`; one holds as long as the file's size and modification time do.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl HashCache {
    /// The cache kept in this folder; empty where there is none, or a damaged one.
    pub fn open(dir: &Path) -> HashCache {
        let path = dir.join(CACHE);
        let entries = fs::read(&path).ok().and_then(|text| {
            let read: serde_json::Result<BTreeMap<String, Entry>> = serde_json::from_slice(&text);
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
        let stat = || fs::metadata(path).map(|m| stamp(&m)).map_err(Error::io(path));
        let (size, modified) = stat()?;
        let nanos = modified.and_then(|t| u64::try_from(t.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok());
        let key = absolute.to_str();
        if let (Some(nanos), Some(known)) = (nanos, key.and_then(|k| self.entries.get(k))) {
            if (known.size, known.mtime_nanos) == (size, nanos) {
                return Ok(known.hash.clone());
            }
        }
        let now = SystemTime::now();
        let hash = hash_file(path)?.to_hex().to_string();
        let settled = modified.is_some_and(|t| now.duration_since(t).is_ok_and(|age| age >= SETTLED));
        if let (Some(mtime_nanos), Some(key), true) = (nanos, key, settled && stat()? == (size, modified)) {
            self.entries.insert(key.into(), Entry { size, mtime_nanos, hash: hash.clone() });
            if let Err(e) = self.save() {
                log::warn!("hashes are not kept: {e}");
            }
        }
        Ok(hash)
    }

    fn save(&self) -> Result<()> {
        let json = serde_json::to_vec_pretty(&self.entries).map_err(|e| Error::io(&self.path)(e.into()))?;
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(Error::io(dir))?;
        }
        atomic::write_file(&self.path, &json)
    }
}

fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

/// One hash, in hexadecimal, over what a model computes with: `config.json`, `tokenizer.json` (where there
/// is one) and the weight files, by names inside the folder and contents, in name order. The same on every
/// machine, wherever the folder is. A GGUF file is its content, whatever its name.
pub fn hash_model(dir: &Path, cache: &mut HashCache) -> Result<String> {
    if crate::gguf::is_file(dir) {
        return cache.file(dir);
    }
    let mut files = weight_files(dir)?;
    files.insert("config.json".into(), dir.join("config.json"));
    let tokenizer = dir.join("tokenizer.json");
    if tokenizer.try_exists().map_err(Error::io(&tokenizer))? {
        files.insert("tokenizer.json".into(), tokenizer);
    }
    hash_files(&files, cache)
}

/// One hash, in hexadecimal, over a model's weight files alone, as [`hash_model`] takes it.
pub fn hash_weights(dir: &Path, cache: &mut HashCache) -> Result<String> {
    if crate::gguf::is_file(dir) {
        return cache.file(dir);
    }
    hash_files(&weight_files(dir)?, cache)
}

/// The weight files by their names inside the folder.
fn weight_files(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let store = WeightStore::open(dir)?;
    let named = store.files().iter().map(|path| {
        let inside = path.strip_prefix(dir).unwrap_or(path);
        let name: Vec<_> = inside.components().map(|c| c.as_os_str().to_string_lossy()).collect();
        (name.join("/"), path.clone())
    });
    Ok(named.collect())
}

fn hash_files(files: &BTreeMap<String, PathBuf>, cache: &mut HashCache) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for (name, path) in files {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(cache.file(path)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView};

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

    #[test]
    fn a_model_is_its_names_and_contents() {
        let shard = |x: f32| {
            let bytes = x.to_le_bytes();
            let view = TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
            safetensors::serialize([("a", view)], None).unwrap()
        };
        let model = |weights: &str, x: f32, config: &str, tokenizer: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("config.json"), config).unwrap();
            if let Some(text) = tokenizer {
                fs::write(dir.path().join("tokenizer.json"), text).unwrap();
            }
            let file = dir.path().join(weights);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, shard(x)).unwrap();
            if weights != "model.safetensors" {
                let index = format!(r#"{{"weight_map":{{"a":"{weights}"}}}}"#);
                fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
            }
            fs::write(dir.path().join("README.md"), dir.path().to_string_lossy().as_bytes()).unwrap();
            let hash = hash_model(dir.path(), &mut HashCache::open(dir.path())).unwrap();
            assert_eq!(hash.len(), 64);
            hash
        };
        let same = || model("model.safetensors", 1.0, "{}", Some("{}"));
        let mut seen = vec![
            same(),
            model("model.safetensors", 2.0, "{}", Some("{}")),
            model("model.safetensors", 1.0, "{ }", Some("{}")),
            model("model.safetensors", 1.0, "{}", Some("{ }")),
            model("model.safetensors", 1.0, "{}", None),
            model("one.safetensors", 1.0, "{}", Some("{}")),
            model("sub/one.safetensors", 1.0, "{}", Some("{}")),
        ];
        assert_eq!(seen[0], same());
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 7);
        // Machine independent: pinned.
        assert_eq!(same(), "8f3d0a21679b1345a71b84c0abd1fd04c8b4138bf660ffba02a5d680203ce914");
    }

    #[test]
    fn a_model_without_config_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = HashCache::open(dir.path());
        assert!(matches!(hash_model(dir.path(), &mut cache), Err(Error::ModelFormat { .. })));
        let none: [(&str, TensorView); 0] = [];
        fs::write(dir.path().join("model.safetensors"), safetensors::serialize(none, None).unwrap()).unwrap();
        let error = hash_model(dir.path(), &mut cache).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
