//! The run folder: `run.json` (every setting and hash), `metrics.jsonl`, `report.json` when finished.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::report::TrainReport;
use super::stands_on::StandsOn;
use crate::config::DeviceSetting;
use crate::config::TrainConfig;
use crate::data::text::chat::ChatFacts;
use crate::data::tokens::RowCounts;
use crate::data::tokens::SourceCounts;
use crate::disk::{pretty, read_if_there, write_file, Append, FolderLock};
use crate::error::{Error, Result};
use crate::steps::cut::Cut;

/// Version of the folder's layout.
const FORMAT: u32 = 2;
/// Imported confidences: f32 little endian, one an example, NaN where there is none.
const CONFIDENCE: &str = "confidence.bin";
/// Bytes of `metrics.jsonl` whose events a reader has acknowledged, as text.
const ACKNOWLEDGED: &str = "events.ack";
/// Rows that a caller handed over.
const ROWS: &str = "rows.jsonl";
/// Says, until there is a run, that `rows.jsonl` is ours: a process that is killed leaves both.
const CLAIM: &str = ".rows";

/// What `run.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// Version of the layout.
    pub format: u32,
    /// Version of the crate that began the run.
    pub sftmix: String,
    /// Every setting.
    pub config: TrainConfig,
    /// What the settings left open; used again on resume, since it decides bits.
    pub resolved: Resolved,
    /// What it stands on.
    pub stands_on: StandsOn,
    /// How rows became examples.
    pub rows: RowCounts,
    /// The same of each data file, with what was held out and what its weight takes.
    #[serde(default)]
    pub sources: Vec<SourceCounts>,
    /// How conversations were written; absent where rows are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatFacts>,
}

/// Choices that the settings left open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// Where the run was begun.
    #[serde(default = "cpu")]
    pub device: DeviceSetting,
    /// The processor's instructions that the kernels used, as `avx512+amx`; absent on a GPU, and where an earlier
    /// version began the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Worker threads.
    pub threads: usize,
    /// How rows are cut.
    #[serde(flatten)]
    pub cut: Cut,
    /// Query rows of an attention tile.
    pub attention_tile: usize,
}

/// Where runs were before there was a choice.
fn cpu() -> DeviceSetting {
    DeviceSetting::Cpu
}

impl RunFile {
    /// A new run.
    pub fn new(config: TrainConfig, resolved: Resolved, stands_on: StandsOn, rows: RowCounts) -> RunFile {
        let sftmix = env!("CARGO_PKG_VERSION").to_string();
        RunFile { format: FORMAT, sftmix, config, resolved, stands_on, rows, sources: Vec::new(), chat: None }
    }
}

