//! The one error type. Each variant is named for who can act on it, and each names the file, line,
//! tensor, field or setting at fault.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::units::show_bytes;

/// Result with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A setting is out of range, contradicts another, or contradicts the run that is resumed.
    #[error("invalid setting {field}: {reason}")]
    InvalidConfig {
        /// The setting, as in [`crate::config::TrainConfig`] and on the command line.
        field: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// The model's architecture, or a fact in its `config.json`, is not supported.
    #[error("{}: model not supported: {reason}", path.display())]
    ModelNotSupported {
        /// The `config.json`.
        path: PathBuf,
        /// The key and value at fault.
        reason: String,
    },
    /// A file of the model folder is damaged, or a tensor is absent or of another shape.
    #[error("{}: {tensor}: {reason}", path.display())]
    ModelFormat {
        /// The file.
        path: PathBuf,
        /// The tensor (or key) at fault.
        tensor: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// The tokenizer could not be read or used.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A chat template cannot be used, or refuses a conversation.
    #[error("{}: {reason}", path.display())]
    ChatTemplate {
        /// The file that the template is from.
        path: PathBuf,
        /// The template's own words, or its line and what is wrong with it.
        reason: String,
    },
    /// A row of the data cannot be used.
    #[error("{}: row {row}: {reason}", path.display())]
    DataInvalid {
        /// The data file.
        path: PathBuf,
        /// Line of a JSONL file, or element of a JSON array; counted from 1.
        row: u64,
        /// What was expected and what was found.
        reason: String,
    },
    /// No example is left to train on.
    #[error("nothing to train on: {reason}")]
    NothingToTrain {
        /// How many rows were read and why none was kept.
        reason: String,
    },
    /// A stage ended with every trained number as it began.
    #[error("nothing was trained: {reason}")]
    NothingTrained {
        /// What did not move, and what would move it.
        reason: String,
    },
    /// An adapter folder is damaged or does not fit the model.
    #[error("{}: adapter: {reason}", path.display())]
    Adapter {
        /// The folder or file.
        path: PathBuf,
        /// Tensor or key at fault, what was expected and what was found.
        reason: String,
    },
    /// An adapter was trained on another base model than the one that it is put on.
    #[error(transparent)]
    BaseMismatch(Box<BaseMismatch>),
    /// What was written, read again, is not what it was made from.
    #[error("{}: {what} differ by {difference:e} from what they were made from, and rounding explains {bound:e}", path.display())]
    ExportMismatch {
        /// Where it would have stood.
        path: PathBuf,
        /// What was compared: logits or numbers, and of what.
        what: String,
        /// Largest difference.
        difference: f32,
        /// What rounding explains.
        bound: f32,
    },
    /// A dynamics log is damaged or does not fit the data.
    #[error("{}: dynamics: {reason}", path.display())]
    Dynamics {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A folder holds no dynamics log.
    #[error("{}: no dynamics here", path.display())]
    NoDynamics {
        /// The folder.
        path: PathBuf,
        /// The earlier run that the run took its dynamics from, where it did.
        from: Option<PathBuf>,
    },
    /// A run folder or checkpoint is damaged or in the way.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A loss or gradient stopped being a finite number. The last checkpoint is kept.
    #[error("not a finite number: {what}")]
    NonFinite {
        /// The quantity, the step and, where known, the row or tensor.
        what: String,
    },
    /// The run was stopped by its handle or observer.
    #[error("stopped{}", checkpoint.as_ref().map(|p| format!(", checkpoint in {}", p.display())).unwrap_or_default())]
    Stopped {
        /// The checkpoint that `--resume` continues from, when one was written.
        checkpoint: Option<PathBuf>,
    },
    /// The device that was asked for is not in this build, is absent, or does not work.
    #[error("{device}: {reason}")]
    Device {
        /// The device, as in the setting.
        device: String,
        /// What it said.
        reason: String,
    },
    /// The device has too little memory left.
    #[error("the device has too little memory: {0}; a smaller micro_batch or recompute on needs less")]
    DeviceMemory(String),
    /// What was asked for needs more memory than was granted, however it is run.
    #[error("memory limit {}: at least {} are needed{}", show_bytes(*limit), show_bytes(*needed), listed(savings))]
    MemoryLimit {
        /// Bytes that were granted.
        limit: u64,
        /// Bytes that the smallest way to run it needs.
        needed: u64,
        /// Changes of the settings that would need less, and the bytes that each saves.
        savings: Vec<(String, u64)>,
    },
    /// candle refused an operation.
    #[error("tensor operation failed: {0}")]
    Tensor(#[source] Arc<candle_core::Error>),
    /// A caller broke what an operation asks for: a job that runs was begun again, an event acknowledged that was not
    /// given out.
    #[error("misuse: {0}")]
    Misuse(String),
    /// What the caller handed over to be called, a listener or a source of rows, failed.
    #[error("a callback failed: {reason}")]
    Callback {
        /// What it said.
        reason: String,
    },
    /// The thread pool could not be made, or a worker thread panicked.
    #[error("worker threads: {0}")]
    Threads(String),
}

/// The adapter and the two bases of [`Error::BaseMismatch`].
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{}: adapter: trained on another base: the {what} of {trained_on} had content hash {expected}, those of {} have {found}",
    adapter.display(),
    base.display()
)]
pub struct BaseMismatch {
    /// The adapter's folder.
    pub adapter: PathBuf,
    /// What differs: `weights` or `tokenizer`.
    pub what: &'static str,
    /// Where the base lay that it was trained on.
    pub trained_on: String,
    /// Content hash by the adapter's `sftmix.json`.
    pub expected: String,
    /// The base that it is put on.
    pub base: PathBuf,
    /// Content hash of that one.
    pub found: String,
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Error {
        // The back ends' error types exist in their builds only; what they say is the same in all.
        let text = e.to_string();
        match text.lines().next() {
            Some(line) if line.contains("OUT_OF_MEMORY") || line.contains("out of memory") => {
                Error::DeviceMemory(line.trim().to_string())
            }
            _ => Error::Tensor(Arc::new(e)),
        }
    }
}

fn listed(savings: &[(String, u64)]) -> String {
    let one = |(what, bytes): &(String, u64)| format!("{what} would save {}", show_bytes(*bytes));
    savings.iter().map(|s| format!("; {}", one(s))).collect()
}

/// What a thread said as it panicked.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source: Arc::new(source) }
    }

    /// The error with a path inside `from` as it will be inside `to`.
    pub(crate) fn renamed(mut self, from: &Path, to: &Path) -> Error {
        match &mut self {
            Error::Io { path, .. }
            | Error::ModelNotSupported { path, .. }
            | Error::ModelFormat { path, .. }
            | Error::Tokenizer { path, .. }
            | Error::ChatTemplate { path, .. }
            | Error::DataInvalid { path, .. }
            | Error::Adapter { path, .. }
            | Error::ExportMismatch { path, .. }
            | Error::Dynamics { path, .. }
            | Error::NoDynamics { path, .. }
            | Error::Checkpoint { path, .. } => {
                if let Ok(inside) = path.strip_prefix(from) {
                    let known = if inside.as_os_str().is_empty() { to.to_path_buf() } else { to.join(inside) };
                    *path = known;
                }
            }
            _ => {}
        }
        self
    }

    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::InvalidConfig { field: field.into(), reason: reason.into() }
    }
}
