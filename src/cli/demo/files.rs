//! The embedded default: a base model of 0.87 million parameters and the rows of a little domain, both
//! made by `examples/make_demo` (docs/decisions/0002-the-demo.md).

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::failure::Failure;

macro_rules! embedded {
    ($($place:literal: $name:literal),+ $(,)?) => {
        /// Where each file goes, and its bytes.
        const FILES: &[(&str, &[u8])] =
            &[$((concat!($place, $name), include_bytes!(concat!("../../../assets/demo/", $name)))),+];
    };
}

embedded! {
    "model/": "config.json",
    "model/": "generation_config.json",
    "model/": "model.safetensors",
    "model/": "tokenizer.json",
    "model/": "tokenizer_config.json",
    "": "train.jsonl",
    "": "valid.jsonl",
    "": "test.jsonl",
}

/// The demo laid out as a model folder and JSONL files.
#[derive(Clone, Debug)]
pub struct Files {
    pub model: PathBuf,
    pub train: PathBuf,
    pub valid: PathBuf,
    pub test: PathBuf,
}

impl Files {
    /// Writes the embedded files into `dir`.
    pub fn write(dir: &Path) -> Result<Files, Failure> {
        for (name, bytes) in FILES {
            let path = dir.join(name);
            let fault = |e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(fault)?;
            }
            std::fs::write(&path, bytes).map_err(fault)?;
        }
        let at = |name: &str| dir.join(name);
        Ok(Files { model: at("model"), train: at("train.jsonl"), valid: at("valid.jsonl"), test: at("test.jsonl") })
    }
}

/// A row of the demo.
#[derive(Clone, Debug)]
pub struct DemoRow {
    pub prompt: String,
    pub completion: String,
    /// How the answer was broken, for the rows that were.
    pub broken: Option<String>,
}

/// The rows of an embedded file, in order.
pub fn rows(name: &str) -> Vec<DemoRow> {
    let bytes = FILES.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, b)| b);
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(String::from);
    bytes
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .map(|v| DemoRow {
            prompt: text(&v, "prompt").unwrap_or_default(),
            completion: text(&v, "completion").unwrap_or_default(),
            broken: text(&v, "broken"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_training_rows_is_broken_and_none_that_is_held_out() {
        let train = rows("train.jsonl");
        assert_eq!(train.len(), 800);
        assert_eq!(train.iter().filter(|r| r.broken.is_some()).count() * 5, train.len());
        for name in ["valid.jsonl", "test.jsonl"] {
            let held_out = rows(name);
            assert!(held_out.len() >= 100 && held_out.iter().all(|r| r.broken.is_none()));
            assert!(held_out.iter().all(|h| train.iter().all(|t| t.prompt != h.prompt)), "{name} was trained on");
        }
        assert!(FILES.iter().map(|(_, b)| b.len()).sum::<usize>() <= 2_200_000);
    }
}
