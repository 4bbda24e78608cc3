//! Training dynamics: what each checkpoint of the reference run thinks of each example, and what
//! follows from it.
//!
//! A log is a folder:
//!
//! | file | holds |
//! | --- | --- |
//! | `header.json` | format version, hashes of model and data, the list of checkpoints ([`Header`]) |
//! | `examples.bin` | source row and text hash of each example (40-byte head, 24 bytes each) |
//! | `<stage>-<step>.bin` | one [`Record`] per example under that checkpoint, in checksummed blocks |
//!
//! All numbers are little-endian. [`DynamicsWriter`] appends, [`DynamicsLog`] reads through memory
//! maps, [`confidences`] and [`metrics()`] add the checkpoints up, [`import_confidences`] takes another
//! run's log, [`export`] writes the layouts of other tools.
//!
//! Formulas: SFTMix (arXiv 2410.05248), dataset cartography (arXiv 2009.10795).

mod block;
mod blocks;
mod examples;
pub mod export;
mod fault;
mod file;
mod header;
mod import;
mod log;
mod metrics;
mod summary;
mod writer;

pub use crate::recipe::Half;
pub use block::Record;
pub use header::{CheckpointInfo, Header, Kind, Stage};
pub(crate) use import::imported;
pub use import::{import_confidences, ImportReport};
pub use log::{DynamicsLog, Records};
pub use metrics::{confidences, metrics, split_checkpoints, Metrics};
pub(crate) use metrics::{incomplete, metrics_of, spread, visit_all, whole_checkpoints, Lengths, NEVER_CORRECT};
pub(crate) use summary::rank_correlation;
pub use summary::{spearman, HalfSummary, Summary};
pub use writer::{DynamicsWriter, Position};

#[cfg(test)]
mod tests;
