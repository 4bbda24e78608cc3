//! Speed and memory of a training step, as shares of what the machine can do.
//!
//! [`run`] trains a LoRA adapter on a model of random weights (or any model folder) and rows of random
//! tokens, by the same code as training does, and relates each step to its floor: the floating-point
//! operations that no exact implementation can avoid,
//!
//! `4·P·N + 6·P_lora·N + 12·L·H·D·Σ n²/2 + 4·C·V·S`
//!
//! with P the parameters of the blocks' linears, P_lora those of the adapter, N real tokens, n the
//! lengths of the rows, S supervised positions, L layers, H heads, D head size, C hidden size, V
//! vocabulary: forward and input gradient of the frozen linears, forward and both gradients of the
//! adapter, two products forward and four backward over half of each attention square, head forward and
//! input gradient where a token is supervised. Recomputation and padding are not in it.
//!
//! The scale is the faster of the gemm crate and OpenBLAS on the step's own products, timed between the
//! steps, because the speed of a shared or throttling machine changes from minute to minute:
//! `floor_share = floor ÷ (seconds × rate beside the step)`.

#[cfg(feature = "cli")]
mod blas;
mod process;
mod rate;
mod rows;
mod shape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::config::{LoraConfig, Recipe, Recompute};
use crate::device::{self, DeviceSetting};
use crate::error::{Error, Result};
use crate::lora::Adapter;
use crate::memory::{anonymous_bytes, peak_resident_bytes, PeakSampler};
use crate::model::decoder::{Decoder, Keep};
use crate::ops::linear::SlotGrad;
use crate::ops::transfer::{Moved, Transfer};
use crate::ops::{Engine, EngineOptions, Phase};
use crate::train::group::GroupRun;
use crate::train::optimizer::{AdamW, AdamWConfig};
use crate::train::plan::{choose, Asked};
use process::{cpu_seconds, forget_peak};
use rate::Reference;
pub use rate::{Rates, Speed};
use rows::{RowShape, Step};
pub use shape::{Shape, SHAPES};

/// Which model is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum BenchModel {
    /// Random weights of this shape.
    Shape(Shape),
    /// A Hugging Face model folder.
    Folder(PathBuf),
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchConfig {
    /// The model.
    pub model: BenchModel,
    /// Rows of a step, ≥ 1.
    pub batch_size: usize,
    /// Longest row in tokens, ≥ 24.
    pub seq: usize,
    /// Every row has `seq` tokens and trains them all. Else lengths are drawn as Alpaca's with Stanford's
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
    /// LoRA rank, on all linears.
    pub lora_r: usize,
    /// Seed of weights and rows.
    pub seed: u64,
    /// Where models of random weights are kept; `None` takes a folder among the system's temporary files.
    pub cache_dir: Option<PathBuf>,
}

impl Default for BenchConfig {
    fn default() -> Self {
        BenchConfig {
            model: BenchModel::Shape(SHAPES[0]),
            batch_size: 8,
            seq: 512,
            packed: false,
            steps: 5,
            device: DeviceSetting::Auto,
            threads: None,
            recipe: Recipe::Ntp,
            recompute: Recompute::Auto,
            micro_batch: None,
            lora_r: 16,
            seed: 0,
            cache_dir: None,
        }
    }
}

