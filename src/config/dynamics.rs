//! The setting `dynamics`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where the training dynamics come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Dynamics {
    /// Reference run, then a forward pass over the set at each of its checkpoints (the paper's).
    Sweep,
    /// The reference run's own passes are logged; its first epoch is left out. They are training passes: dropout and
    /// NEFTune's noise are in their losses, where the run has them.
    Online,
    /// One run: the first epoch plain, one sweep, Mixup from the second.
    Single,
    /// The `dynamics` folder of an earlier run, joined by the content hash of the row.
    Path(PathBuf),
}

impl Dynamics {
    /// Refuses a path where nothing is: a word with a slip in it is one, too.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names `dynamics`.
    pub(crate) fn check_there(&self) -> Result<()> {
        match self {
            Dynamics::Path(path) if !path.exists() => {
                let found = format!("expected sweep, online, single or the folder of a run, found {}", path.display());
                Err(Error::config("dynamics", found))
            }
            _ => Ok(()),
        }
    }
}

impl From<String> for Dynamics {
    fn from(s: String) -> Self {
        match s.as_str() {
            "sweep" => Dynamics::Sweep,
            "online" => Dynamics::Online,
            "single" => Dynamics::Single,
            _ => Dynamics::Path(s.into()),
        }
    }
}

impl From<Dynamics> for String {
    fn from(d: Dynamics) -> Self {
        d.to_string()
    }
}

impl std::fmt::Display for Dynamics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dynamics::Sweep => f.write_str("sweep"),
            Dynamics::Online => f.write_str("online"),
            Dynamics::Single => f.write_str("single"),
            Dynamics::Path(p) => write!(f, "{}", p.display()),
        }
    }
}
