//! sftmix: see README.md.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod config;
pub mod dynamics;
pub mod data;
mod error;
pub mod recipe;
pub mod rng;

pub use config::{
    Confidence, DataFormat, DataOptions, Dynamics, LoraConfig, MixReduction, Recipe, Recompute, Schedule,
    TargetModules, TrainConfig,
};
pub use error::{Error, Result};
