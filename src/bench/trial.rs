//! A model being trained, and the operations that a step of it cannot avoid.

use super::config::BenchConfig;
use super::rows::Step;
use super::source::Rows;
use crate::base::Model;
use crate::config::{LoraConfig, TrainConfig};
use crate::error::Result;
use crate::model::Adapter;
use crate::model::{Decoder, Keep};
use crate::ops::engine::available_threads;
use crate::ops::linear::SlotGrad;
use crate::ops::{Engine, EngineOptions};
use crate::plan::choice::Choice;
use crate::plan::footprint::Parts;
use crate::plan::settle::{limits_are_kept, settle, Needs, WeightFacts};
use crate::train::group::GroupRun;
use crate::train::optimizer::{AdamW, AdamWConfig};

/// How weights move.
pub(super) const ADAMW: AdamWConfig = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 1.0 };
/// At every step.
pub(super) const LEARNING_RATE: f64 = 2e-4;

/// Operations of a step's floor.
pub(super) fn floor(model: &Decoder, adapter: &Adapter, step: &Step) -> f64 {
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
pub(super) struct Trial {
    pub engine: Engine,
    pub model: Decoder,
    pub adapter: Adapter,
    adam: AdamW,
    grads: Vec<SlotGrad>,
    needs: Needs,
    pub choice: Choice,
    /// Blocks that kept their activations in the last step, of all groups together.
    pub kept: usize,
    /// What the plan says of the groups so far.
    most: Parts,
}

impl Trial {
    pub fn open(config: &BenchConfig, base: &Model, rows: &Rows) -> Result<Trial> {
        let device = config.device.open()?;
        let BenchConfig { threads, matrix_units, simd, .. } = *config;
        let options = EngineOptions { threads, matrix_units, simd, ..EngineOptions::on(&device) };
        // The same choices as training makes.
        let (r, use_dora) = (config.lora_r, config.use_dora);
        let lora = LoraConfig { r, lora_alpha: 2.0 * r as f64, use_dora, ..Default::default() };
        let like = TrainConfig {
            model: base.path().to_path_buf(),
            recipe: config.recipe,
            batch_size: config.batch_size,
            micro_batch: config.micro_batch,
            recompute: config.recompute,
            memory_limit: config.memory_limit,
            resident_limit: config.resident_limit,
            lora: Some(lora.clone()),
            ..Default::default()
        };
        limits_are_kept(&like, options.form)?;
        let facts = rows.facts();
        let longest = facts.longest;
        let threads = options.threads.unwrap_or_else(available_threads);
        let weights = WeightFacts::of(base, base.weight_bytes()?)?;
        let (needs, choice) = settle(&like, base.config()?, weights, threads, facts, None)?;
        let engine = Engine::new(EngineOptions { loss_chunk: Some(choice.cut.loss_chunk), ..options })?;
        let mut model = base.decoder(&engine, longest)?;
        if let Some(pinned) = choice.pinned {
            model.give_up_weights(pinned);
        }
        let adapter = Adapter::fresh(&engine, &model, &lora, config.seed)?;
        let adam = AdamW::new(&engine, &adapter, ADAMW)?;
        let grads = adapter.zero_gradients(&engine)?;
        Ok(Trial { engine, model, adapter, adam, grads, needs, choice, kept: 0, most: Parts::default() })
    }

    /// Bytes that the plan says these steps need.
    pub fn predicted(&self) -> usize {
        self.needs.held() + self.most.total()
    }

    /// One optimizer step; gives the loss.
    pub fn step(&mut self, step: &Step) -> Result<f64> {
        let Trial { engine, model, adapter, adam, grads, needs, choice, kept, most } = self;
        let engine = &*engine;
        *kept = 0;
        engine.run(|| {
            let mut loss = 0.0;
            for group in &step.groups {
                let run = GroupRun { engine, model, adapter: Some(&*adapter), keep: choice.keep, dropout: None };
                let r = group.run(&run, Some(grads))?;
                *kept += r.kept_blocks;
                *most = most.max(needs.parts(group.shape(), choice));
                loss += group.a * r.rows.iter().map(|r| r.nll).sum::<f64>() + group.mu * r.mixup;
            }
            adam.apply(engine, adapter, grads, LEARNING_RATE)?;
            engine.synchronize()?;
            Ok(loss)
        })
    }

    /// The forward pass of a step's rows that a sweep makes at a checkpoint.
    pub fn score(&self, step: &Step) -> Result<()> {
        let Trial { engine, model, adapter, .. } = self;
        engine.run(|| {
            for group in &step.groups {
                let run = GroupRun { engine, model, adapter: Some(adapter), keep: Keep::Nothing, dropout: None };
                group.run(&run, None)?;
            }
            engine.synchronize()
        })
    }
}
