//! The run folder: settings, what a run stands on, metrics, checkpoints, the report.

pub mod checkpoint;
pub mod folder;
pub mod report;
pub mod settings;
pub mod stands_on;

pub use folder::{Resolved, RunFile, RunFolder};
pub use report::TrainReport;
pub use stands_on::{Input, StandsOn};
