//! What a bench measures, and how.

use std::path::PathBuf;

use super::shape::{Shape, SHAPES};
use crate::config::{DataOptions, DeviceSetting};
use crate::config::{Recipe, Recompute};
use crate::error::{Error, Result};
use crate::ops::Simd;

/// Which model is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum BenchModel {
    /// Random weights of this shape.
    Shape(Shape),
    /// A Hugging Face model folder, or a GGUF file.
    Folder(PathBuf),
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchConfig {
    /// The model.
    pub model: BenchModel,
    /// Rows of one's own, for a model with a tokenizer: a file, or a folder as training takes it. `None`: rows of random
    /// tokens.
    pub data: Option<PathBuf>,
    /// How these rows become examples.
    pub data_options: DataOptions,
    /// Rows of a step, ≥ 1.
    pub batch_size: usize,
    /// Longest row in tokens, ≥ 24; longer rows of a file are cut, as `max_length` of training cuts them.
    pub seq: usize,
    /// Every random row has `seq` tokens and trains them all. Else lengths are drawn as Alpaca's with Stanford's
    /// template: prompt log-normal, mean 70, deviation 30, at least 20 tokens; response log-normal, mean
    /// 65, σ 1.1; cut at `seq`; the response is trained.
    pub packed: bool,
    /// Steps that are timed, ≥ 1, after one that is not.
    pub steps: usize,
    /// Where to compute. On a GPU the scale is its own f32 product, and phases are timed in one more step
    /// that waits for the device behind each of them.
    pub device: DeviceSetting,
    /// Worker threads; `None` takes the machine's cores.
    pub threads: Option<usize>,
    /// Plain, or neighbouring rows mixed with λ ~ Beta(½, ½).
    pub recipe: Recipe,
    /// Keep activations or run blocks twice.
    pub recompute: Recompute,
    /// Rows that run together; `None` takes as many as training would: about 4,096 tokens.
    pub micro_batch: Option<usize>,
    /// Bytes that the library may hold; `None` as in training.
    pub memory_limit: Option<u64>,
    /// Bytes that the process may have resident in all.
    pub resident_limit: Option<u64>,
    /// Use the processor's matrix units where it has them.
    pub matrix_units: bool,
    /// Up to which of the processor's instructions the kernels go.
    pub simd: Simd,
    /// LoRA rank, on all linears.
    pub lora_r: usize,
    /// With DoRA's magnitudes.
    pub use_dora: bool,
    /// Seed of weights and rows.
    pub seed: u64,
    /// Where models of random weights are kept (`None`: a folder among the system's temporary files), or the tokens of
    /// `data` (`None`: the user's cache folder).
    pub cache_dir: Option<PathBuf>,
    /// Where to write what another trainer needs to run the same steps: `bench.json`, `rows.jsonl`, and
    /// `adapter/`, the adapter they begin with.
    pub export: Option<PathBuf>,
}

impl Default for BenchConfig {
    fn default() -> Self {
        BenchConfig {
            model: BenchModel::Shape(SHAPES[0]),
            data: None,
            data_options: DataOptions::default(),
            batch_size: 8,
            seq: 512,
            packed: false,
            steps: 5,
            device: DeviceSetting::Auto,
            threads: None,
            recipe: Recipe::Ntp,
            recompute: Recompute::Auto,
            micro_batch: None,
            memory_limit: None,
            resident_limit: None,
            matrix_units: true,
            simd: Simd::Auto,
            lora_r: 16,
            use_dora: false,
            seed: 0,
            cache_dir: None,
            export: None,
        }
    }
}

impl BenchConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let at_least = |field: &str, least: usize, found: usize| match found {
            v if v < least => Err(Error::config(field, format!("expected at least {least}, found {v}"))),
            _ => Ok(()),
        };
        at_least("batch_size", 1, self.batch_size)?;
        at_least("seq", 24, self.seq)?;
        at_least("steps", 1, self.steps)?;
        at_least("lora_r", 1, self.lora_r)?;
        at_least("micro_batch", 1, self.micro_batch.unwrap_or(1))?;
        at_least("threads", 1, self.threads.unwrap_or(1))?;
        let without_effect = match (&self.data, &self.model) {
            (Some(_), BenchModel::Shape(_)) => {
                Some(("data", "random weights have no tokenizer; model takes a folder that has"))
            }
            (Some(_), _) if self.packed => {
                Some(("packed", "it has no effect with data, whose rows are as long as they are"))
            }
            (None, _) if self.data_options != DataOptions::default() => {
                Some(("data_options", "they have no effect without data"))
            }
            (None, BenchModel::Folder(_)) if self.cache_dir.is_some() => {
                Some(("cache_dir", "it has no effect with model but for data: nothing is written"))
            }
            _ => None,
        };
        if let Some((field, reason)) = without_effect {
            return Err(Error::config(field, reason));
        }
        match self.export {
            Some(_) if self.recipe != Recipe::Ntp => {
                Err(Error::config("export", "other trainers have no Mixup: export with recipe ntp"))
            }
            Some(_) if self.use_dora => Err(Error::config("export", "other trainers are given plain LoRA")),
            _ => Ok(()),
        }
    }
}
