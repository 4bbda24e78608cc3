//! Opening a map, of a run that is still going or of a finished one.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use super::select::Cut;
use crate::config::{Confidence, Dynamics, TrainConfig};
use crate::dynamics::{incomplete, split_checkpoints, whole_checkpoints, DynamicsLog};
use crate::error::{Error, Result};

/// What a run's dynamics log says of each example, by the checkpoints that the split is made from.
///
/// It stands on the checkpoints that were whole when it was opened: of a run that is still going, open it again to see
/// later ones. Any thread may ask, several at once.
#[derive(Debug)]
pub struct DataMap {
    pub(super) config: Option<TrainConfig>,
    pub(super) log: DynamicsLog,
    pub(super) kind: Confidence,
    pub(super) which: Vec<usize>,
    pub(super) incomplete: Option<String>,
    pub(super) cut: OnceLock<Cut>,
}

impl DataMap {
    /// Opens the dynamics of a run folder, or a dynamics folder. The settings of the run say what confidence is minus the
    /// mean of, and where the texts are; a log without a `run.json` beside it has perplexity and no texts.
    ///
    /// # Errors
    /// [`Error::NoDynamics`] where there is no log; [`Error::Io`] and [`Error::Dynamics`] where it cannot be read, or has
    /// no whole checkpoint to split by yet.
    pub fn open(run: impl AsRef<Path>) -> Result<DataMap> {
        let run = run.as_ref();
        let (folder, dir) = match run.join("header.json").exists() {
            true => (run.parent(), run.to_path_buf()),
            false => (Some(run), run.join("dynamics")),
        };
        let config = folder.and_then(|f| config_of(&f.join("run.json")));
        if !dir.join("header.json").exists() {
            let from = match config.map(|c| c.dynamics) {
                Some(Dynamics::Path(from)) => Some(from),
                _ => None,
            };
            return Err(Error::NoDynamics { path: run.to_path_buf(), from });
        }
        let log = DynamicsLog::open(&dir)?;
        let kind = config.as_ref().map_or(TrainConfig::default().confidence, |c| c.confidence);
        let incomplete = incomplete(&log).map(|c| c.id.clone());
        let which = match &incomplete {
            Some(_) => whole_checkpoints(&log)?,
            None => split_checkpoints(&log)?,
        };
        Ok(DataMap { config, log, kind, which, incomplete, cut: OnceLock::new() })
    }

    /// The log itself, for the functions of [`crate::dynamics`].
    pub fn log(&self) -> &DynamicsLog {
        &self.log
    }

    /// What confidence is minus the mean of.
    pub fn confidence(&self) -> Confidence {
        self.kind
    }

    /// The settings of the run; `None` where no `run.json` that can be read lies beside the log.
    pub fn config(&self) -> Option<&TrainConfig> {
        self.config.as_ref()
    }

    /// Number of examples.
    pub fn examples(&self) -> u64 {
        self.log.len()
    }

    /// The checkpoints that measures are over, as places in [`DynamicsLog::checkpoints`].
    pub fn checkpoints(&self) -> &[usize] {
        &self.which
    }

    /// The checkpoint that was still written when the map was opened; it is left out.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }
}

/// The settings of a run, whichever version of the folder has them.
fn config_of(path: &Path) -> Option<TrainConfig> {
    let mut run: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    match serde_json::from_value(run.get_mut("config")?.take()) {
        Ok(config) => Some(config),
        Err(e) => {
            log::warn!("{}: settings not readable: {e}", path.display());
            None
        }
    }
}
