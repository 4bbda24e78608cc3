//! The weights in training: made for a stage, moved by a step.

use super::*;
use crate::base::check::check_base;
use crate::config::LoraConfig;
use crate::model::Decoder;
use crate::ops::elementwise::DropoutKey;
use crate::ops::linear::SlotGrad;
use crate::train::batches::groups;
use crate::train::group::GroupRun;
use crate::train::optimizer::AdamWConfig;

/// The weights in training and what moves them.
pub(super) struct Training {
    pub adapter: Adapter,
    pub adam: AdamW,
    pub grads: Vec<SlotGrad>,
}

impl Runner<'_> {
    /// Weights of a stage: a checkpoint's, an initial adapter's, or fresh ones.
    pub(super) fn begin_stage(&mut self, i: usize, resumed: bool) -> Result<Training> {
        self.state.stage = self.stages[i].stage.as_str().into();
        let (engine, model, c) = (&self.inputs.engine, &self.inputs.model, self.config);
        let from = self.from.take().filter(|_| resumed);
        // In the engine: it makes an error of memory that the system does not give.
        let mut adapter = engine.run(|| match (&from, &c.init_adapter) {
            (Some(checkpoint), _) => Adapter::load(engine, model, &checkpoint.path),
            (None, Some(dir)) => {
                if !c.force_base {
                    check_base(dir, &self.inputs.base, Some(&self.inputs.cache_dir))?;
                }
                let adapter = Adapter::load(engine, model, dir)?;
                check_initial(c, &adapter, model)?;
                Ok(adapter)
            }
            (None, None) => Adapter::fresh(engine, model, &c.lora(), c.seed),
        })?;
        // The file's target modules are names; the run's own words stay in its adapters.
        adapter.config.lora_dropout = c.lora_dropout;
        for slot in &mut adapter.slots {
            slot.dropout = c.lora_dropout as f32;
            slot.lr_factor = c.loraplus_lr_ratio.unwrap_or(1.0) as f32;
        }
        adapter.neftune_noise_alpha = c.neftune_noise_alpha;
        let settings = AdamWConfig { betas: c.adam_betas, eps: c.adam_eps, weight_decay: c.weight_decay, clip: c.clip };
        let (adam, grads) = engine.run(|| {
            let mut adam = AdamW::new(engine, &adapter, settings)?;
            if let Some(checkpoint) = &from {
                checkpoint::restore_optimizer(checkpoint, &adapter, &mut adam)?;
            }
            Ok((adam, adapter.zero_gradients(engine)?))
        })?;
        if let Some(position) = self.state.dynamics.filter(|_| resumed) {
            self.resume_dynamics(i, position, &adapter)?;
        }
        Ok(Training { adapter, adam, grads })
    }

    /// One optimizer step.
    pub(super) fn step(&mut self, stage: &StageRun, t: &mut Training, taken: &Step, lr: f64) -> Result<()> {
        let begun = Instant::now();
        let made = groups(&self.store, taken, self.cut, self.mixing);
        let dropout = DropoutKey { seed: self.config.seed, step: self.state.global_step };
        let (mut rows, mut mixup, mut floor, mut tokens) = (Vec::new(), 0.0, 0.0, 0u64);
        for group in &made.groups {
            if self.stop.is_stopped() {
                return self.stopped(t);
            }
            let run = GroupRun {
                engine: &self.inputs.engine,
                model: &self.inputs.model,
                adapter: Some(&t.adapter),
                keep: self.keep,
                dropout: Some(dropout),
            };
            let grads = &mut t.grads;
            let result = self.engine().run(|| group.run(&run, Some(grads)))?;
            mixup += result.mixup;
            floor += result.mixup_floor;
            tokens += group.micros.iter().map(|m| m.tokens() as u64).sum::<u64>();
            rows.extend(result.rows);
        }
        if let Some(bad) = rows.iter().find(|r| !r.nll.is_finite()) {
            let row = row_name(self.store.example(bad.example as usize).source_row);
            let what = format!("loss of {row}, {} step {}", stage.stage.as_str(), self.state.step + 1);
            return Err(Error::NonFinite { what });
        }
        let engine = &self.inputs.engine;
        let (adam, adapter, grads) = (&mut t.adam, &mut t.adapter, &mut t.grads);
        let grad_norm = engine.run(|| adam.apply(engine, adapter, grads, lr))?;
        if stage.online {
            let log = self.log()?;
            for r in &rows {
                log.append(&dynamics::record(r))?;
            }
        }
        let supervised: u64 = rows.iter().map(|r| r.tokens as u64).sum();
        let nll: f64 = rows.iter().map(|r| r.nll).sum();
        let share = |v: f64| v / (supervised as f64).max(1.0);
        self.state.step += 1;
        self.state.global_step += 1;
        self.state.num_tokens += tokens;
        self.state.stage_nll += nll;
        self.state.stage_tokens += supervised;
        let mixes = !taken.pairs.is_empty();
        let elapsed = self.elapsed();
        let done_now = self.state.global_step - self.steps_before;
        let left = self.total_steps.saturating_sub(self.state.global_step) as f64;
        let event = StepEvent {
            stage: stage.stage.as_str(),
            step: self.state.step,
            global_step: self.state.global_step,
            total_steps: self.total_steps,
            epoch: stage.epochs(self.state.step),
            loss: share(nll) + if mixes { self.config.mu * mixup } else { 0.0 },
            ntp_loss: share(nll),
            mixup_loss: mixes.then_some(mixup),
            mixup_floor: mixes.then_some(floor),
            mix_tokens: made.mixed,
            mix_coverage: made.coverage,
            grad_norm,
            learning_rate: lr,
            num_tokens: self.state.num_tokens,
            supervised_tokens: supervised,
            mean_token_accuracy: share(rows.iter().map(|r| r.correct as f64).sum()),
            entropy: share(rows.iter().map(|r| r.entropy).sum()),
            tokens_per_second: tokens as f64 / begun.elapsed().as_secs_f64().max(1e-9),
            elapsed_seconds: elapsed,
            eta_seconds: left * (elapsed - self.elapsed_before) / done_now.max(1) as f64,
            peak_anonymous_bytes: self.peak(),
        };
        self.write_metrics(&event)?;
        self.tell(&Event::Step(event));
        Ok(())
    }
}

