#![doc = include_str!("../README.md")]
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

pub mod bench;
mod config;
pub mod data;
pub mod device;
mod disk;
pub mod dynamics;
mod error;
mod eval;
pub mod export;
#[cfg(feature = "generate")]
pub mod generate;
pub mod gguf;
pub mod job;
mod kernels;
pub mod lora;
pub mod memory;
pub mod model;
pub mod ops;
pub mod plan;
pub mod recipe;
pub mod rng;
pub mod run;
pub mod train;

pub use config::{
    Confidence, DataFormat, DataOptions, Dynamics, Layers, LoraConfig, MixReduction, ModulePattern, Recipe, Recompute,
    Schedule, TargetModules, TrainConfig,
};
pub use data::{DataSource, DataSources};
pub use device::DeviceSetting;
pub use error::{BaseMismatch, Error, Result};
pub use eval::{evaluate, EvalConfig, Evaluation};
#[cfg(feature = "generate")]
pub use generate::{GenerateConfig, Generation, Generator};
pub use job::{Control, Event, JobHandle, Prepared, StepEvent, StopHandle, TrainReport, TrainingJob};
pub use lora::base::default_cache;
pub use model::Keep;
pub use plan::{plan, PlannedMemory, RunPlan};
