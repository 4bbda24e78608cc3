//! The run folder: settings, metrics, checkpoints, hashes, and how files are written so that a killed
//! process leaves none half.

pub mod atomic;
pub mod checkpoint;
pub mod folder;
pub mod hash;

pub use folder::{Resolved, RunFile, RunFolder};
