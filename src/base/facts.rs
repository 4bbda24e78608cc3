//! Which base an adapter belongs to: `sftmix.json` beside `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::run::atomic::write_file;

/// The file's name.
pub const FILE: &str = "sftmix.json";
/// Version of its layout.
const FORMAT: u32 = 1;

/// What `sftmix.json` holds: facts about an adapter that PEFT's file has no place for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterFacts {
    /// Version of the layout.
    pub format: u32,
    /// Version of the crate that wrote it.
    pub sftmix: String,
    /// The base model.
    pub base: BaseFacts,
    /// The settings of the run that trained it, but for paths and what is the machine's; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Value>,
    /// Content hash of the training examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_hash: Option<String>,
}

/// A base model by its contents: BLAKE3, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// Where it lay. Not compared.
    pub model: String,
    /// Hash of the weight files.
    pub weights: String,
    /// Hash of `tokenizer.json`; absent where the folder has none, or a GGUF file holds both.
    pub tokenizer: Option<String>,
    /// Hashes of the chat templates by name (`default`, `tool_use`), of their text word for word.
    #[serde(default)]
    pub chat_template: BTreeMap<String, String>,
    /// How the linears are stored: `bf16`, `q4_k,q6_k`. Not compared.
    #[serde(default)]
    pub quantization: Option<String>,
}

impl BaseFacts {
    /// The facts with how an opened model's linears are stored.
    pub fn stored_as(mut self, model: &Decoder) -> BaseFacts {
        let mut types: Vec<String> =
            model.linears().map(|l| l.weight.weight().dtype().ggml_name().to_lowercase()).collect();
        types.sort_unstable();
        types.dedup();
        self.quantization = Some(types.join(","));
        self
    }
}

impl AdapterFacts {
    /// Facts of an adapter on this base.
    pub fn new(base: BaseFacts) -> AdapterFacts {
        let sftmix = env!("CARGO_PKG_VERSION").to_string();
        AdapterFacts { format: FORMAT, sftmix, base, recipe: None, data_hash: None }
    }

    /// With the settings of the run. Those that are the machine's stay out, paths and threads: they say nothing
    /// elsewhere, and much about it.
    pub fn with_run(mut self, config: &TrainConfig, data_hash: &str) -> AdapterFacts {
        if let Ok(Value::Object(mut settings)) = serde_json::to_value(config) {
            let paths = ["model", "data", "out", "valid", "init_adapter", "cache_dir"];
            for own in paths.into_iter().chain(["device", "threads", "memory_limit", "resident_limit"]) {
                settings.remove(own);
            }
            if let crate::config::Dynamics::Path(_) = config.dynamics {
                settings.insert("dynamics".into(), "imported".into());
            }
            self.recipe = Some(Value::Object(settings));
        }
        self.data_hash = Some(data_hash.into());
        self
    }

    /// Reads `sftmix.json` of an adapter's folder; `None` where there is none, as in PEFT's own.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is damaged or of another version.
    pub fn read(adapter: &Path) -> Result<Option<AdapterFacts>> {
        let path = adapter.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let wrong = |reason: String| Error::Adapter { path: path.clone(), reason };
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("damaged: {e}")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(f) if f == FORMAT as u64 => {}
            found => return Err(wrong(format!("format: expected {FORMAT}, found {found:?}"))),
        }
        serde_json::from_value(value).map(Some).map_err(|e| wrong(e.to_string()))
    }

    /// Writes `sftmix.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_file(&dir.join(FILE), &crate::run::folder::pretty(self))
    }
}

/// Where hashes and token stores are kept when nothing else is said: the user's own cache folder, since what lies there is
/// taken at its word, and rows are private.
pub fn default_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || set("HOME").map(|h| h.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }));
    let user = if cfg!(windows) { set("LOCALAPPDATA") } else { set("XDG_CACHE_HOME").or_else(home) };
    user.map_or_else(|| std::env::temp_dir().join("sftmix-cache"), |dir| dir.join("sftmix"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        for (text, says) in [("{", "damaged"), (r#"{"format":2}"#, "format: expected 1"), (r#"{"format":1}"#, "sftmix")]
        {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = AdapterFacts::read(dir.path()).unwrap_err();
            assert!(matches!(error, Error::Adapter { .. }) && error.to_string().contains(says), "{error}");
        }
    }
}