impl BenchConfig {
    fn validate(&self) -> Result<()> {
        let at_least = |field: &str, least: usize, found: usize| match found {
            v if v < least => Err(Error::config(field, format!("expected at least {least}, found {v}"))),
            _ => Ok(()),
        };
        at_least("batch_size", 1, self.batch_size)?;
        at_least("seq", 24, self.seq)?;
        at_least("steps", 1, self.steps)?;
        at_least("lora_r", 1, self.lora_r)?;
        at_least("micro_batch", 1, self.micro_batch.unwrap_or(1))?;
        at_least("threads", 1, self.threads.unwrap_or(1))
    }
}

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
    /// Steps in the figures.
    pub steps: usize,
    /// Recipe.
    pub recipe: Recipe,
    /// Rows of a step.
    pub batch_size: usize,
    /// Rows that ran together.
    pub micro_batch: usize,
    /// Longest row in tokens.
    pub seq: usize,
    /// Whether rows were packed.
    pub packed: bool,
    /// Whether blocks ran forward twice.
    pub recompute: bool,
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
    /// Mean floor of a step, 1e9 floating-point operations.
    pub floor_gflop: f64,
    /// Mean rate of the faster library, 1e9 operations per second.
    pub sgemm_gflops: f64,
    /// Which library that is: gemm, openblas, or a device's own.
    pub sgemm_library: &'static str,
    /// Mean rates of the libraries that were timed.
    pub sgemm: Rates,
    /// Median wall seconds of a step.
    pub step_seconds_median: f64,
    /// Most anonymous memory during a step, bytes.
    pub peak_anonymous_bytes: Option<u64>,
    /// Most resident memory during a step, mapped weights included, bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Most that the engine's buffers held, bytes.
    pub peak_buffer_bytes: u64,
    /// Most of the device's memory that was in use (by all processes) behind a step, bytes, where it tells.
    pub device_bytes: Option<u64>,
    /// Bytes that a step copied between host and device, by reason; empty on the CPU.
    pub transfers: BTreeMap<&'static str, BenchTransfer>,
    /// From opening the model to the end of the first step.
    pub seconds_to_first_step: f64,
    /// Mean seconds of a step in each phase.
    pub phases: BenchPhases,
    /// Loss of every step, the first included.
    pub losses: Vec<f64>,
}

/// Operations of a step's floor.
fn floor(model: &Decoder, adapter: &Adapter, step: &Step) -> f64 {
    let c = &model.config;
    let linears: usize = model.linears().map(|l| l.weight.rows() * l.weight.cols()).sum();
    let squares: f64 = step.lengths.iter().map(|&n| (n * n) as f64 / 2.0).sum();
    let tokens = step.tokens() as f64;
    4.0 * linears as f64 * tokens
        + 6.0 * adapter.parameters() as f64 * tokens
        + 12.0 * (c.num_layers * c.num_heads * c.head_dim) as f64 * squares
        + 4.0 * (c.hidden_size * c.vocab_size * step.supervised) as f64
}

/// A model being trained.
struct Trial {
    engine: Engine,
    model: Decoder,
    adapter: Adapter,
    adam: AdamW,
    grads: Vec<SlotGrad>,
    keep: Keep,
    micro_batch: usize,
}

impl Trial {
    fn open(config: &BenchConfig, dir: &Path) -> Result<Trial> {
        let engine = Engine::new(EngineOptions { threads: config.threads, ..config.device.open()?.options() })?;
        let model = Decoder::open(&engine, dir, config.seq)?;
        let lora = LoraConfig { r: config.lora_r, lora_alpha: 2.0 * config.lora_r as f64, ..Default::default() };
        let adapter = Adapter::fresh(&engine, &model, &lora, config.seed)?;
        let adam = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 1.0 };
        let adam = AdamW::new(&engine, &adapter, adam)?;
        let grads = adapter.zero_gradients(&engine)?;
        // The same choices as training makes.
        let asked = Asked {
            recipe: config.recipe,
            batch_size: config.batch_size,
            max_length: config.seq,
            longest: config.seq,
            micro_batch: config.micro_batch.map(|n| n.min(config.batch_size)),
            recompute: config.recompute,
        };
        let (micro_batch, recompute) = choose(&model, asked);
        let keep = if recompute { Keep::Inputs } else { Keep::All };
        Ok(Trial { engine, model, adapter, adam, grads, keep, micro_batch })
    }

    /// One optimizer step; gives the loss.
    fn step(&mut self, step: &Step) -> Result<f64> {
        let Trial { engine, model, adapter, adam, grads, keep, .. } = self;
        let engine = &*engine;
        engine.run(|| {
            let mut loss = 0.0;
            for group in &step.groups {
                let run = GroupRun { engine, model, adapter: Some(&*adapter), keep: *keep, dropout: None };
                let r = group.run(&run, Some(grads))?;
                loss += group.a * r.rows.iter().map(|r| r.nll).sum::<f64>() + group.mu * r.mixup;
            }
            adam.apply(engine, adapter, grads, 2e-4)?;
            engine.synchronize()?;
            Ok(loss)
        })
    }
}

