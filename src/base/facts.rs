//! Which base an adapter belongs to: `sftmix.json` beside `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Dynamics, TrainConfig};
use crate::error::{Error, Result};
use crate::model::Decoder;

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
    /// Hash of the chat template that its conversations were written with, which lies beside it; absent where its rows
    /// were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

/// The settings that say how an adapter was trained, and nothing about the machine.
const TRAINING: [&str; 45] = [
    "recipe",
    "mu",
    "mix_alpha",
    "mix_reduction",
    "dynamics",
    "reference_epochs",
    "reference_checkpoints",
    "confidence",
    "epochs",
    "max_steps",
    "batch_size",
    "max_length",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "target_modules",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
    "loraplus_lr_ratio",
    "neftune_noise_alpha",
    "lr",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "adam_betas",
    "adam_eps",
    "clip",
    "seed",
    "valid_split",
    "eval_every",
    "early_stopping_patience",
    "early_stopping_threshold",
    "keep_best",
    "data_format",
    "prompt_field",
    "response_field",
    "text_field",
    "prompt_template",
    "messages_field",
    "chat_template_kwargs",
    "template_drops",
    "bad_rows",
];

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
        AdapterFacts { format: FORMAT, sftmix, base, recipe: None, data_hash: None, chat_template: None }
    }

    /// With how a run trained it: the settings that say so, and hashes of its rows and its chat template.
    pub fn with_run(
        mut self,
        config: &TrainConfig,
        data_hash: Option<&str>,
        chat_template: Option<&str>,
    ) -> AdapterFacts {
        if let Ok(Value::Object(settings)) = serde_json::to_value(config) {
            let mut kept: Map<String, Value> =
                settings.into_iter().filter(|(name, _)| TRAINING.contains(&name.as_str())).collect();
            if let Dynamics::Path(_) = config.dynamics {
                kept.insert("dynamics".into(), "imported".into());
            }
            self.recipe = Some(Value::Object(kept));
        }
        self.data_hash = data_hash.map(Into::into);
        self.chat_template = chat_template.map(Into::into);
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

    /// Writes `sftmix.json` into a folder that is itself written whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        crate::disk::put(&dir.join(FILE), &crate::disk::pretty(self)?)
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
    use crate::config::LoraConfig;

    /// A setting that is added must be put into the list, or here.
    #[test]
    fn what_is_kept_of_the_settings_is_listed() {
        let machine = [
            "model",
            "data",
            "out",
            "valid",
            "init_adapter",
            "force_base",
            "device",
            "threads",
            "micro_batch",
            "recompute",
            "memory_limit",
            "resident_limit",
            "save_every",
            "keep",
            "cache_dir",
            "chat_template",
        ];
        let all = TrainConfig { lora: Some(LoraConfig::default()), ..Default::default() };
        let Ok(Value::Object(all)) = serde_json::to_value(all) else { unreachable!() };
        let mut all: Vec<&str> = all.keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = TRAINING.into_iter().chain(machine).collect();
        all.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, all);
    }

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
