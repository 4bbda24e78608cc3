//! One example over time.

use serde::Serialize;

use super::open::DataMap;
use crate::dynamics::{Kind, Stage};
use crate::error::Result;

/// An example under one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MapPoint {
    /// Id of the checkpoint, `<stage>-<step>`.
    pub checkpoint: String,
    /// The run it belongs to.
    pub stage: Stage,
    /// How its records came about.
    pub kind: Kind,
    /// Optimizer steps done, of an online log at the end of the epoch.
    pub step: u64,
    /// Epochs done, likewise.
    pub epoch: f64,
    /// NLL, nats per token.
    pub nll: f64,
    /// Mean probability of the right token.
    pub mean_prob: f64,
    /// Tokens whose teacher-forced arg-max was right.
    pub n_correct: u32,
    /// Supervised tokens.
    pub n_tokens: u32,
}

impl DataMap {
    /// One example under each whole checkpoint of the log, in the order they were made: also under those that the split
    /// is not made from. An epoch of an online log that did not reach the example has no point.
    ///
    /// # Errors
    /// There is no such example; a file of the log is absent or damaged.
    pub fn history(&self, example: u32) -> Result<Vec<MapPoint>> {
        self.check_index(example)?;
        let mut points = Vec::new();
        for (c, info) in self.log.checkpoints().iter().enumerate().filter(|(_, info)| info.complete) {
            for record in self.log.records(c)? {
                let r = record?;
                if r.example != example {
                    continue;
                }
                points.push(MapPoint {
                    checkpoint: info.id.clone(),
                    stage: info.stage,
                    kind: info.kind,
                    step: info.step,
                    epoch: info.epoch,
                    nll: r.nll(),
                    mean_prob: r.mean_prob.into(),
                    n_correct: r.n_correct,
                    n_tokens: r.n_tokens,
                });
                break;
            }
        }
        Ok(points)
    }
}