/// Measures; `observe` is told of every step.
///
/// # Errors
/// When a setting is out of range, the model cannot be written or opened, or a step fails.
pub fn run(config: &BenchConfig, observe: &mut dyn FnMut(&BenchStep)) -> Result<BenchReport> {
    config.validate()?;
    let (dir, name) = match &config.model {
        BenchModel::Folder(dir) => (dir.clone(), dir.display().to_string()),
        BenchModel::Shape(shape) => {
            let cache = config.cache_dir.clone().unwrap_or_else(|| std::env::temp_dir().join("sftmix-bench"));
            (shape.folder(&cache, config.seed)?, shape.name.to_string())
        }
    };
    let opened = Instant::now();
    let mut trial = Trial::open(config, &dir)?;
    let rows =
        RowShape { seed: config.seed, packed: config.packed, seq: config.seq, vocab: trial.model.config.vocab_size };
    let block = trial.model.linears().filter(|l| l.layer == 0).map(|l| (l.weight.rows(), l.weight.cols()));
    let reference = Reference::new(block.collect(), trial.engine.threads());

    let mut figures = Figures::default();
    let (mut before, mut seconds_to_first_step) = (None, 0.0);
    for number in 0..=config.steps {
        let batch = rows.batch(number as u64, config.batch_size);
        let (phases, transfers) = (trial.engine.phase_seconds(), trial.engine.transfers());
        forget_peak();
        let sampler = PeakSampler::start();
        let (cpu, started) = (cpu_seconds(), Instant::now());
        let step = Step::new(&batch, number as u64, config.recipe, trial.micro_batch, config.seed);
        let data = started.elapsed().as_secs_f64();
        let loss = trial.step(&step)?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu_seconds().zip(cpu).map(|(now, before)| now - before);
        figures.see_memory(sampler.peak(), peak_resident_bytes());
        drop(sampler);
        if number == 0 {
            seconds_to_first_step = opened.elapsed().as_secs_f64();
        }

        let held = anonymous_bytes();
        let tokens = step.micro_tokens().max().unwrap_or(1);
        let after = reference.measure(&trial.engine, tokens)?;
        figures.see_reference(held, anonymous_bytes());
        let floor_gflop = 1e-9 * floor(&trial.model, &trial.adapter, &step);
        let beside = before.map(|before| Rates::mean(&[before, after]));
        let done = BenchStep {
            step: number,
            seconds,
            cpu_seconds: cpu,
            tokens: step.tokens(),
            supervised: step.supervised,
            floor_gflop,
            floor_share: beside.map(|r| floor_gflop / (seconds * r.best().1.gflops)),
            loss,
        };
        figures.losses.push(loss);
        if let Some(rates) = beside {
            let now = trial.engine.phase_seconds();
            figures.add(&done, rates, data, std::array::from_fn(|i| now[i] - phases[i]));
            figures.see_transfers(transfers, trial.engine.transfers());
            figures.device_bytes = figures.device_bytes.max(device::used_bytes(trial.engine.device()));
        }
        before = Some(after);
        observe(&done);
    }
    if !trial.engine.device().is_cpu() {
        let batch = rows.batch(config.steps as u64 + 1, config.batch_size);
        let step = Step::new(&batch, config.steps as u64 + 1, config.recipe, trial.micro_batch, config.seed);
        let phases = trial.engine.phase_seconds();
        trial.engine.wait_in_phases(true);
        trial.step(&step)?;
        let now = trial.engine.phase_seconds();
        figures.phases = std::array::from_fn(|i| (now[i] - phases[i]) * config.steps as f64);
    }
    Ok(figures.report(config, &trial, name, seconds_to_first_step))
}

