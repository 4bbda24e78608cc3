use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::folders::Swap;
use super::names::{Temporary, DISPLACED, LOCK, TEMPORARY};
use super::*;
use crate::error::{Error, Result};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
    move |dir| {
        assert!(dir.file_name().unwrap().to_str().unwrap().starts_with(TEMPORARY));
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
    let (third, ()) = Temporary::make(&a, |p| fs::create_dir(p)).unwrap();
    fs::write(third.path.join("file"), "third").unwrap();
    let swap = Swap::make(&third, &a).unwrap();
    assert_eq!(read(&a), "third");
    swap.undo();
    assert_eq!(read(&third.path), "third");
    drop(third);
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

/// What a process left or still has: its lock's file, which it is told by.
fn stamp(dir: &Path, stamp: &str) -> File {
    File::create(dir.join(format!("{LOCK}{stamp}"))).unwrap()
}

fn build(dir: &Path, prefix: &str, stamp: &str, text: &'static str) -> PathBuf {
    let path = dir.join(format!("{prefix}{stamp}-adapter"));
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("sub/file"), text).unwrap();
    path
}

#[test]
fn cleans_up_after_a_kill_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, path) = (dir.path(), dir.path().join("adapter"));
    sweep(&dir.join("absent")).unwrap();
    // Before the renames.
    build(dir, "", "x", "").rename_to(&path, "old");
    drop(stamp(dir, "7_a_0"));
    build(dir, TEMPORARY, "7_a_0", "new");
    sweep(dir).unwrap();
    assert_eq!((names(dir), content(&path)), (vec!["adapter".into()], "old".into()));
    // Between them: the older is put back.
    drop(stamp(dir, "7_a_1"));
    fs::rename(&path, dir.join(format!("{DISPLACED}7_a_1-adapter"))).unwrap();
    build(dir, TEMPORARY, "7_a_1", "new");
    sweep(dir).unwrap();
    assert_eq!((names(dir), content(&path)), (vec!["adapter".into()], "old".into()));
    // Between them, but the folder is written again first.
    drop(stamp(dir, "7_a_2"));
    fs::rename(&path, dir.join(format!("{DISPLACED}7_a_2-adapter"))).unwrap();
    build(dir, TEMPORARY, "7_a_2", "new");
    replace_dir(&path, fill("again")).unwrap();
    assert_eq!((names(dir), content(&path)), (vec!["adapter".into()], "again".into()));
    // After them.
    drop(stamp(dir, "7_a_3"));
    build(dir, DISPLACED, "7_a_3", "old");
    sweep(dir).unwrap();
    assert_eq!((names(dir), content(&path)), (vec!["adapter".into()], "again".into()));
}

trait RenameTo {
    fn rename_to(&self, to: &Path, text: &str);
}

impl RenameTo for PathBuf {
    fn rename_to(&self, to: &Path, text: &str) {
        fs::rename(self, to).unwrap();
        fs::write(to.join("sub/file"), text).unwrap();
    }
}

#[test]
fn a_sweep_leaves_what_is_held_what_cannot_be_told_and_what_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let held = stamp(dir, "7_a_0");
    held.lock().unwrap();
    let living = [build(dir, TEMPORARY, "7_a_0", "new"), build(dir, DISPLACED, "7_a_0", "old")];
    // Where a file system has no locks, none lies beside it.
    let untold = build(dir, TEMPORARY, "8_b_0", "new");
    fs::create_dir(dir.join(".tmp-mywork")).unwrap();
    fs::write(dir.join(".tmp-old-thesis"), "x").unwrap();
    let (own, mut file) = Draft::create(&dir.join("own")).unwrap();
    file.write_all(b"own").unwrap();
    let before = names(dir);
    sweep(dir).unwrap();
    assert_eq!(names(dir), before);
    drop(file);
    own.keep(&dir.join("own")).unwrap();
    drop(held);
    sweep(dir).unwrap();
    assert_eq!(
        names(dir),
        [untold.file_name().unwrap().to_str().unwrap(), ".tmp-mywork", ".tmp-old-thesis", "adapter", "own"]
    );
    assert!(!living[0].exists() && !living[1].exists());
}

