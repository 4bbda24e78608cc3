//! What of a snapshot can be opened as a model: the folder, or its only GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::cache::few;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What a model folder needs beside its weights.
pub(super) const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];

/// The model in a snapshot; the error says what is missing.
pub(super) fn model_in(snapshot: &Path) -> Result<PathBuf, String> {
    let mut missing: Vec<String> =
        NEEDED.into_iter().filter(|name| !is_there(&snapshot.join(name))).map(String::from).collect();
    let index = snapshot.join(INDEX);
    let has_weights = is_there(&snapshot.join(SINGLE)) || is_there(&index);
    if !is_there(&snapshot.join(SINGLE)) && is_there(&index) {
        let shards = shards_of(&fs::read(&index).map_err(|e| format!("{}: {e}", index.display()))?)
            .map_err(|e| format!("{}: {e}", index.display()))?;
        missing.extend(shards.into_iter().filter(|shard| !is_there(&snapshot.join(shard))));
    }
    if has_weights && missing.is_empty() {
        return Ok(snapshot.into());
    }
    let mut files = Vec::new();
    if !has_weights {
        gguf_files(snapshot, &mut files);
        files.sort();
        missing.push(format!("{SINGLE} or a GGUF file"));
    }
    match files.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(format!("its snapshot {} lacks {}", snapshot.display(), few(&missing))),
        several => {
            let names: Vec<String> = several.iter().map(|f| f.display().to_string()).collect();
            Err(format!("it has several GGUF files; give the path of one: {}", few(&names)))
        }
    }
}

/// Whether a file is there and whole: a link leads somewhere, and not to what is still being downloaded.
fn is_there(path: &Path) -> bool {
    let partial = |target: PathBuf| target.extension().is_some_and(|e| e == "incomplete");
    path.is_file() && !fs::canonicalize(path).is_ok_and(partial)
}

fn gguf_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gguf_files(&path, found);
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && is_there(&path) {
            found.push(path);
        }
    }
}

/// The files that an index places tensors in.
pub(super) fn shards_of(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| e.to_string())?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|name| !is_inside(name)) {
        Some(name) => Err(format!("{name:?} is no place inside the model's folder")),
        None => Ok(shards),
    }
}

/// Whether a name stays inside the folder that it is joined to, on every system.
pub(super) fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', ':', '\0'])
        && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn what_a_snapshot_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let lacks = |names: &[&str]| {
            let text = model_in(dir).unwrap_err();
            assert!(names.iter().all(|name| text.contains(name)), "{text}");
        };
        lacks(&["config.json, tokenizer.json, model.safetensors or a GGUF file"]);
        put(dir, "config.json", "{}");
        put(dir, INDEX, r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#);
        put(dir, "one.safetensors", "");
        lacks(&["lacks tokenizer.json, two.safetensors"]);
        put(dir, "tokenizer.json", "{}");
        put(dir, "two.safetensors", "");
        assert_eq!(model_in(dir).unwrap(), dir);
        put(dir, INDEX, r#"{"weight_map":{"a":"../one.safetensors"}}"#);
        lacks(&["no place inside"]);
        put(dir, SINGLE, "");
        assert_eq!(model_in(dir).unwrap(), dir);
    }

    #[test]
    fn one_gguf_file_is_a_model_and_two_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("sub")).unwrap();
        put(dir, "sub/a.gguf", "");
        // A GGUF repository may have the configuration beside it.
        put(dir, "config.json", "{}");
        assert_eq!(model_in(dir).unwrap(), dir.join("sub/a.gguf"));
        put(dir, "b.gguf", "");
        let text = model_in(dir).unwrap_err();
        assert!(text.contains("several GGUF files") && text.contains("b.gguf"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_being_downloaded_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = dir.path().join("snapshot");
        fs::create_dir(&snapshot).unwrap();
        let link =
            |blob: &str, name: &str| std::os::unix::fs::symlink(dir.path().join(blob), snapshot.join(name)).unwrap();
        put(dir.path(), "whole", "{}");
        put(dir.path(), "half.incomplete", "{");
        link("whole", "config.json");
        link("half.incomplete", "tokenizer.json");
        link("nowhere", SINGLE);
        let text = model_in(&snapshot).unwrap_err();
        assert!(text.contains("lacks tokenizer.json, model.safetensors or"), "{text}");
    }
}