/// What is gathered over the steps.
#[derive(Default)]
struct Figures {
    steps: Vec<BenchStep>,
    rates: Vec<Rates>,
    phases: [f64; Phase::ALL.len()],
    data: f64,
    losses: Vec<f64>,
    peak_anonymous: Option<u64>,
    peak_resident: Option<u64>,
    /// What the reference has left behind in memory; not the step's.
    left_behind: u64,
    device_bytes: Option<u64>,
    transfers: [Moved; Transfer::ALL.len()],
}

impl Figures {
    fn see_memory(&mut self, anonymous: Option<u64>, resident: Option<u64>) {
        let own = |bytes: Option<u64>| bytes.map(|b| b.saturating_sub(self.left_behind));
        self.peak_anonymous = self.peak_anonymous.max(own(anonymous));
        self.peak_resident = self.peak_resident.max(own(resident));
    }

    fn see_reference(&mut self, before: Option<u64>, after: Option<u64>) {
        self.left_behind += after.zip(before).map_or(0, |(a, b)| a.saturating_sub(b));
    }

    fn see_transfers(&mut self, before: [Moved; Transfer::ALL.len()], now: [Moved; Transfer::ALL.len()]) {
        for ((sum, now), before) in self.transfers.iter_mut().zip(now).zip(before) {
            sum.uploads += now.uploads - before.uploads;
            sum.downloads += now.downloads - before.downloads;
            sum.bytes += now.bytes - before.bytes;
        }
    }

    fn add(&mut self, step: &BenchStep, rates: Rates, data: f64, phases: [f64; Phase::ALL.len()]) {
        self.steps.push(*step);
        self.rates.push(rates);
        self.data += data;
        for (sum, p) in self.phases.iter_mut().zip(phases) {
            *sum += p;
        }
    }

