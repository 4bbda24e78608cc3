//! A model's name on the Hugging Face Hub: `org/name`, with `@revision` for another version than its main one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::Error;

/// Longest part of a name, in bytes, as on the hub.
const LONGEST: usize = 96;
/// Endings of file names: a path that ends so is a file's, whether it is there or not.
const FILES: [&str; 4] = [".gguf", ".safetensors", ".json", ".jsonl"];

/// Which model of the hub, and which version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName {
    /// `org/name`.
    pub repo: String,
    /// A branch, a tag or a commit; `None` is `main`.
    pub revision: Option<String>,
}

impl ModelName {
    /// The name that a path spells; `None` where it can be a path alone.
    pub fn of(path: &Path) -> Option<ModelName> {
        path.to_str()?.parse().ok()
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The model's folder in a cache.
    pub fn folder(&self) -> String {
        format!("models--{}", self.repo.replace('/', "--"))
    }

    /// The error of a cache that has no such model.
    pub fn not_found(&self, cache: &Path, reason: String) -> Error {
        Error::ModelNotFound { name: self.to_string(), cache: cache.into(), reason }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        self.revision.iter().try_for_each(|r| write!(f, "@{r}"))
    }
}

impl FromStr for ModelName {
    type Err = String;

    /// Reads `org/name[@revision]`; the error says what it is not.
    fn from_str(text: &str) -> Result<ModelName, String> {
        let (repo, revision) = text.split_once('@').map_or((text, None), |(repo, r)| (repo, Some(r)));
        let is_name = matches!(repo.split_once('/'), Some((org, name)) if is_part(org) && is_part(name));
        if !is_name || FILES.iter().any(|end| repo.ends_with(end)) {
            return Err(format!(
                "expected a model's name on the hub, as org/name or org/name@revision, found {text:?}"
            ));
        }
        match revision {
            Some(r) if !is_revision(r) => Err(format!("expected a branch, tag or commit behind the @ of {text:?}")),
            _ => Ok(ModelName { repo: repo.into(), revision: revision.map(String::from) }),
        }
    }
}

/// What the hub allows as a part of a name.
fn is_part(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-' && c != '.');
    part.len() <= LONGEST
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && edge(part.chars().next())
        && edge(part.chars().next_back())
        && !part.contains("--")
        && !part.contains("..")
        && !part.ends_with(".git")
}

/// What git allows as a reference, and can be a path inside `refs/` on every system.
fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_graphic() && !"~^:?*[\\<>|\"".contains(c);
    text.chars().all(allowed)
        && !text.contains("@{")
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.'))
}

/// Whether it is a whole commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether it is of hexadecimal digits, as hashes are written.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        let name: ModelName = "HuggingFaceTB/SmolLM2-135M".parse().unwrap();
        assert_eq!((name.revision(), name.folder().as_str()), ("main", "models--HuggingFaceTB--SmolLM2-135M"));
        let name: ModelName = "a/b_1.5@refs/pr/7".parse().unwrap();
        assert_eq!(
            (name.repo.as_str(), name.revision(), name.to_string().as_str()),
            ("a/b_1.5", "refs/pr/7", "a/b_1.5@refs/pr/7")
        );
        let text = name.not_found(Path::new("c"), "why".into()).to_string();
        assert!(text.contains("hf download a/b_1.5 --revision refs/pr/7"), "{text}");
        for bad in [
            "",
            "a",
            "a/",
            "/a",
            "a/b/c",
            "./a/b",
            "./a",
            "../a",
            "~/a",
            ".a/b",
            "a/.b",
            "a/b.",
            "a/-b",
            "a--b/c",
            "a/b..c",
            "a/b.git",
            "a b/c",
            "a\\b/c",
            "ä/b",
            "C:/b",
            "a/b@",
            "a/b@/x",
            "a/b@../x",
            "a/b@x//y",
            "a/b@x y",
            "a/b@-x",
            "a/b@x:y",
            "a/b@.x",
            "models/base.gguf",
            "runs/x.safetensors",
        ] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
        assert!(format!("{}/b", "a".repeat(97)).parse::<ModelName>().is_err());
    }
}
