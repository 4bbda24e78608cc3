//! The error of a damaged or unfinished log.

use std::path::Path;

use crate::error::Error;

/// What is wrong with a log or a file of it.
pub(super) fn fault(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
    Error::Dynamics { path: path.as_ref().to_path_buf(), reason: reason.into() }
}
