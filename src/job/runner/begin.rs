//! The run folder as a run finds it, under its lock: a new run finds nothing of a run, one that is taken up finds what it
//! can go on from.

use crate::config::TrainConfig;
use crate::disk::{sweep, FolderLock};
use crate::error::{Error, Result};
use crate::lora::peft::load_adapter;
use crate::run::checkpoint::{self, Checkpoint, State};
use crate::run::{RunFile, RunFolder, TrainReport};

/// A locked run folder.
pub(super) struct Begun {
    pub folder: RunFolder,
    /// The run that is taken up.
    pub before: Option<RunFile>,
    pub lock: FolderLock,
}

/// What there is to do.
pub(super) enum Found {
    /// Nothing: the run is finished.
    Finished(Box<TrainReport>),
    /// To begin or to go on.
    Open(Box<Begun>),
}

/// Locks the folder and looks at what it holds. `known` is the run as the caller read it before, whose settings it has.
///
/// # Errors
/// [`Error::Checkpoint`] when another process works there; when a new run finds a run, or something in its way; when
/// the run is another than the one that is known.
pub(super) fn begin(config: &TrainConfig, resume: bool, known: Option<&RunFile>) -> Result<Found> {
    let folder = RunFolder::new(&config.out);
    let mut lock = folder.lock()?;
    if config.cache_dir.is_none() {
        lock = lock.with(folder.cache());
    }
    let before = folder.read()?;
    let refuse = |reason: &str| Error::Checkpoint { path: config.out.clone(), reason: reason.into() };
    if !resume || before.is_none() {
        empty(config)?;
    }
    if let (true, Some(report)) = (resume, folder.report()?) {
        if load_adapter(&report.adapter).is_ok() {
            return Ok(Found::Finished(Box::new(report)));
        }
        if checkpoint::list(&config.out)?.is_empty() {
            return Err(refuse("the run is finished, and both its adapter/ and its checkpoints are gone"));
        }
        log::warn!("{}: the run was finished, but its adapter is gone: it is made again", config.out.display());
    }
    let same = match (&before, known) {
        (None, None) => true,
        (Some(now), Some(known)) => now.config == known.config && now.resolved == known.resolved,
        _ => false,
    };
    if resume && !same {
        return Err(refuse("the run was begun or changed by another process meanwhile: resume it again"));
    }
    Ok(Found::Open(Box::new(Begun { folder, before, lock })))
}

impl Begun {
    /// Where a run goes on, once its settings and inputs are accepted; one without a checkpoint begins anew. What a
    /// killed process left is cleared away first.
    ///
    /// # Errors
    /// As [`checkpoint::newest`].
    pub fn going_on(&self) -> Result<Option<(Checkpoint, State)>> {
        if self.before.is_none() {
            return Ok(None);
        }
        sweep(self.folder.dir())?;
        sweep(&self.folder.dynamics())?;
        checkpoint::newest(self.folder.dir())
    }
}

/// What must hold before a new run is begun: no run in its folder, nothing that it would write over, and dynamics that
/// are there.
///
/// # Errors
/// [`Error::Checkpoint`] names what is in the way; [`Error::InvalidConfig`] for dynamics.
pub(crate) fn empty(config: &TrainConfig) -> Result<()> {
    let folder = RunFolder::new(&config.out);
    let refuse = |reason: String| Error::Checkpoint { path: config.out.clone(), reason };
    if folder.read()?.is_some() {
        return Err(refuse("the folder holds a run: resume it, or choose another".into()));
    }
    if let Some(name) = folder.foreign()? {
        return Err(refuse(format!("the folder holds {name} of something else: choose another")));
    }
    config.dynamics.check_there()
}
