#![doc = include_str!("../README.md")]
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

mod base;
mod bench;
mod config;
mod data;
mod device;
mod disk;
pub mod dynamics;
mod error;
mod eval;
pub mod export;
mod family;
mod files;
mod formats;
#[cfg(feature = "generate")]
mod generate;
mod gguf;
mod held;
mod hub;
mod job;
mod kernels;
mod lora;
mod map;
mod memory;
mod model;
mod ops;
mod plan;
mod rate;
mod recipe;
mod rng;
mod run;
mod steps;
mod stop;
mod train;
mod units;
mod weights;

pub use base::facts::default_cache;
pub use base::Model;
pub use config::{
    BadRows, Confidence, DataFormat, DataOptions, DataSource, DataSources, DeviceSetting, Dynamics, Layers, LoraConfig,
    MixReduction, ModulePattern, Recipe, Recompute, Schedule, TargetModules, TrainConfig,
};
pub use data::inspect;
pub use data::text::Conversation;
pub use data::tokens::{RowCounts, SkippedRows, SourceCounts};
pub use error::{BaseMismatch, Error, Result};
pub use eval::{evaluate, evaluate_on, EvalConfig, Evaluation};
#[cfg(feature = "generate")]
pub use generate::{GenerateConfig, Generation, Generator, SharedGenerator};
#[cfg(feature = "hub")]
pub use hub::{download, DownloadConfig, DownloadProgress, Downloaded};
pub use job::{
    Control, EvaluatedEvent, Event, JobControl, JobState, JobStatus, Limits, Listener, NumberedEvent, Prepared,
    RowSource, Slice, StepEvent, TrainingJob,
};
pub use map::{DataMap, MapDistribution, MapFilter, MapKey, MapPage, MapPoint, MapQuery, MapRow, MapSummary};
pub use model::Keep;
pub use plan::{plan, plan_on, PlannedMemory, RunPlan};
pub use run::TrainReport;
pub use stop::StopHandle;

/// What the program `sftmix`, the benches and the tests reach of the inside. No part of the API: it changes without
/// notice.
#[doc(hidden)]
pub mod internal {
    pub mod base {
        pub use crate::base::*;
    }
    pub mod bench {
        pub use crate::bench::*;
    }
    pub mod data {
        pub use crate::data::*;
    }
    pub mod device {
        pub use crate::device::*;
    }
    pub mod family {
        pub use crate::family::*;
    }
    pub mod files {
        pub use crate::files::*;
    }
    pub mod formats {
        pub use crate::formats::*;
    }
    pub mod gguf {
        pub use crate::gguf::*;
    }
    pub mod lora {
        pub use crate::lora::*;
    }
    pub mod memory {
        pub use crate::memory::*;
    }
    pub mod model {
        pub use crate::model::*;
    }
    pub mod ops {
        pub use crate::ops::*;
    }
    pub mod plan {
        pub use crate::plan::*;
    }
    pub mod rate {
        pub use crate::rate::*;
    }
    pub mod recipe {
        pub use crate::recipe::*;
    }
    pub mod rng {
        pub use crate::rng::*;
    }
    pub mod run {
        pub use crate::run::*;
    }
    pub mod steps {
        pub use crate::steps::*;
    }
    pub mod train {
        pub use crate::train::*;
    }
    pub mod units {
        pub use crate::units::*;
    }
    pub mod weights {
        pub use crate::weights::*;
    }
    #[cfg(feature = "generate")]
    pub mod generate {
        pub use crate::generate::*;
    }
}
