//! What a write that failed says.

use std::io;
use std::path::Path;

use crate::error::Error;

/// The error of a write of a whole file of so many bytes, which lies at this path by then: of a full disk it says how
/// many they were, and for how many of them there was no room.
pub(crate) fn writing(path: &Path, bytes: Option<u64>) -> impl FnOnce(io::Error) -> Error {
    appending(path, 0, bytes)
}

/// The same of bytes behind the first `before`.
pub(super) fn appending(path: &Path, before: u64, bytes: Option<u64>) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| {
        let source = match bytes {
            Some(bytes) if source.kind() == io::ErrorKind::StorageFull => {
                // What did not go in is what the disk lacks: it is full by now.
                let there = std::fs::metadata(&path).map_or(0, |m| m.len());
                let missing = match bytes.saturating_sub(there.saturating_sub(before)) {
                    0 => String::new(),
                    missing => format!(", {missing} of them had no room"),
                };
                io::Error::new(source.kind(), format!("{source}: {bytes} bytes were to be written{missing}"))
            }
            _ => source,
        };
        Error::io(path)(source)
    }
}
