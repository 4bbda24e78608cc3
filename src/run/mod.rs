//! The run folder: settings, metrics, checkpoints, and how files are written so that a killed process leaves none half.

pub mod checkpoint;
pub mod folder;
pub mod report;
pub mod settings;
pub mod stands_on;

pub use folder::{Resolved, RunFile, RunFolder};
pub use report::TrainReport;
pub use stands_on::{Input, StandsOn};
