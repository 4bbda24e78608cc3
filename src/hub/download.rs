//! Downloads of models into the local Hugging Face cache: only what a model needs, and the name last.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;

use super::cache::{self, said, Variables};
use super::client::{refused, Client, Listing, ENDPOINT};
use super::name::ModelName;
use super::usable::{model_in, shards_of, INDEX};
use super::wanted::{chosen, Chosen};
use super::way::{make_parent, DownloadProgress, Way};
use crate::disk::write_file;
use crate::error::{Error, Result};

/// What to download, and from where.
#[derive(Clone, Default, PartialEq)]
pub struct DownloadConfig {
    /// `org/name`, or `org/name@revision`: a branch, a tag or a commit.
    pub model: String,
    /// The GGUF file to download instead of a model folder, where the model has several.
    pub file: Option<String>,
    /// Address of the hub; `None` takes `HF_ENDPOINT`, or the hub's own.
    pub endpoint: Option<String>,
    /// Access token; `None` takes `HF_TOKEN`, where it is set.
    pub token: Option<String>,
    /// The cache; `None` takes the one of `HF_HUB_CACHE`, `HF_HOME` or the user.
    pub cache_dir: Option<PathBuf>,
}

impl fmt::Debug for DownloadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DownloadConfig { model, file, endpoint, token, cache_dir } = self;
        // A token is nobody's to read in a log.
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("DownloadConfig")
            .field("model", model)
            .field("file", file)
            .field("endpoint", endpoint)
            .field("token", &token)
            .field("cache_dir", cache_dir)
            .finish()
    }
}

/// What was downloaded.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Downloaded {
    /// `org/name`, with `@revision` where one was given.
    pub model: String,
    /// The commit.
    pub commit: String,
    /// The snapshot's folder, or the GGUF file.
    pub path: PathBuf,
    /// How many files it has.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
}

/// Downloads a model into the local Hugging Face cache, or what of it is not there: config, tokenizer, chat templates and
/// safetensors, or one GGUF file. `observe` is told of every piece and may stop it. What is interrupted goes on where it was at
/// the next call.
///
/// # Errors
/// [`Error::InvalidConfig`] names a bad name or file; [`Error::Download`] says that `HF_HUB_OFFLINE` is set, what the
/// server refused, that the model has not what is needed, or names a file whose content is not what the hub lists, which
/// is not kept; [`Error::Io`]; [`Error::Stopped`].
pub fn download(
    config: &DownloadConfig,
    observe: &mut dyn FnMut(&DownloadProgress<'_>) -> ControlFlow<()>,
) -> Result<Downloaded> {
    download_by(config, &cache::process, observe)
}

fn download_by(
    config: &DownloadConfig,
    variables: Variables,
    observe: &mut dyn FnMut(&DownloadProgress<'_>) -> ControlFlow<()>,
) -> Result<Downloaded> {
    let name: ModelName = config.model.parse().map_err(|e: String| Error::config("model", e))?;
    if said(variables, "HF_HUB_OFFLINE").is_some_and(|v| is_yes(&v)) {
        return Err(refused(&name.to_string(), "HF_HUB_OFFLINE is set, so nothing is downloaded"));
    }
    let text = |name: &str| said(variables, name).and_then(|v| v.into_string().ok());
    let endpoint = config.endpoint.clone().or_else(|| text("HF_ENDPOINT"));
    let token = config.token.clone().or_else(|| text("HF_TOKEN"));
    let client = Client::new(endpoint.as_deref().unwrap_or(ENDPOINT), token)?;
    let root = config.cache_dir.clone().unwrap_or_else(|| cache::root(variables));
    let root = std::path::absolute(&root).unwrap_or(root);

    let Listing { commit, files } = client.list(&name)?;
    let model = root.join(name.folder());
    let mut way =
        Way { client: &client, name: &name, commit: &commit, root: &root, model: &model, have: 0, of: 0, observe };
    let chosen = chosen(&name, &files, config.file.as_deref())?;
    let wanted = match &chosen {
        Chosen::Gguf(file) => way.all(&[file])?,
        Chosen::Folder(names) => {
            let mut fetched = way.all(names)?;
            if names.contains(&INDEX) {
                let index = way.snapshot().join(INDEX);
                let shards = fs::read(&index).map_err(Error::io(&index))?;
                let shards = shards_of(&shards).map_err(|e| refused(&client.place(&name.repo, &commit, INDEX), e))?;
                fetched.extend(way.all(&shards.iter().map(String::as_str).collect::<Vec<_>>())?);
            }
            fetched
        }
    };
    let snapshot = way.snapshot();
    let path = match &chosen {
        Chosen::Gguf(file) => snapshot.join(file),
        Chosen::Folder(_) => model_in(&snapshot).map_err(|reason| name.not_found(&root, reason))?,
    };
    // Last, so that the name stands for a snapshot that is whole.
    if name.revision() != commit {
        let path = model.join("refs").join(name.revision());
        make_parent(&path)?;
        write_file(&path, commit.as_bytes())?;
    }
    let bytes = wanted.iter().map(|f| f.bytes).sum();
    Ok(Downloaded { model: name.to_string(), commit, path, files: wanted.len(), bytes })
}

fn is_yes(value: &OsString) -> bool {
    value.to_str().is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"))
}