/// An initial adapter brings its own rank and alpha: settings that say otherwise are not ignored in silence.
fn check_initial(c: &TrainConfig, adapter: &Adapter, model: &Decoder) -> Result<()> {
    let (default, has) = (TrainConfig::default(), &adapter.config);
    let differs = |field: &str, set: f64, default: f64, has: f64| {
        if set != default && set != has {
            return Err(Error::config(field, format!("{set} is given, but the initial adapter has {has}")));
        }
        Ok(())
    };
    differs("lora_r", c.lora_r as f64, default.lora_r as f64, has.r as f64)?;
    differs("lora_alpha", c.lora_alpha, default.lora_alpha, has.lora_alpha)?;
    let brings = |field: &str, given: bool, same: bool| match given && !same {
        true => Err(Error::config(field, "the initial adapter brings its own, which differs")),
        false => Ok(()),
    };
    brings("use_rslora", c.use_rslora, has.use_rslora)?;
    brings("use_dora", c.use_dora, has.use_dora)?;
    // The file may name modules in another way: what counts is which they are.
    let chosen = LoraConfig { target_modules: c.target_modules.clone(), ..has.clone() };
    let same = model.linears().all(|l| chosen.selects(&l.module) == adapter.slot(l).is_some());
    brings("target_modules", c.target_modules != default.target_modules, same)?;
    brings("layers_to_transform", c.layers_to_transform.is_some(), c.layers_to_transform == has.layers_to_transform)?;
    brings("rank_pattern", !c.rank_pattern.is_empty(), c.rank_pattern == has.rank_pattern)?;
    brings("alpha_pattern", !c.alpha_pattern.is_empty(), c.alpha_pattern == has.alpha_pattern)
}
