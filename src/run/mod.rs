//! The run folder: settings, metrics, checkpoints, hashes.

pub mod checkpoint;
pub mod folder;
pub mod hash;

pub use folder::{Resolved, RunFile, RunFolder};
