//! The weights in training: made for a stage, moved by a step.

use std::time::Instant;

use super::dynamics::record;
use super::opened::Opened;
use super::parts::{Runner, Training};
use crate::base::check::check_base;
use crate::base::open::Inputs;
use crate::data::tokens::row_name;
use crate::error::{Error, Result};
use crate::job::event::{Event, StepEvent};
use crate::lora::initial::{check_initial, in_training};
use crate::model::Adapter;
use crate::ops::elementwise::DropoutKey;
use crate::recipe::Step;
use crate::run::checkpoint::{self, LogEntry, StageState};
use crate::steps::stage::StageRun;
use crate::train::batches::groups;
use crate::train::group::GroupRun;
use crate::train::optimizer::{AdamW, AdamWConfig};

impl Runner<'_> {
    /// Weights of a stage: a checkpoint's, an initial adapter's, or fresh ones.
    pub(super) fn begin_stage(&mut self, i: usize, resumed: bool) -> Result<Training> {
        if !resumed {
            self.progress.state.stage = StageState::begin(self.stages[i].stage.as_str());
        }
        let (Inputs { engine, base, model, cache_dir }, c) = (&self.opened.inputs, self.config);
        let from = self.progress.from.take().filter(|_| resumed);
        let kept = self.disk.folder.initial_adapter();
        // In the engine: it makes an error of memory that the system does not give.
        let mut adapter = engine.run(|| match (&from, &c.init_adapter) {
            (Some(checkpoint), _) => Adapter::load(engine, model, &checkpoint.path),
            (None, Some(dir)) => {
                // The run's own copy, once it has one: what it began with is what every stage begins with.
                let dir = if kept.exists() { &kept } else { dir };
                if !c.force_base {
                    check_base(dir, base, Some(cache_dir))?;
                }
                let adapter = Adapter::load(engine, model, dir)?;
                if let Some(said) = &c.lora {
                    let linears = model.linears().map(|l| (l.module.as_str(), adapter.slot(l).is_some()));
                    check_initial(said, &adapter.config, linears)?;
                }
                Ok(adapter)
            }
            (None, None) => Adapter::fresh(engine, model, &in_training(c.lora.as_ref(), None), c.seed),
        })?;
        // Dropout is the run's own, whatever the initial adapter has.
        let lora = in_training(c.lora.as_ref(), Some(&adapter.config));
        lora.validate()?;
        adapter.config.lora_dropout = lora.lora_dropout;
        for slot in &mut adapter.slots {
            slot.dropout = lora.lora_dropout as f32;
            slot.lr_factor = c.loraplus_lr_ratio.unwrap_or(1.0) as f32;
        }
        // What is trained is what is recorded.
        self.opened.run_file.config.lora = Some(lora);
        adapter.neftune_noise_alpha = c.neftune_noise_alpha;
        let settings = AdamWConfig { betas: c.adam_betas, eps: c.adam_eps, weight_decay: c.weight_decay, clip: c.clip };
        let (adam, grads) = engine.run(|| {
            let mut adam = AdamW::new(engine, &adapter, settings)?;
            if let Some(checkpoint) = &from {
                checkpoint::restore_optimizer(checkpoint, &adapter, &mut adam)?;
            }
            Ok((adam, adapter.zero_gradients(engine)?))
        })?;
        if let Some(position) = self.progress.state.dynamics.filter(|_| resumed) {
            self.resume_dynamics(self.stages[i].stage, position, &adapter)?;
        }
        Ok(Training { adapter, adam, grads })
    }

    /// One optimizer step.
    pub(super) fn step(&mut self, stage: &StageRun, t: &mut Training, taken: &Step, lr: f64) -> Result<()> {
        let (begun, paused) = (Instant::now(), self.control.paused());
        let Opened { store, mixing, run_file, .. } = &self.opened;
        let made = groups(store, taken, run_file.resolved.cut, *mixing);
        let dropout = DropoutKey { seed: self.config.seed, step: self.progress.state.global_step };
        let (mut rows, mut mixup, mut floor, mut tokens) = (Vec::new(), 0.0, 0.0, 0u64);
        for group in &made.groups {
            self.gate(stage, t)?;
            let Opened { inputs: Inputs { engine, model, .. }, keep, .. } = &self.opened;
            let adapter = Some(&t.adapter);
            let run = GroupRun { engine, model, adapter, keep: *keep, dropout: Some(dropout) };
            let grads = &mut t.grads;
            let result = engine.run(|| group.run(&run, Some(grads)))?;
            mixup += result.mixup;
            floor += result.mixup_floor;
            tokens += group.micros.iter().map(|m| m.tokens() as u64).sum::<u64>();
            rows.extend(result.rows);
        }
        if let Some(bad) = rows.iter().find(|r| !r.nll.is_finite()) {
            let row = row_name(self.opened.store.example(bad.example as usize).source_row);
            let (stage, step) = (stage.stage.as_str(), self.progress.state.stage.step + 1);
            return Err(Error::NonFinite { what: format!("loss of {row}, {stage} step {step}") });
        }
        let (adam, adapter, grads) = (&mut t.adam, &mut t.adapter, &mut t.grads);
        let engine = &self.opened.inputs.engine;
        let grad_norm = engine.run(|| adam.apply(engine, adapter, grads, lr))?;
        if stage.online {
            let log = self.log()?;
            for r in &rows {
                log.append(&record(r))?;
            }
        }
        let supervised: u64 = rows.iter().map(|r| r.tokens as u64).sum();
        let nll: f64 = rows.iter().map(|r| r.nll).sum();
        let share = |v: f64| v / (supervised as f64).max(1.0);
        let state = &mut self.progress.state;
        state.stage.step += 1;
        state.global_step += 1;
        state.num_tokens += tokens;
        state.stage.nll += nll;
        state.stage.tokens += supervised;
        let mixes = !taken.pairs.is_empty();
        let (step, global_step, num_tokens) = (state.stage.step, state.global_step, state.num_tokens);
        let elapsed = self.elapsed();
        let took = begun.elapsed().saturating_sub(self.control.paused() - paused);
        let done_now = global_step - self.progress.steps_before;
        let left = self.total_steps.saturating_sub(global_step) as f64;
        let event = StepEvent {
            stage: stage.stage.as_str().into(),
            step,
            global_step,
            total_steps: self.total_steps,
            epoch: stage.epochs(step),
            loss: share(nll) + if mixes { self.config.mu * mixup } else { 0.0 },
            ntp_loss: share(nll),
            mixup_loss: mixes.then_some(mixup),
            mixup_floor: mixes.then_some(floor),
            mix_tokens: made.mixed,
            mix_coverage: made.coverage,
            grad_norm,
            learning_rate: lr,
            num_tokens,
            supervised_tokens: supervised,
            mean_token_accuracy: share(rows.iter().map(|r| r.correct as f64).sum()),
            entropy: share(rows.iter().map(|r| r.entropy).sum()),
            tokens_per_second: tokens as f64 / took.as_secs_f64().max(1e-9),
            elapsed_seconds: elapsed,
            eta_seconds: left * (elapsed - self.progress.elapsed_before) / done_now.max(1) as f64,
            peak_anonymous_bytes: self.peak(),
        };
        self.progress.last_step = Some(LogEntry {
            epoch: event.epoch,
            step: global_step,
            loss: Some(event.loss),
            grad_norm: Some(grad_norm),
            learning_rate: Some(lr),
            eval_loss: None,
        });
        self.record(&Event::Step(event))
    }
}
