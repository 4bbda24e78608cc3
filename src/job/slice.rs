//! Training in slices, for schedulers that give a process seconds or minutes at a time.

use std::path::PathBuf;
use std::time::Duration;

use super::TrainingJob;
use crate::error::{Error, Result};
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

impl TrainingJob {
    /// Trains on this thread for at most so long and the micro-batch that is under way, writes a checkpoint and returns;
    /// the next slice, in this process or another, goes on to the same bytes. The model stays open between slices, memory
    /// for training does not.
    ///
    /// # Errors
    /// As [`TrainingJob::run`]: [`Error::Stopped`] when somebody stopped it before its time was up.
    pub fn run_slice(&self, time: Duration) -> Result<Slice> {
        self.inner.begin(Some(time))?;
        let result = self.inner.listened_attempt();
        self.inner.end(&result);
        match result {
            Ok(report) => Ok(Slice { report: Some(report), checkpoint: None }),
            Err(Error::Stopped { checkpoint }) if self.inner.control.expired() => {
                Ok(Slice { report: None, checkpoint })
            }
            Err(e) => Err(e),
        }
    }
}
