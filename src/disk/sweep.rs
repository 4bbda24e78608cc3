//! Removing what killed processes left.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::names::{own_mark, present, remove, DISPLACED, LOCK, TEMPORARY};
use super::sync::sync_dir;
use crate::error::{Error, Result};

/// Removes what killed processes left in `dir` under temporary names, and puts back a folder whose replacement never
/// came. What a living process holds stays, and so does what has no lock that says whether one does. A `dir` that is
/// absent is clean.
pub(crate) fn sweep(dir: &Path) -> Result<()> {
    let mut names = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                names.extend(entry.map_err(Error::io(dir))?.file_name().into_string().ok());
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(dir)(e)),
    }
    let mut swept = false;
    // What this process writes is in the hands of its own threads.
    let stamps = names.iter().filter_map(|n| n.strip_prefix(LOCK)).filter(|s| !s.starts_with(own_mark()));
    for stamp in stamps {
        let lock_path = dir.join(format!("{LOCK}{stamp}"));
        let Ok(lock) = OpenOptions::new().write(true).open(&lock_path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let of = |name: &String, prefix: &str| {
            name.strip_prefix(prefix)?.strip_prefix(stamp)?.strip_prefix('-').map(|original| dir.join(original))
        };
        for name in &names {
            let path = dir.join(name);
            if let Some(original) = of(name, DISPLACED) {
                if present(&path)? && !present(&original)? {
                    fs::rename(&path, &original).map_err(Error::io(&original))?;
                } else {
                    remove(&path)?;
                }
            } else if of(name, TEMPORARY).is_some() {
                remove(&path)?;
            }
        }
        drop(lock);
        remove(&lock_path)?;
        swept = true;
    }
    if swept {
        sync_dir(dir);
    }
    Ok(())
}
