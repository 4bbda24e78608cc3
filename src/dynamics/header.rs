//! `header.json`: what a log was made from and which checkpoints it holds. Always replaced whole.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::block::VERSION;
use super::fault::fault;
use crate::error::{Error, Result};

/// Name of the file in the log's folder.
pub(super) const FILE: &str = "header.json";

/// The run a checkpoint belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Stage {
    /// The reference run.
    Reference,
    /// The one run of dynamics `single`.
    Single,
    /// The target run; never used for the split.
    Target,
}

impl Stage {
    /// As in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Reference => "reference",
            Stage::Single => "single",
            Stage::Target => "target",
        }
    }
}

/// How a checkpoint's records came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A forward pass over the whole set with the weights standing still: every example once.
    Sweep,
    /// The losses of one epoch as it was trained, in training order, each before its update.
    Online,
}

/// One checkpoint of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointInfo {
    /// File stem, `<stage>-<step>`.
    pub id: String,
    /// The run it belongs to.
    pub stage: Stage,
    /// How its records came about.
    pub kind: Kind,
    /// Optimizer steps done (sweep), or done when the epoch ends (online).
    pub step: u64,
    /// Epochs done, likewise; 1 for the first epoch of an online log.
    pub epoch: f64,
    /// Content hash of the adapter, hex; empty where there is none (online).
    pub adapter_hash: String,
    /// Whether all its records are there.
    pub complete: bool,
    /// Number of records; 0 until complete.
    pub records: u64,
}

impl CheckpointInfo {
    /// A checkpoint about to be logged.
    pub fn new(stage: Stage, kind: Kind, step: u64, epoch: f64, adapter_hash: impl Into<String>) -> CheckpointInfo {
        let id = format!("{}-{step}", stage.as_str());
        CheckpointInfo { id, stage, kind, step, epoch, adapter_hash: adapter_hash.into(), complete: false, records: 0 }
    }

    pub(super) fn file_name(&self) -> String {
        format!("{}.bin", self.id)
    }
}

/// What a log was made from and which checkpoints it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format; this build writes and reads 1.
    pub format_version: u32,
    /// Content hash of the base model, hex.
    pub model_hash: String,
    /// Content hash of the data, hex.
    pub data_hash: String,
    /// Number of examples.
    pub examples: u64,
    /// In the order they were begun; only the last may be incomplete.
    pub checkpoints: Vec<CheckpointInfo>,
}

impl Header {
    /// A header without checkpoints; the writer fills in the number of examples.
    pub fn new(model_hash: impl Into<String>, data_hash: impl Into<String>) -> Header {
        Header {
            format_version: VERSION,
            model_hash: model_hash.into(),
            data_hash: data_hash.into(),
            examples: 0,
            checkpoints: Vec::new(),
        }
    }

    pub(super) fn read(dir: &Path) -> Result<Header> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let path = dir.join(FILE);
        let text = fs::read(&path).map_err(Error::io(&path))?;
        // The version first: a later one may have other fields, and then its number is the message.
        let version: Version = serde_json::from_slice(&text).map_err(|e| fault(&path, e.to_string()))?;
        if version.format_version != VERSION {
            let found = version.format_version;
            return Err(fault(&path, format!("expected format version {VERSION}, found {found}")));
        }
        let header: Header = serde_json::from_slice(&text).map_err(|e| fault(&path, e.to_string()))?;
        header.check().map_err(|reason| fault(&path, reason))?;
        Ok(header)
    }

    fn check(&self) -> Result<(), String> {
        for (i, c) in self.checkpoints.iter().enumerate() {
            // The id becomes a file name, and a log may come from elsewhere.
            let expected = format!("{}-{}", c.stage.as_str(), c.step);
            if c.id != expected {
                return Err(format!("checkpoint {i}: expected id {expected:?}, found {:?}", c.id));
            }
            if self.checkpoints[..i].iter().any(|d| d.id == c.id) {
                return Err(format!("checkpoint {} is there twice", c.id));
            }
            if !c.complete && i + 1 < self.checkpoints.len() {
                return Err(format!("checkpoint {} is incomplete but not the last", c.id));
            }
            if c.records > self.examples {
                return Err(format!("checkpoint {}: {} records for {} examples", c.id, c.records, self.examples));
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| fault(&path, e.to_string()))?;
        text.push(b'\n');
        crate::disk::write_file(&path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Header> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        Header::read(dir.path())
    }

    #[test]
    fn survives_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let mut h = Header::new("aa", "bb");
        h.examples = 3;
        h.checkpoints.push(CheckpointInfo::new(Stage::Reference, Kind::Sweep, 25, 0.25, "cc"));
        h.write(dir.path()).unwrap();
        assert_eq!(Header::read(dir.path()).unwrap(), h);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_later_version_says_so() {
        let e = read(r#"{"format_version": 2, "new": 1}"#).unwrap_err().to_string();
        assert!(e.contains("expected format version 1, found 2"), "{e}");
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        let e = read(
            r#"{"format_version":1,"model_hash":"","data_hash":"","examples":1,"checkpoints":[{"id":"../x",
            "stage":"reference","kind":"sweep","step":1,"epoch":1.0,"adapter_hash":"","complete":true,"records":1}]}"#,
        )
        .unwrap_err()
        .to_string();
        assert!(e.contains("expected id \"reference-1\""), "{e}");
    }
}
