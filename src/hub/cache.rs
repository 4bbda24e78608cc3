//! The local Hugging Face cache: where it lies, and which snapshot of a model a name stands for.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::name::{is_commit, ModelName};
use crate::disk::read_if_there;

/// A variable of the environment by its name; tests have their own.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's own variables; one that is empty counts as absent.
pub(crate) fn process(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// A variable that says something.
pub(crate) fn said(variables: Variables, name: &str) -> Option<OsString> {
    variables(name).filter(|value| !value.is_empty())
}

/// The cache's folder, as `huggingface_hub` finds it.
pub(crate) fn root(variables: Variables) -> PathBuf {
    let home = said(variables, if cfg!(windows) { "USERPROFILE" } else { "HOME" });
    let home = home.map_or_else(|| PathBuf::from("~"), PathBuf::from);
    let folder = |name: &str| {
        let path = PathBuf::from(said(variables, name)?);
        Some(path.strip_prefix("~").map(|inside| home.join(inside)).unwrap_or(path))
    };
    let hub = || {
        let shared = folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        folder("HF_HOME").unwrap_or_else(|| shared.join("huggingface")).join("hub")
    };
    let root = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(hub);
    std::path::absolute(&root).unwrap_or(root)
}

/// The snapshot's folder; the error is why there is none.
pub(crate) fn snapshot(root: &Path, name: &ModelName) -> Result<PathBuf, String> {
    let model = root.join(name.folder());
    if !model.is_dir() {
        return Err("no model of this name is there".into());
    }
    let commit = commit(&model, name.revision())?;
    let snapshot = model.join("snapshots").join(&commit);
    if snapshot.is_dir() {
        return Ok(snapshot);
    }
    Err(format!("there is no snapshot of {}, its commit {commit}", name.revision()))
}

/// The commit that a branch or a tag stands for.
fn commit(model: &Path, revision: &str) -> Result<String, String> {
    if is_commit(revision) {
        return Ok(revision.into());
    }
    let path = model.join("refs").join(revision);
    // A branch whose name has more parts leaves a folder here.
    let text = if path.is_dir() { None } else { read_if_there(&path).map_err(|e| e.to_string())? };
    if let Some(text) = text {
        let commit = String::from_utf8_lossy(&text).trim().to_string();
        return match is_commit(&commit) {
            true => Ok(commit),
            false => Err(format!("{} holds no commit", path.display())),
        };
    }
    let all = commits(model);
    let but = if all.is_empty() { String::new() } else { format!(", but of {}", few(&all)) };
    Err(format!("no snapshot of revision {revision} is there{but}"))
}

/// The commits of which there are snapshots, in order.
fn commits(model: &Path) -> Vec<String> {
    let entries = fs::read_dir(model.join("snapshots")).into_iter().flatten().flatten();
    let mut all: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    all.retain(|name| is_commit(name));
    all.sort();
    all
}

/// The first few names of a list, for a message.
pub(crate) fn few(names: &[String]) -> String {
    const FEW: usize = 4;
    let more = names.len().saturating_sub(FEW);
    let listed = names[..names.len() - more].join(", ");
    if more > 0 {
        return format!("{listed} and {more} more");
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = if cfg!(windows) { "USERPROFILE" } else { "HOME" };

    #[test]
    fn the_cache_lies_where_the_python_library_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut set: Vec<(&str, PathBuf)> = vec![(HOME, at("home"))];
        let mut check = |more: Option<(&'static str, PathBuf)>, expected: PathBuf| {
            set.extend(more);
            let variables = |name: &str| set.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.clone().into());
            assert_eq!(root(&variables), expected);
        };
        check(None, at("home/.cache/huggingface/hub"));
        check(Some(("XDG_CACHE_HOME", at("xdg"))), at("xdg/huggingface/hub"));
        check(Some(("HF_HOME", at("hf"))), at("hf/hub"));
        check(Some(("HF_HOME", "~/mine".into())), at("home/mine/hub"));
        check(Some(("HUGGINGFACE_HUB_CACHE", at("old"))), at("old"));
        check(Some(("HF_HUB_CACHE", at("new"))), at("new"));
        check(Some(("HF_HUB_CACHE", "".into())), at("old"));
    }

    #[test]
    fn a_revision_is_a_branch_a_tag_or_a_commit() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("models--a--b");
        let find = |text: &str| snapshot(dir.path(), &text.parse().unwrap());
        assert_eq!(find("a/b").unwrap_err(), "no model of this name is there");
        let (one, two) = (format!("{:0>40}", "abc").replace("000000000", "123456789"), "f".repeat(40));
        for commit in [&one, &two] {
            fs::create_dir_all(model.join("snapshots").join(commit)).unwrap();
        }
        fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
        fs::write(model.join("refs/main"), format!("{one}\n")).unwrap();
        fs::write(model.join("refs/refs/pr/1"), &two).unwrap();
        let at = |commit: &str| model.join("snapshots").join(commit);
        assert_eq!(find("a/b").unwrap(), at(&one));
        assert_eq!(find("a/b@refs/pr/1").unwrap(), at(&two));
        assert_eq!(find(&format!("a/b@{two}")).unwrap(), at(&two));
        // The beginning of a commit stands for none, as with huggingface_hub.
        assert!(find("a/b@fffffff").unwrap_err().contains("no snapshot of revision fffffff is there, but of 123"));
        assert!(find("a/b@refs").unwrap_err().contains("no snapshot of revision refs"));
        assert!(find(&format!("a/b@{}", "1".repeat(40))).unwrap_err().contains("no snapshot of"));
        fs::write(model.join("refs/bad"), "../../elsewhere").unwrap();
        assert!(find("a/b@bad").unwrap_err().contains("holds no commit"));
    }
}
