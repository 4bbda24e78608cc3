//! The run folder: settings, metrics, checkpoints, and how files are written so that a killed process leaves none half.

pub mod atomic;
pub mod checkpoint;
pub mod folder;
pub mod report;

pub use folder::{Resolved, RunFile, RunFolder};
pub use report::TrainReport;
