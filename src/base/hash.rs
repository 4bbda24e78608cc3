//! Content hashes of a model's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use crate::disk::{hash_file, HashCache};
use crate::error::{Error, Result};
use crate::weights::WeightStore;

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
    use std::fs;

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
