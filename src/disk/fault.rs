//! What a write that failed says.

use std::io;
use std::path::Path;

use crate::error::Error;

/// The error of a write of so many bytes: of a full disk it says how many they were.
pub(crate) fn writing(path: &Path, bytes: Option<u64>) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| {
        let source = match bytes {
            Some(bytes) if source.kind() == io::ErrorKind::StorageFull => {
                io::Error::new(source.kind(), format!("{source}: {bytes} bytes were to be written"))
            }
            _ => source,
        };
        Error::io(path)(source)
    }
}
