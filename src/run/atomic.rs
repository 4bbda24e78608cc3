//! Files and folders that are there whole or not at all, whenever the process is killed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Begins the name of everything temporary.
const PREFIX: &str = ".tmp-";
/// Begins the name of a folder that is being replaced, then its own name.
const DISPLACED: &str = ".tmp-old-";

/// Writes a file under a temporary name beside it, syncs it and renames it into place.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file, _| file.write_all(bytes).map_err(Error::io(path)))
}

/// The same with `fill` writing the file, whose temporary name it is told; when that fails, the temporary file is removed and `path` is as it was.
pub fn write_with<T>(path: &Path, fill: impl FnOnce(&mut File, &Path) -> Result<T>) -> Result<T> {
    let (temporary, mut file) =
        make_temporary(path, |p| OpenOptions::new().write(true).create_new(true).open(p)).map_err(Error::io(path))?;
    let guard = Guard(&temporary);
    let made = fill(&mut file, &temporary)?;
    file.sync_all().map_err(Error::io(&temporary))?;
    drop(file);
    fs::rename(&temporary, path).map_err(Error::io(path))?;
    guard.disarm();
    sync_dir(parent(path));
    Ok(made)
}

/// Has `fill` build a folder under a temporary name beside `final_dir`, syncs what is in it and renames
/// it into place, instead of an older `final_dir` where there is one. Missing parents are created. When
/// `fill` fails, the temporary folder is removed and `final_dir` is as it was.
///
/// Killed between the two renames of a replacement, the older folder is left under a temporary name;
/// [`clean_temporaries`] puts it back.
pub fn replace_dir(final_dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let above = parent(final_dir);
    fs::create_dir_all(above).map_err(Error::io(above))?;
    let (temporary, ()) = make_temporary(final_dir, |p| fs::create_dir(p)).map_err(Error::io(final_dir))?;
    let guard = Guard(&temporary);
    fill(&temporary)?;
    sync_tree(&temporary)?;

    let displaced = above.join(prefixed(DISPLACED, final_dir));
    let replacing = present(final_dir)?;
    if replacing {
        remove(&displaced)?;
        fs::rename(final_dir, &displaced).map_err(Error::io(final_dir))?;
    }
    if let Err(e) = fs::rename(&temporary, final_dir) {
        if replacing {
            if let Err(e) = fs::rename(&displaced, final_dir) {
                log::warn!("{} could not be renamed back to {}: {e}", displaced.display(), final_dir.display());
            }
        }
        return Err(Error::io(final_dir)(e));
    }
    guard.disarm();
    sync_dir(above);
    if let Err(e) = remove(&displaced) {
        log::warn!("not removed: {e}");
    }
    Ok(())
}

/// Has `work` use a folder under a temporary name beside `path`, and removes it, whatever comes of it.
pub fn with_temporary_dir<T>(path: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let above = parent(path);
    fs::create_dir_all(above).map_err(Error::io(above))?;
    let (temporary, ()) = make_temporary(path, |p| fs::create_dir(p)).map_err(Error::io(path))?;
    let _guard = Guard(&temporary);
    work(&temporary)
}

/// Removes what killed processes left in `dir` under temporary names, and puts back a folder whose
/// replacement never came. Not while another process writes there. A `dir` that is absent is clean.
pub fn clean_temporaries(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(dir)(e)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io(dir))?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        if let Some(original) = name.strip_prefix(DISPLACED).map(|n| dir.join(n)) {
            if !present(&original)? {
                fs::rename(&path, &original).map_err(Error::io(&original))?;
                continue;
            }
        }
        if name.starts_with(PREFIX) {
            remove(&path)?;
        }
    }
    sync_dir(dir);
    Ok(())
}

/// Removes what is under a temporary name, unless it has been renamed.
struct Guard<'a>(&'a Path);

