//! What a bench tells.

use std::collections::BTreeMap;

use serde::Serialize;

use super::own::BenchRows;
use crate::config::DeviceSetting;
use crate::config::Recipe;
use crate::ops::Simd;
use crate::rate::Rates;

/// One timed step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BenchStep {
    /// Its number, from 0: the one that is not in the figures.
    pub step: usize,
    /// Wall seconds.
    pub seconds: f64,
    /// CPU seconds of the process.
    pub cpu_seconds: Option<f64>,
    /// Real tokens.
    pub tokens: usize,
    /// Supervised positions.
    pub supervised: usize,
    /// Floor, 1e9 floating-point operations.
    pub floor_gflop: f64,
    /// Floor ÷ (seconds × the rate beside the step); `None` for the step that is not in the figures.
    pub floor_share: Option<f64>,
    /// Next-token loss plus, with SFTMix, μ times the mixed one.
    pub loss: f64,
}

/// Mean seconds of a step in each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BenchPhases {
    /// Products with weights and adapters, and the conversion of weights.
    pub linear: f64,
    /// Attention.
    pub attention: f64,
    /// LM head and loss.
    pub loss: f64,
    /// Norms, rotary embedding, activation, residuals.
    pub elementwise: f64,
    /// Clipping and AdamW.
    pub optimizer: f64,
    /// Laying rows out.
    pub data: f64,
    /// What no phase claims.
    pub other: f64,
}

/// What a step copied between host and device for one reason, means over the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BenchTransfer {
    /// Copies up.
    pub uploads: f64,
    /// Copies down: each waits for the device.
    pub downloads: f64,
    /// Bytes of both.
    pub bytes: f64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// Name of the shape, or the model folder.
    pub shape: String,
    /// Where it computed.
    pub device: DeviceSetting,
    /// Worker threads.
    pub threads: usize,
    /// Whether products with bf16 weights ran on the processor's matrix units.
    pub matrix_units: bool,
    /// Up to which of the processor's instructions the kernels went; `None` of the portable form.
    pub simd: Option<Simd>,
    /// Steps in the figures.
    pub steps: usize,
    /// Recipe.
    pub recipe: Recipe,
    /// Rows of a step.
    pub batch_size: usize,
    /// Mean tokens that ran together.
    pub micro_batch_tokens: f64,
    /// The longest that a row may be, in tokens.
    pub seq: usize,
    /// What was taken of a file of one's own; `None` of random rows.
    pub rows: Option<BenchRows>,
    /// Whether rows were packed.
    pub packed: bool,
    /// Mean share of the blocks that kept their activations; the others ran forward twice.
    pub blocks_kept: f64,
    /// Positions whose logits existed at once.
    pub loss_chunk: usize,
    /// Bytes that were granted.
    pub memory_limit: Option<u64>,
    /// What the plan says that these steps need, bytes.
    pub predicted_peak_bytes: u64,
    /// LoRA rank.
    pub lora_r: usize,
    /// Mean real tokens of a step.
    pub tokens_per_step: f64,
    /// Real tokens of all steps ÷ their seconds.
    pub real_tokens_per_second: f64,
    /// Supervised tokens of all steps ÷ their seconds.
    pub supervised_tokens_per_second: f64,
    /// Real tokens of all steps ÷ their CPU seconds.
    pub real_tokens_per_cpu_second: Option<f64>,
    /// Median over the steps of floor ÷ (seconds × rate beside the step).
    pub floor_share: f64,
    /// The same with CPU seconds and the rate per CPU second.
    pub floor_share_cpu: Option<f64>,
    /// Median over the steps of floor ÷ (seconds × peak beside the step): of what the processor's multiply-adds give at
    /// most; `None` on a GPU.
    pub peak_share: Option<f64>,
    /// Mean floor of a step, 1e9 floating-point operations.
    pub floor_gflop: f64,
    /// Mean rate of the faster library, 1e9 operations per second.
    pub sgemm_gflops: f64,
    /// Which library that is: gemm, openblas, or a device's own.
    pub sgemm_library: &'static str,
    /// Mean rates of the libraries that were timed.
    pub sgemm: Rates,
    /// Median over the steps of the seconds of a forward pass over their rows, as a sweep makes it, in those of
    /// the step.
    pub score_share: f64,
    /// Median wall seconds of a step.
    pub step_seconds_median: f64,
    /// Most that the library held by its own account, bytes.
    pub peak_anonymous_bytes: u64,
    /// Most anonymous memory of the process during a step beside what it had before, sampled, bytes, where the
    /// system tells.
    pub peak_rss_anonymous_bytes: Option<u64>,
    /// Most resident memory during a step, mapped weights included, bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Most of the device's memory that was in use (by all processes) behind a step, bytes, where it tells.
    pub device_bytes: Option<u64>,
    /// Bytes that a step copied between host and device, by reason; empty on the CPU.
    pub transfers: BTreeMap<&'static str, BenchTransfer>,
    /// From the start of the process (from opening the model, where the system does not tell) to the start of the
    /// first step.
    pub seconds_to_first_step: f64,
    /// Seconds of the first step, which is in no other figure.
    pub first_step_seconds: f64,
    /// Mean seconds of a step in each phase.
    pub phases: BenchPhases,
    /// Loss of every step, the first included.
    pub losses: Vec<f64>,
}
