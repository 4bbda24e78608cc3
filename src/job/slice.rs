//! Training in slices, for schedulers that give a process seconds or minutes at a time.

use std::path::PathBuf;

use crate::run::TrainReport;

/// How a slice ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Slice {
    /// The report, when the run is finished; `None` while there is more to do.
    pub report: Option<TrainReport>,
    /// The checkpoint that the next slice goes on from; `None` where the slice ended before the first step, or the run is
    /// finished.
    pub checkpoint: Option<PathBuf>,
}