impl Guard<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Err(e) = remove(self.0) {
            log::warn!("not removed: {e}");
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn prefixed(prefix: &str, path: &Path) -> String {
    format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Makes something beside `path` under a name that nothing has.
fn make_temporary<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this path has no name of its own"));
    }
    loop {
        // Processes in other containers may have the same number, and so may one that was killed.
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = parent(path).join(prefixed(&format!("{PREFIX}{}-{n}-", std::process::id()), path));
        match make(&temporary) {
            Ok(made) => return Ok((temporary, made)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether something has this name, be it a dangling link.
fn present(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Removes a file or folder; a link, not what it points to. Absent is fine.
fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io(&path))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows flushes only what is open for writing.
            let file = OpenOptions::new().read(true).write(cfg!(windows)).open(&path);
            file.and_then(|f| f.sync_all()).map_err(Error::io(&path))?;
        }
    }
    sync_dir(dir);
    Ok(())
}

/// Makes renames in a folder last, where the system has a way. Some file systems refuse; then it is up
/// to them.
fn sync_dir(dir: &Path) {
    #[cfg(unix)]
    if let Err(e) = fs::File::open(dir).and_then(|d| d.sync_all()) {
        log::debug!("{}: not synced: {e}", dir.display());
    }
    #[cfg(not(unix))]
    let _ = dir;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |dir| {
            assert!(dir.file_name().unwrap().to_str().unwrap().starts_with(PREFIX));
            fs::create_dir(dir.join("sub")).unwrap();
            write_file(&dir.join("sub").join("file"), text.as_bytes())
        }
    }

    fn content(dir: &Path) -> String {
        fs::read_to_string(dir.join("sub/file")).unwrap()
    }

    #[test]
    fn writes_and_replaces_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for text in ["first", "second, longer", ""] {
            write_file(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(dir.path()), ["state.json"]);
        // In the way, or nowhere to write: an error, and nothing is left behind.
        fs::create_dir_all(dir.path().join("folder/full")).unwrap();
        assert!(matches!(write_file(&dir.path().join("folder"), b"x"), Err(Error::Io { .. })));
        assert!(matches!(write_file(&dir.path().join("absent/x"), b"x"), Err(Error::Io { .. })));
        assert!(matches!(write_file(&dir.path().join(".."), b"x"), Err(Error::Io { .. })));
        assert_eq!(names(dir.path()), ["folder", "state.json"]);
    }

    #[test]
    fn takes_a_name_that_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        // Left by a killed process of the same number.
        for n in 0..200 {
            fs::write(dir.path().join(format!("{PREFIX}{}-{n}-x", std::process::id())), "left").unwrap();
        }
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()).len(), 201);
        clean_temporaries(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn replaces_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/checkpoint-5");
        for text in ["first", "second"] {
            replace_dir(&path, fill(text)).unwrap();
            assert_eq!(content(&path), text);
            assert_eq!(names(path.parent().unwrap()), ["checkpoint-5"]);
        }
        let failed = replace_dir(&path, |d| {
            fs::write(d.join("half"), "x").unwrap();
            Err(Error::Threads("no".into()))
        });
        assert!(matches!(failed, Err(Error::Threads(_))));
        assert_eq!(content(&path), "second");
        assert_eq!(names(path.parent().unwrap()), ["checkpoint-5"]);
        let panicked = std::panic::catch_unwind(|| replace_dir(&path, |_| panic!("in fill")));
        assert!(panicked.is_err());
        assert_eq!(names(path.parent().unwrap()), ["checkpoint-5"]);
    }

    #[test]
    fn cleans_up_after_a_kill_at_any_moment() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("adapter"), dir.path().join(".tmp-old-adapter"));
        let new = dir.path().join(".tmp-7-0-adapter");
        clean_temporaries(&dir.path().join("absent")).unwrap();

        // Before the renames.
        fill("old")(&make(&new)).unwrap();
        fs::rename(&new, &path).unwrap();
        fill("new")(&make(&new)).unwrap();
        fs::write(dir.path().join(".tmp-7-1-file"), "x").unwrap();
        clean_temporaries(dir.path()).unwrap();
        assert_eq!((names(dir.path()), content(&path)), (vec!["adapter".into()], "old".into()));
        // Between them: the older is put back.
        fs::rename(&path, &old).unwrap();
        fill("new")(&make(&new)).unwrap();
        clean_temporaries(dir.path()).unwrap();
        assert_eq!((names(dir.path()), content(&path)), (vec!["adapter".into()], "old".into()));
        // Between them, but the folder is written again first.
        fs::rename(&path, &old).unwrap();
        replace_dir(&path, fill("again")).unwrap();
        assert_eq!((names(dir.path()), content(&path)), (vec!["adapter".into()], "again".into()));
        // After them.
        fill("old")(&make(&new)).unwrap();
        fs::rename(&new, &old).unwrap();
        clean_temporaries(dir.path()).unwrap();
        assert_eq!((names(dir.path()), content(&path)), (vec!["adapter".into()], "again".into()));
    }

    fn make(dir: &Path) -> PathBuf {
        fs::create_dir(dir).unwrap();
        dir.into()
    }
}
