//! The library's errors with their fields. `detail` is the whole message, as the command line prints it.

use sftmix::Error;

use crate::border::Cross;
use crate::records::Saving;

pub type Result<T, E = SftmixError> = std::result::Result<T, E>;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $t:ty),* $(,)? }),* $(,)?) => {
        /// What went wrong.
        #[derive(Clone, Debug, thiserror::Error, uniffi::Error)]
        pub enum SftmixError {
            $($(#[$doc])* #[error("{detail}")] $name { detail: String, $($field: $t),* }),*
        }
    };
}

errors! {
    /// A file could not be read or written.
    Io { path: String, reason: String },
    /// A setting is out of range, contradicts another, has no effect, or contradicts the run that is resumed.
    InvalidConfig { field: String, reason: String },
    /// The model's architecture, or a fact in its config.json, is not supported.
    ModelNotSupported { path: String, reason: String },
    /// A file of the model folder is damaged, or a tensor is absent or of another shape.
    ModelFormat { path: String, tensor: String, reason: String },
    /// The tokenizer could not be read or used.
    Tokenizer { path: String, reason: String },
    /// A chat template cannot be used, or refuses a conversation.
    ChatTemplate { path: String, reason: String },
    /// A row of the data cannot be used; rows are counted from 1.
    DataInvalid { path: String, row: u64, reason: String },
    /// No example is left to train on.
    NothingToTrain { reason: String },
    /// A stage ended with every trained number as it began.
    NothingTrained { reason: String },
    /// An adapter folder is damaged or does not fit the model.
    Adapter { path: String, reason: String },
    /// An adapter was trained on another base model than the one that it is put on.
    BaseMismatch { adapter: String, what: String, trained_on: String, expected: String, base: String, found: String },
    /// What was written, read again, is not what it was made from.
    ExportMismatch { path: String, what: String, difference: f64, bound: f64 },
    /// A dynamics log is damaged or does not fit the data.
    Dynamics { path: String, reason: String },
    /// A folder holds no dynamics log; `taken_from` is the earlier run that the run took its dynamics from.
    NoDynamics { path: String, taken_from: Option<String> },
    /// A model of this name is not in the local cache; the message says the command that downloads it.
    ModelNotFound { name: String, cache: String, reason: String },
    /// A model could not be downloaded. What was fetched of it stays.
    Download { url: String, reason: String },
    /// A run folder or checkpoint is damaged or in the way.
    Checkpoint { path: String, reason: String },
    /// A loss or gradient stopped being a finite number. The last checkpoint is kept.
    NonFinite { what: String },
    /// It was stopped; a run can be taken up from the checkpoint.
    Stopped { checkpoint: Option<String> },
    /// The device that was asked for is not in this build, is absent, or does not work.
    Device { device: String, reason: String },
    /// The device has too little memory left.
    DeviceMemory {},
    /// What was asked for needs more memory than was granted, however it is run; bytes, and what would need less.
    MemoryLimit { limit: u64, needed: u64, savings: Vec<Saving> },
    /// A tensor operation failed.
    Tensor {},
    /// A caller broke what an operation asks for: a job that runs was begun again, an object was used in a forked process.
    Misuse {},
    /// A thread could not be started, or panicked.
    Threads {},
    /// A listener or a source of rows failed.
    Callback { reason: String },
    /// An error that this version of the binding does not know.
    Other {},
}

impl From<Error> for SftmixError {
    fn from(e: Error) -> Self {
        let detail = e.to_string();
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        match e {
            Error::Io { path, source } => SftmixError::Io { detail, path: text(path), reason: source.to_string() },
            Error::InvalidConfig { field, reason } => SftmixError::InvalidConfig { detail, field, reason },
            Error::ModelNotSupported { path, reason } => {
                SftmixError::ModelNotSupported { detail, path: text(path), reason }
            }
            Error::ModelFormat { path, tensor, reason } => {
                SftmixError::ModelFormat { detail, path: text(path), tensor, reason }
            }
            Error::Tokenizer { path, reason } => SftmixError::Tokenizer { detail, path: text(path), reason },
            Error::ChatTemplate { path, reason } => SftmixError::ChatTemplate { detail, path: text(path), reason },
            Error::DataInvalid { path, row, reason } => {
                SftmixError::DataInvalid { detail, path: text(path), row, reason }
            }
            Error::NothingToTrain { reason } => SftmixError::NothingToTrain { detail, reason },
            Error::NothingTrained { reason } => SftmixError::NothingTrained { detail, reason },
            Error::Adapter { path, reason } => SftmixError::Adapter { detail, path: text(path), reason },
            Error::BaseMismatch(m) => SftmixError::BaseMismatch {
                detail,
                adapter: text(m.adapter),
                what: m.what.into(),
                trained_on: m.trained_on,
                expected: m.expected,
                base: text(m.base),
                found: m.found,
            },
            Error::ExportMismatch { path, what, difference, bound } => SftmixError::ExportMismatch {
                detail,
                path: text(path),
                what,
                difference: difference.into(),
                bound: bound.into(),
            },
            Error::Dynamics { path, reason } => SftmixError::Dynamics { detail, path: text(path), reason },
            Error::NoDynamics { path, from } => {
                SftmixError::NoDynamics { detail, path: text(path), taken_from: from.map(text) }
            }
            Error::ModelNotFound { name, cache, reason } => {
                SftmixError::ModelNotFound { detail, name, cache: text(cache), reason }
            }
            Error::Download { url, reason } => SftmixError::Download { detail, url, reason },
            Error::Checkpoint { path, reason } => SftmixError::Checkpoint { detail, path: text(path), reason },
            Error::NonFinite { what } => SftmixError::NonFinite { detail, what },
            Error::Stopped { checkpoint } => SftmixError::Stopped { detail, checkpoint: checkpoint.map(text) },
            Error::Device { device, reason } => SftmixError::Device { detail, device, reason },
            Error::DeviceMemory(_) => SftmixError::DeviceMemory { detail },
            Error::MemoryLimit { limit, needed, savings } => {
                SftmixError::MemoryLimit { detail, limit, needed, savings: savings.cross() }
            }
            Error::Tensor(_) => SftmixError::Tensor { detail },
            Error::Misuse(_) => SftmixError::Misuse { detail },
            Error::Threads(_) => SftmixError::Threads { detail },
            Error::Callback { reason } => SftmixError::Callback { detail, reason },
            // The list may grow; tests/it/doors.rs holds it against the library's.
            _ => SftmixError::Other { detail },
        }
    }
}

impl From<uniffi::UnexpectedUniFFICallbackError> for SftmixError {
    fn from(e: uniffi::UnexpectedUniFFICallbackError) -> Self {
        SftmixError::Callback { detail: format!("a callback failed: {}", e.reason), reason: e.reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What no caller can bring about: faults of ours, and of devices.
    #[test]
    fn faults_that_no_call_provokes_are_of_their_kinds_too() {
        let mismatch = Error::ExportMismatch { path: "p".into(), what: "logits".into(), difference: 0.5, bound: 0.25 };
        match SftmixError::from(mismatch) {
            SftmixError::ExportMismatch { detail, path, what, difference, bound } => {
                assert!(detail.starts_with("p: logits differ"), "{detail}");
                assert_eq!((&*path, &*what, difference, bound), ("p", "logits", 0.5, 0.25));
            }
            other => panic!("{other:?}"),
        }
        let memory = SftmixError::from(Error::DeviceMemory("m".into()));
        assert!(matches!(memory, SftmixError::DeviceMemory { detail } if detail.contains("memory: m;")));
    }
}