/// A run folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// The folder `dir`, there or not.
    pub fn new(dir: &Path) -> RunFolder {
        RunFolder { dir: dir.to_path_buf() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `adapter/`.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join("adapter")
    }

    /// `dynamics/`.
    pub fn dynamics(&self) -> PathBuf {
        self.dir.join("dynamics")
    }

    /// `initial_adapter/`: a copy of the adapter that training starts from.
    pub fn initial_adapter(&self) -> PathBuf {
        self.dir.join("initial_adapter")
    }

    /// `cache/`.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// `metrics.jsonl`.
    pub fn metrics_path(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// `rows.jsonl`: rows that a caller handed over one by one.
    pub fn rows(&self) -> PathBuf {
        self.dir.join(ROWS)
    }

    /// Makes room for `rows.jsonl`: one that an earlier process left before there was a run goes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is somebody else's.
    pub fn claim_rows(&self) -> Result<()> {
        let (rows, claim) = (self.rows(), self.dir.join(CLAIM));
        if rows.exists() && !claim.exists() {
            let reason = "the folder holds rows.jsonl of something else: choose another".into();
            return Err(Error::Checkpoint { path: self.dir.clone(), reason });
        }
        write_file(&claim, b"")
    }

    /// The rows are a run's: `run.json` says so from now on.
    pub fn rows_are_claimed(&self) {
        let _ = std::fs::remove_file(self.dir.join(CLAIM));
    }

    /// Rows that were claimed go, where no run has taken them up.
    pub fn drop_rows(&self) {
        let claim = self.dir.join(CLAIM);
        if claim.exists() {
            let _ = std::fs::remove_file(self.rows());
            let _ = std::fs::remove_file(claim);
        }
    }

    /// Bytes of `metrics.jsonl` whose events were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.join(ACKNOWLEDGED)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Keeps how far events were acknowledged. It is not brought to the disk: where it is lost, events come again.
    pub fn acknowledge(&self, bytes: u64) {
        let path = self.dir.join(ACKNOWLEDGED);
        if let Err(e) = std::fs::write(&path, format!("{bytes}\n")) {
            log::warn!("{}: {e}: events may come again", path.display());
        }
    }

    /// The name of something in the folder that a run would write over, when no run is there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn foreign(&self) -> Result<Option<String>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&self.dir)(e)),
        };
        for entry in entries {
            let name = entry.map_err(Error::io(&self.dir))?.file_name().to_string_lossy().into_owned();
            let ours = ["adapter", "initial_adapter", "dynamics", "metrics.jsonl", "report.json", CONFIDENCE];
            if ours.contains(&name.as_str()) || name.starts_with("checkpoint-") {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Locks the folder, which is made where it is absent, until the lock is dropped.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another process works in it.
    pub fn lock(&self) -> Result<FolderLock> {
        FolderLock::take(&self.dir)
    }

    /// The imported confidences that the run was begun with; `None` where there are none yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn confidence(&self) -> Result<Option<Vec<f32>>> {
        let bytes = read_if_there(&self.dir.join(CONFIDENCE))?;
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok(bytes.map(|b| b.chunks_exact(4).map(float).collect()))
    }

    /// Keeps imported confidences, so that the run does not depend on where they came from.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_confidence(&self, confidence: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = confidence.iter().flat_map(|c| c.to_le_bytes()).collect();
        write_file(&self.dir.join(CONFIDENCE), &bytes)
    }

    /// Reads `run.json`; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or another version wrote it.
    pub fn read(&self) -> Result<Option<RunFile>> {
        let path = self.dir.join("run.json");
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let bad = |reason: String| Error::Checkpoint { path: path.clone(), reason };
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(f) if f == FORMAT as u64 => {}
            found => return Err(bad(format!("expected run format {FORMAT}, found {found:?}"))),
        }
        Ok(Some(serde_json::from_value(value).map_err(|e| bad(format!("not a run file: {e}")))?))
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, run: &RunFile) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir))?;
        write_file(&self.dir.join("run.json"), &pretty(run)?)
    }

    /// The report of a finished run.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn report(&self) -> Result<Option<TrainReport>> {
        let path = self.dir.join("report.json");
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let report: TrainReport = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Checkpoint { path, reason: format!("not a report: {e}") })?;
        // The folder may have been moved since.
        Ok(Some(TrainReport { run: self.dir.clone(), adapter: self.adapter(), ..report }))
    }

    /// Marks the run as finished.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&self, report: &TrainReport) -> Result<()> {
        write_file(&self.dir.join("report.json"), &pretty(report)?)
    }

    /// Opens `metrics.jsonl` for appending behind its first `bytes`: a run that was killed has written lines
    /// that its checkpoint does not know.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn metrics(&self, bytes: u64) -> Result<Metrics> {
        let path = self.metrics_path();
        let metrics = Metrics(Append::open(&path, bytes)?);
        if metrics.bytes() < bytes {
            let found = metrics.bytes();
            log::warn!("{}: expected {bytes} bytes, found {found}: lines of it are gone", path.display());
        }
        Ok(metrics)
    }
}

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub struct Metrics(Append);

impl Metrics {
    /// Appends one line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|e| Error::Misuse(format!("a line of metrics: {e}")))?;
        text.push(b'\n');
        self.0.append(&text)
    }

    /// Brings its lines to the disk, before a checkpoint counts them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}
