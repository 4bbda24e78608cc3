//! Folders that appear whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use super::names::{parent, present, remove, Temporary};
use super::sweep::sweep;
use super::sync::{rename, sync_dir, sync_tree};
use crate::error::{Error, Result};

/// Has `fill` build a folder under a temporary name beside `final_dir`, syncs what is in it and renames
/// it into place, instead of an older `final_dir` where there is one. Missing parents are created. When
/// `fill` fails, the temporary folder is removed and `final_dir` is as it was.
///
/// Killed between the two renames of a replacement, the older folder is left under a temporary name;
/// [`sweep`] puts it back.
pub(crate) fn replace_dir(final_dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    replace_dirs(&[final_dir], |dirs| fill(&dirs[0]))
}

/// The same of several folders at once: either all of them are replaced or, where a name cannot be given, none.
pub(crate) fn replace_dirs(finals: &[&Path], fill: impl FnOnce(&[PathBuf]) -> Result<()>) -> Result<()> {
    let made = finals.iter().map(|dir| begin(dir)).collect::<Result<Vec<_>>>()?;
    let temporaries: Vec<PathBuf> = made.iter().map(|t| t.path.clone()).collect();
    let filled = fill(&temporaries).and_then(|()| temporaries.iter().try_for_each(|dir| sync_tree(dir)));
    // People know the folders by the names that they will have.
    filled.map_err(|e| temporaries.iter().zip(finals).fold(e, |e, (from, to)| e.renamed(from, to)))?;

    let mut swapped = Vec::new();
    for (temporary, dir) in made.iter().zip(finals) {
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
        if let Err(e) = remove(&swap.temporary.displaced) {
            log::warn!("not removed: {e}");
        }
    }
    Ok(())
}

/// A folder under a temporary name beside `dir`, where nothing that was left behind lies any more.
fn begin(dir: &Path) -> Result<Temporary> {
    let above = parent(dir);
    fs::create_dir_all(above).map_err(Error::io(above))?;
    sweep(above)?;
    Ok(Temporary::make(dir, |p| fs::create_dir(p)).map_err(Error::io(dir))?.0)
}

/// A folder that got its name, maybe from one that had it before.
pub(super) struct Swap<'a> {
    temporary: &'a Temporary,
    dir: &'a Path,
    replacing: bool,
}

impl<'a> Swap<'a> {
    pub fn make(temporary: &'a Temporary, dir: &'a Path) -> Result<Swap<'a>> {
        let swap = Swap { temporary, dir, replacing: present(dir)? };
        if swap.replacing {
            fs::rename(dir, &temporary.displaced).map_err(Error::io(dir))?;
        }
        match rename(&temporary.path, dir) {
            Ok(()) => Ok(swap),
            Err(e) => {
                swap.put_back();
                Err(Error::io(dir)(e))
            }
        }
    }

    fn put_back(self) {
        if self.replacing {
            if let Err(e) = fs::rename(&self.temporary.displaced, self.dir) {
                log::warn!("{} could not be given back what it held: {e}", self.dir.display());
            }
        }
    }

    pub fn undo(self) {
        match fs::rename(self.dir, &self.temporary.path) {
            Ok(()) => self.put_back(),
            Err(e) => log::warn!("{} could not be taken back: {e}", self.dir.display()),
        }
    }
}

/// Has `work` use a folder under a temporary name beside `path`, and removes it, whatever comes of it.
pub(crate) fn with_temporary_dir<T>(path: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let temporary = begin(path)?;
    work(&temporary.path).map_err(|e| e.renamed(&temporary.path, path))
}
