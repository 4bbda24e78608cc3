//! Models by their names on the Hugging Face Hub: found in the local cache and, with the feature `hub`, downloaded
//! into it.

mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod fetch;
mod name;
mod usable;
#[cfg(feature = "hub")]
mod wanted;
#[cfg(feature = "hub")]
mod way;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::Result;
use cache::Variables;
use name::ModelName;

#[cfg(feature = "hub")]
pub use download::{download, DownloadConfig, Downloaded};
#[cfg(feature = "hub")]
pub use way::DownloadProgress;

/// Where the model lies that a setting names: what exists is a path, and so is what can be no name; a name is looked up
/// in the local cache, and the answer is the snapshot's folder, or its only GGUF file. No socket is opened.
///
/// # Errors
/// [`crate::Error::ModelNotFound`] when a name is neither a path that exists nor a model of the cache.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    resolve_by(path, &cache::process)
}

fn resolve_by(path: &Path, variables: Variables) -> Result<PathBuf> {
    let absent = |e: std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    match ModelName::of(path) {
        Some(name) if fs::symlink_metadata(path).is_err_and(absent) => in_cache(&cache::root(variables), &name),
        _ => Ok(path.into()),
    }
}

/// The model of this name in the cache.
fn in_cache(root: &Path, name: &ModelName) -> Result<PathBuf> {
    let found = cache::snapshot(root, name).and_then(|snapshot| usable::model_in(&snapshot));
    found.map_err(|reason| name.not_found(root, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_path_that_exists_comes_before_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let commit = "0123456789".repeat(4);
        let snapshot = dir.path().join("models--assets--demo/snapshots").join(&commit);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(dir.path().join("models--assets--demo/refs")).unwrap();
        fs::write(dir.path().join("models--assets--demo/refs/main"), &commit).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::write(snapshot.join(name), "").unwrap();
        }
        let variables = |name: &str| (name == "HF_HUB_CACHE").then(|| dir.path().into());
        let find = |text: &str| resolve_by(Path::new(text), &variables);
        // Tests run in the crate's folder, which has these.
        assert_eq!(find("assets/demo").unwrap(), Path::new("assets/demo"));
        assert_eq!(find("assets/demo@main").unwrap(), snapshot);
        assert!(find("assets/demo@main").unwrap().is_absolute());
        for path in ["./assets/none", "none", "a/b/c", "/no/where", "models/none.gguf", ""] {
            assert_eq!(find(path).unwrap(), Path::new(path), "{path}");
        }
        let error = find("assets/other@v2").unwrap_err();
        assert!(matches!(&error, Error::ModelNotFound { name, cache, .. }
            if name == "assets/other@v2" && cache == dir.path()));
        let text = error.to_string();
        assert!(text.contains("sftmix download assets/other@v2"), "{text}");
        assert!(text.contains("hf download assets/other --revision v2"), "{text}");
        fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
        let text = find("assets/demo@main").unwrap_err().to_string();
        assert!(text.contains("lacks tokenizer.json") && text.contains(&commit), "{text}");
    }
}
