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
    let temporary = Guard(temporary);
    let made = fill(&mut file, &temporary.0)?;
    file.sync_all().map_err(Error::io(&temporary.0))?;
    drop(file);
    fs::rename(&temporary.0, path).map_err(Error::io(path))?;
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
    replace_dirs(&[final_dir], |dirs| fill(&dirs[0]))
}

/// The same of several folders at once: either all of them are replaced or, where a name cannot be given, none.
pub fn replace_dirs(finals: &[&Path], fill: impl FnOnce(&[PathBuf]) -> Result<()>) -> Result<()> {
    let mut made = Vec::new();
    for dir in finals {
        let above = parent(dir);
        fs::create_dir_all(above).map_err(Error::io(above))?;
        let (temporary, ()) = make_temporary(dir, |p| fs::create_dir(p)).map_err(Error::io(dir))?;
        made.push(Guard(temporary));
    }
    let temporaries: Vec<PathBuf> = made.iter().map(|g| g.0.clone()).collect();
    fill(&temporaries)?;
    temporaries.iter().try_for_each(|dir| sync_tree(dir))?;

    let mut swapped = Vec::new();
    for (temporary, dir) in temporaries.iter().zip(finals) {
        match Swap::make(temporary, dir) {
            Ok(swap) => swapped.push(swap),
            Err(e) => {
                swapped.into_iter().rev().for_each(Swap::undo);
                return Err(e);
            }
        }
    }
    for swap in swapped {
        sync_dir(parent(swap.dir));
        // Also what a killed process left under that name.
        if let Err(e) = remove(&displaced(swap.dir)) {
            log::warn!("not removed: {e}");
        }
    }
    Ok(())
}

/// Where a folder lies while another takes its name.
fn displaced(dir: &Path) -> PathBuf {
    parent(dir).join(prefixed(DISPLACED, dir))
}

/// A folder that got its name, maybe from one that had it before.
struct Swap<'a> {
    temporary: &'a Path,
    dir: &'a Path,
    replacing: bool,
}

impl<'a> Swap<'a> {
    fn make(temporary: &'a Path, dir: &'a Path) -> Result<Swap<'a>> {
        let swap = Swap { temporary, dir, replacing: present(dir)? };
        if swap.replacing {
            remove(&displaced(dir))?;
            fs::rename(dir, displaced(dir)).map_err(Error::io(dir))?;
        }
        match fs::rename(temporary, dir) {
            Ok(()) => Ok(swap),
            Err(e) => {
                swap.put_back();
                Err(Error::io(dir)(e))
            }
        }
    }

    fn put_back(self) {
        if self.replacing {
            if let Err(e) = fs::rename(displaced(self.dir), self.dir) {
                log::warn!("{} could not be given back what it held: {e}", self.dir.display());
            }
        }
    }

    fn undo(self) {
        match fs::rename(self.dir, self.temporary) {
            Ok(()) => self.put_back(),
            Err(e) => log::warn!("{} could not be taken back: {e}", self.dir.display()),
        }
    }
}

/// Has `work` use a folder under a temporary name beside `path`, and removes it, whatever comes of it.
pub fn with_temporary_dir<T>(path: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let above = parent(path);
    fs::create_dir_all(above).map_err(Error::io(above))?;
    let (temporary, ()) = make_temporary(path, |p| fs::create_dir(p)).map_err(Error::io(path))?;
    let temporary = Guard(temporary);
    work(&temporary.0)
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

/// Removes what is under a temporary name, where it still is: once it was renamed there is nothing.
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.0) {
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
    fn replaces_all_folders_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["x/a", "y/b"].map(|p| dir.path().join(p));
        let write = |text: &'static str| {
            move |dirs: &[PathBuf]| dirs.iter().try_for_each(|d| fs::write(d.join("file"), text).map_err(Error::io(d)))
        };
        let read = |path: &Path| fs::read_to_string(path.join("file")).unwrap();
        for text in ["first", "second"] {
            replace_dirs(&[&a, &b], write(text)).unwrap();
            assert_eq!((read(&a).as_str(), read(&b).as_str()), (text, text));
        }
        // The second cannot get its name: what is there is no folder that has one.
        let none = dir.path().join("y/b/file/c");
        assert!(replace_dirs(&[&a, &none], write("third")).is_err());
        let gone = |dirs: &[PathBuf]| fs::remove_dir_all(&dirs[1]).map_err(Error::io(&dirs[1]));
        assert!(replace_dirs(&[&a, &b], gone).is_err());
        let third = dir.path().join("x/third");
        fs::create_dir(&third).unwrap();
        fs::write(third.join("file"), "third").unwrap();
        let swap = Swap::make(&third, &a).unwrap();
        assert_eq!(read(&a), "third");
        swap.undo();
        assert_eq!(read(&third), "third");
        fs::remove_dir_all(&third).unwrap();
        assert_eq!((read(&a).as_str(), read(&b).as_str()), ("second", "second"));
        assert_eq!((names(&dir.path().join("x")), names(&dir.path().join("y"))), (vec!["a".into()], vec!["b".into()]));
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