#[test]
fn each_file_is_synced_once() {
    let dir = tempfile::tempdir().unwrap();
    let (path, settings) = (dir.path().join("checkpoint-6"), dir.path().join("run.json"));
    let done = || {
        let all = DONE.take();
        let of = |which: fn(&Done) -> bool| all.iter().filter(|d| which(d)).count();
        let named: Vec<_> = all.iter().position(|d| matches!(d, Done::Named(_))).into_iter().collect();
        (of(|d| matches!(d, Done::File(..))), of(|d| matches!(d, Done::Folder(_))), named)
    };
    done();
    let six = |d: &Path| (0..6).try_for_each(|i| put(&d.join(i.to_string()), b"x"));
    replace_dir(&path, six).unwrap();
    // The folder itself before it is named, and the one that names it after.
    assert_eq!(done(), (6, 2, vec![7]));
    write_file(&settings, b"{}").unwrap();
    let folder = dir.path().to_path_buf();
    assert_eq!(DONE.take(), [Done::File(settings.clone(), 2), Done::Named(settings), Done::Folder(folder)]);
}

#[test]
fn errors_name_what_a_person_knows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint-30");
    let full = |d: &Path| {
        let file = d.join("optimizer.safetensors");
        Err(writing(&file, Some(4096))(std::io::Error::from(std::io::ErrorKind::StorageFull)))
    };
    let error = replace_dir(&path, full).unwrap_err().to_string();
    assert!(error.contains("checkpoint-30/optimizer.safetensors") || cfg!(windows), "{error}");
    assert!(error.contains("4096 bytes") && !error.contains(".sftmix-"), "{error}");
    let error = with_temporary_dir(&path, full).unwrap_err().to_string();
    assert!(error.contains("checkpoint-30") && !error.contains(".sftmix-"), "{error}");
    let error = write_with(&path, |_, p| Err::<(), _>(Error::io(p)(std::io::Error::other("no")))).unwrap_err();
    assert!(matches!(error, Error::Io { path: p, .. } if p == path));
    // What went in before the disk was full is not missing.
    let at = dir.path().join("half");
    fs::write(&at, [0; 1000]).unwrap();
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = writing(&at, Some(4096))(full()).to_string();
    assert!(error.ends_with("4096 bytes were to be written, 3096 of them had no room"), "{error}");
    let error = super::fault::appending(&at, 900, Some(400))(full()).to_string();
    assert!(error.ends_with("400 bytes were to be written, 300 of them had no room"), "{error}");
    // A file system that allocates late does not say how many.
    let error = writing(&at, Some(1000))(full()).to_string();
    assert!(error.ends_with("1000 bytes were to be written"), "{error}");
    // Of the system itself.
    #[cfg(target_os = "linux")]
    {
        let error = put(Path::new("/dev/full"), &[0; 5000]).unwrap_err().to_string();
        assert!(error.contains("5000 bytes were to be written"), "{error}");
    }
}

#[test]
fn appends_behind_a_known_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut file = Append::open(&path, 10).unwrap();
    assert_eq!(file.bytes(), 0);
    file.append(b"one\ntwo\n").unwrap();
    drop(file);
    // On Windows a file that is opened to append cannot be cut: every run failed there.
    let mut file = Append::open(&path, 4).unwrap();
    file.append(b"2\n").unwrap();
    file.sync().unwrap();
    assert_eq!((file.bytes(), fs::read_to_string(&path).unwrap().as_str()), (6, "one\n2\n"));
}

#[test]
fn a_lock_names_its_owner_and_goes_with_what_was_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (above, out) = (dir.path().join("above"), dir.path().join("above/out"));
    let lock = FolderLock::take(&out).unwrap().with(out.join("cache"));
    fs::create_dir_all(out.join("cache/x")).unwrap();
    let error = FolderLock::take(&out).unwrap_err().to_string();
    assert!(error.ends_with("another job of this process works in this folder") || cfg!(windows), "{error}");
    // As another process would have written it.
    fs::write(out.join(".lock"), "1").unwrap();
    let error = FolderLock::take(&out).unwrap_err().to_string();
    assert!(error.ends_with("another process works in this folder (process 1)") || cfg!(windows), "{error}");
    drop(lock);
    assert!(!above.exists());
    // A folder that was there stays with what is in it.
    fs::create_dir_all(out.join("cache")).unwrap();
    fs::write(out.join("notes"), "x").unwrap();
    drop(FolderLock::take(&out).unwrap().with(out.join("cache")));
    assert_eq!(names(&out), ["cache", "notes"]);
    let mut lock = FolderLock::take(&out).unwrap();
    lock.keep();
    drop(lock);
    drop(FolderLock::take(&out).unwrap());
    assert_eq!(names(&out), [".lock", "cache", "notes"]);
}