    fn report(self, config: &BenchConfig, trial: &Trial, shape: String, seconds_to_first_step: f64) -> BenchReport {
        let n = self.steps.len() as f64;
        let sum = |f: &dyn Fn(&BenchStep) -> f64| self.steps.iter().map(f).sum::<f64>();
        let (seconds, tokens) = (sum(&|s| s.seconds), sum(&|s| s.tokens as f64));
        let cpu = self.steps.iter().map(|s| s.cpu_seconds).sum::<Option<f64>>().filter(|&c| c > 0.0);
        let share_cpu = |(s, r): (&BenchStep, &Rates)| {
            let spent = s.cpu_seconds.filter(|&c| c > 0.0)?;
            Some(s.floor_gflop / (spent * r.best_per_cpu_second()?))
        };
        let shares_cpu: Option<Vec<f64>> = self.steps.iter().zip(&self.rates).map(share_cpu).collect();
        let sgemm = Rates::mean(&self.rates);
        let (sgemm_library, best) = sgemm.best();
        let phase = |p: Phase| self.phases[p as usize] / n;
        let data = self.data / n;
        BenchReport {
            shape,
            device: trial.engine.setting(),
            threads: trial.engine.threads(),
            steps: self.steps.len(),
            recipe: config.recipe,
            batch_size: config.batch_size,
            micro_batch: trial.micro_batch,
            seq: config.seq,
            packed: config.packed,
            recompute: trial.keep == Keep::Inputs,
            lora_r: config.lora_r,
            tokens_per_step: tokens / n,
            real_tokens_per_second: tokens / seconds,
            supervised_tokens_per_second: sum(&|s| s.supervised as f64) / seconds,
            real_tokens_per_cpu_second: cpu.map(|c| tokens / c),
            floor_share: median(self.steps.iter().filter_map(|s| s.floor_share).collect()),
            floor_share_cpu: shares_cpu.map(median),
            floor_gflop: sum(&|s| s.floor_gflop) / n,
            sgemm_gflops: best.gflops,
            sgemm_library,
            sgemm,
            step_seconds_median: median(self.steps.iter().map(|s| s.seconds).collect()),
            peak_anonymous_bytes: self.peak_anonymous,
            peak_rss_bytes: self.peak_resident,
            peak_buffer_bytes: trial.engine.pool().peak_bytes() as u64,
            device_bytes: self.device_bytes,
            transfers: Transfer::ALL
                .iter()
                .zip(&self.transfers)
                .filter(|(_, m)| m.uploads + m.downloads > 0)
                .map(|(&(_, name), m)| {
                    let mean = |v: u64| v as f64 / n;
                    let (uploads, downloads, bytes) = (mean(m.uploads), mean(m.downloads), mean(m.bytes));
                    (name, BenchTransfer { uploads, downloads, bytes })
                })
                .collect(),
            seconds_to_first_step,
            phases: BenchPhases {
                linear: phase(Phase::Linear),
                attention: phase(Phase::Attention),
                loss: phase(Phase::Loss),
                elementwise: phase(Phase::Elementwise),
                optimizer: phase(Phase::Optimizer),
                data,
                other: (seconds / n - data - self.phases.iter().sum::<f64>() / n).max(0.0),
            },
            losses: self.losses,
        }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    match (v.len(), v.len() / 2) {
        (0, _) => f64::NAN,
        (n, i) if n % 2 == 0 => (v[i - 1] + v[i]) / 2.0,
        (_, i) => v[i],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(recipe: Recipe, packed: bool, recompute: Recompute, cache: &Path) -> BenchReport {
        let config = BenchConfig {
            model: BenchModel::Shape(Shape::named("tiny").unwrap()),
            batch_size: 4,
            seq: 96,
            packed,
            steps: 3,
            threads: Some(2),
            recipe,
            recompute,
            cache_dir: Some(cache.to_path_buf()),
            ..Default::default()
        };
        let mut seen = Vec::new();
        let report = run(&config, &mut |s| seen.push(s.step)).unwrap();
        assert_eq!(seen, [0, 1, 2, 3]);
        report
    }

    #[test]
    fn a_tiny_model_is_measured_in_every_way() {
        let cache = tempfile::tempdir().unwrap();
        let mut losses = Vec::new();
        for recipe in [Recipe::Ntp, Recipe::Sftmix] {
            for packed in [false, true] {
                for recompute in [Recompute::Auto, Recompute::On] {
                    let r = tiny(recipe, packed, recompute, cache.path());
                    assert_eq!((r.steps, r.threads, r.losses.len()), (3, 2, 4));
                    assert_eq!(r.recompute, recompute == Recompute::On);
                    assert!(r.floor_share > 0.0 && r.sgemm_gflops > 0.0 && r.real_tokens_per_second > 0.0);
                    assert!(!packed || r.tokens_per_step == 4.0 * 96.0);
                    losses.push(r.losses);
                }
            }
        }
        // Random tokens under random weights: ln V; mixing adds about a fifth of it.
        assert!((losses[0][0] - libm::log(512.0)).abs() < 0.2, "{:?}", losses[0]);
        assert!((losses[4][0] - 1.2 * libm::log(512.0)).abs() < 0.3, "{:?}", losses[4]);
        // Running blocks twice changes nothing.
        assert!(losses.chunks(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn the_floor_counts_what_the_formula_says() {
        let cache = tempfile::tempdir().unwrap();
        let shape = Shape::named("tiny").unwrap();
        let dir = shape.folder(cache.path(), 0).unwrap();
        let config = BenchConfig { batch_size: 2, seq: 100, packed: true, lora_r: 4, ..Default::default() };
        let trial = Trial::open(&config, &dir).unwrap();
        let rows = RowShape { seed: 0, packed: true, seq: 100, vocab: 512 }.batch(0, 2);
        let step = Step::new(&rows, 0, Recipe::Ntp, 2, 0);
        let linears = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192);
        let lora = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 256);
        // Of a row of 100 tokens 99 are predicted.
        let by_hand = 4 * linears * 200 + 6 * lora * 200 + 12 * 2 * 4 * 16 * 100 * 100 + 4 * 64 * 512 * 198;
        assert_eq!(floor(&trial.model, &trial.adapter, &step), by_hand as f64);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = BenchConfig { steps: 0, ..Default::default() };
        assert!(run(&bad, &mut |_| ()).unwrap_err().to_string().contains("steps"));
        let bad = BenchConfig { seq: 8, ..Default::default() };
        assert!(run(&bad, &mut |_| ()).unwrap_err().to_string().contains("seq"));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
