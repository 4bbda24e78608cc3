//! Settings as plain data. Field names are the command line's, with `_` for `-`; they stand in
//! `run.json` under the same names, and a settings file uses them too.

mod data;
mod device;
mod dynamics;
mod effect;
mod flat;
mod lora;
mod modules;
mod patterns;
mod settings;
mod sources;
mod validate;
mod words;

use crate::error::{Error, Result};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use data::DataOptions;
pub use device::DeviceSetting;
pub use dynamics::Dynamics;
pub use lora::{LoraConfig, TargetModules};
pub(crate) use patterns::is_regex;
pub use patterns::{Layers, ModulePattern};
pub use sources::{DataSource, DataSources};
pub(crate) use words::text_enum;
pub use words::{BadRows, Confidence, DataFormat, MixReduction, Recipe, Recompute, Schedule};

/// Every setting of a run. `Default` gives what the command line's `--help` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors), or a GGUF file; or `org/name[@revision]`, a
    /// model of the local Hugging Face cache. A run records where it lies.
    pub model: PathBuf,
    /// Training rows: a file of JSONL, a JSON array, CSV, TSV or Parquet (feature `tables`), a folder with
    /// `train.jsonl` or of texts; several with weights.
    pub data: DataSources,
    /// Run folder; must not hold a run.
    pub out: PathBuf,
    /// Held-out rows, of the same shape; `None` takes `valid.jsonl` where `data` is a folder that has one.
    pub valid: Option<PathBuf>,
    /// Share of the rows of `data` that is held out instead, 0 < s < 1: round(s · rows) of them, which ones by
    /// `seed`. Not with `valid`.
    pub valid_split: Option<f64>,
    /// What to compute.
    pub recipe: Recipe,
    /// Weight μ of the Mixup term, ≥ 0.
    pub mu: f64,
    /// λ ~ Beta(α, α), α > 0.
    pub mix_alpha: f64,
    /// How Mixup terms are averaged.
    pub mix_reduction: MixReduction,
    /// Where the dynamics come from.
    pub dynamics: Dynamics,
    /// Epochs of the reference run, ≥ 1.
    pub reference_epochs: usize,
    /// Checkpoints of the reference run that are scored, ≥ 1: evenly spaced over its steps, the last at its end. As many as
    /// there are `reference_epochs` lie at the ends of those. The paper does not publish their number and spacing.
    pub reference_checkpoints: usize,
    /// What confidence is minus the mean of.
    pub confidence: Confidence,
    /// Passes over the data, ≥ 1.
    pub epochs: usize,
    /// Stop each stage after so many optimizer steps; the schedule runs over these.
    pub max_steps: Option<u64>,
    /// Rows per optimizer step; even for SFTMix (half of them confident).
    pub batch_size: usize,
    /// Rows whose blocks run together, ≥ 1; `None` chooses from `batch_size` and `max_length`.
    pub micro_batch: Option<usize>,
    /// Longest row in tokens, ≥ 2.
    pub max_length: usize,
    /// Settings of the adapter; `None` takes the initial adapter's own, or the defaults where there is none. In
    /// settings its fields stand among the others, `r` as `lora_r`.
    #[serde(flatten, with = "flat")]
    pub lora: Option<LoraConfig>,
    /// The learning rate of B (and of DoRA's magnitudes) is `lr` times this, ≥ 1 as a rule (LoRA+). `weight_decay` decays
    /// A at the rate `lr` and B at its own: it is `loraplus_weight_decay` of PEFT's `create_loraplus_optimizer`, which is 0
    /// there unless it is given.
    pub loraplus_lr_ratio: Option<f64>,
    /// Noise on the embeddings in training, uniform in ±α/√(tokens of the row · hidden size) (NEFTune).
    pub neftune_noise_alpha: Option<f64>,
    /// Start every stage from this PEFT adapter instead of a fresh one. What `lora` says must be what it has, but for
    /// `lora_dropout`.
    pub init_adapter: Option<PathBuf>,
    /// Take `init_adapter` whatever base its `sftmix.json` names.
    pub force_base: bool,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate after warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which the rate rises from 0, 0 ≤ w ≤ 1.
    pub warmup_ratio: f64,
    /// Decoupled weight decay of every trained number, at its own learning rate; also with LoRA+.
    pub weight_decay: f64,
    /// AdamW's β₁, β₂.
    pub adam_betas: (f64, f64),
    /// AdamW's ε.
    pub adam_eps: f64,
    /// Largest global gradient norm; 0 switches clipping off.
    pub clip: f64,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Where to compute. A run may be resumed on another device.
    pub device: DeviceSetting,
    /// Worker threads; `None` takes the machine's cores.
    pub threads: Option<usize>,
    /// Keep activations or run blocks twice.
    pub recompute: Recompute,
    /// Bytes that the library may hold at most, mapped weights not counted. It decides how rows are cut and
    /// what is kept, never what is computed; `None` takes what a workstation has to spare.
    pub memory_limit: Option<u64>,
    /// Bytes that the process may have resident in all, mapped weights counted: those of blocks that have run
    /// are given up and read again. `None` leaves mapped weights to the system.
    pub resident_limit: Option<u64>,
    /// Evaluate on `valid` every so many steps as well as after each epoch.
    pub eval_every: Option<u64>,
    /// Stop once so many evaluations in a row have not improved on the best held-out loss. The reference run
    /// and the plain epoch of dynamics `single` have none that count.
    pub early_stopping_patience: Option<u64>,
    /// By how much the held-out loss must fall to count as improved, nats.
    pub early_stopping_threshold: f64,
    /// Keep the checkpoint of the best held-out loss beyond `keep`, and end with its adapter.
    pub keep_best: bool,
    /// Write a checkpoint every so many steps, ≥ 1.
    pub save_every: u64,
    /// How many checkpoints stay, ≥ 1.
    pub keep: usize,
    /// Where token stores and hashes are kept; `None` takes `<out>/cache`.
    pub cache_dir: Option<PathBuf>,
    /// How rows become examples.
    #[serde(flatten)]
    pub data_options: DataOptions,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            model: PathBuf::new(),
            data: DataSources::default(),
            out: PathBuf::new(),
            valid: None,
            valid_split: None,
            recipe: Recipe::Sftmix,
            mu: 0.2,
            mix_alpha: 0.5,
            mix_reduction: MixReduction::Token,
            dynamics: Dynamics::Sweep,
            reference_epochs: 1,
            reference_checkpoints: 4,
            confidence: Confidence::Perplexity,
            epochs: 3,
            max_steps: None,
            batch_size: 8,
            micro_batch: None,
            max_length: 1024,
            lora: None,
            loraplus_lr_ratio: None,
            neftune_noise_alpha: None,
            init_adapter: None,
            force_base: false,
            lr: 2e-4,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.1,
            weight_decay: 0.01,
            adam_betas: (0.9, 0.999),
            adam_eps: 1e-8,
            clip: 1.0,
            seed: 0,
            device: DeviceSetting::Auto,
            threads: None,
            recompute: Recompute::Auto,
            memory_limit: None,
            resident_limit: None,
            eval_every: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            keep_best: false,
            save_every: 100,
            keep: 2,
            cache_dir: None,
            data_options: DataOptions::default(),
        }
    }
}

impl TrainConfig {
    /// Whether rows are held out.
    pub(crate) fn has_valid(&self) -> bool {
        self.valid.is_some() || self.valid_split.is_some()
    }

    /// The same settings with paths that mean the same from any folder: a run may be taken up from another.
    pub fn absolute(mut self) -> TrainConfig {
        // Where the current folder is unknown the path stays as it is, and fails where it is used.
        let make = |p: &mut PathBuf| *p = std::path::absolute(&*p).unwrap_or_else(|_| p.clone());
        [&mut self.model, &mut self.out].into_iter().for_each(make);
        self.data.0.iter_mut().map(|s| &mut s.path).for_each(make);
        let template = &mut self.data_options.chat_template;
        [&mut self.valid, &mut self.init_adapter, &mut self.cache_dir, template].into_iter().flatten().for_each(make);
        if let Dynamics::Path(p) = &mut self.dynamics {
            make(p);
        }
        self
    }

    /// The same settings with the model's place for its name, where it is named as on the hub.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when the Hugging Face cache does not have it.
    pub(crate) fn with_model_found(mut self) -> Result<TrainConfig> {
        self.model = crate::hub::resolve(&self.model)?;
        Ok(self)
    }

    /// Refuses paths that `run.json` could not say.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting whose path is not UTF-8.
    pub(crate) fn paths_are_text(&self) -> Result<()> {
        let of = |path: &'static str, value: &Option<PathBuf>| value.clone().map(|value| (path, value));
        let mut all = vec![("model", self.model.clone()), ("out", self.out.clone())];
        all.extend(self.data.0.iter().map(|source| ("data", source.path.clone())));
        all.extend(of("valid", &self.valid).into_iter().chain(of("init_adapter", &self.init_adapter)));
        all.extend(of("cache_dir", &self.cache_dir));
        all.extend(of("chat_template", &self.data_options.chat_template));
        if let Dynamics::Path(path) = &self.dynamics {
            all.push(("dynamics", path.clone()));
        }
        match all.iter().find(|(_, path)| path.to_str().is_none()) {
            Some((field, path)) => Err(Error::config(*field, format!("{} is not UTF-8", path.display()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> TrainConfig {
        TrainConfig { model: "m".into(), data: "d".into(), out: "o".into(), ..Default::default() }
    }

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let c = good();
        c.validate().unwrap();
        let json = serde_json::to_string(&c).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), c);
        assert!(
            json.contains("\"dynamics\":\"sweep\"") && !json.contains("lora_r") && !json.contains("target_modules"),
            "{json}"
        );
        let said = TrainConfig { lora: Some(LoraConfig { r: 5, ..Default::default() }), ..c };
        let json = serde_json::to_string(&said).unwrap();
        assert!(
            json.contains("\"lora_r\":5,\"lora_alpha\":32.0") && json.contains("\"target_modules\":\"all-linear\"")
        );
        assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), said);
    }

    #[test]
    fn a_bad_value_is_named() {
        let e = |c: TrainConfig| c.validate().unwrap_err().to_string();
        assert_eq!(
            e(TrainConfig { batch_size: 7, ..good() }),
            "invalid setting batch_size: expected an even number for recipe sftmix (half confident, half not), found 7"
        );
        assert!(e(TrainConfig { epochs: 1, dynamics: Dynamics::Single, ..good() }).contains("epochs"));
        assert!(e(TrainConfig { lr: f64::NAN, ..good() }).contains("lr"));
    }

    #[test]
    fn target_names_match_whole_components() {
        let t = TargetModules::parse("q_proj, mlp.up_proj");
        assert!(t.matches("model.layers.0.self_attn.q_proj") && t.matches("model.layers.1.mlp.up_proj"));
        assert!(!t.matches("model.layers.0.self_attn.xq_proj") && !t.matches("model.layers.0.mlp.gate_proj"));
    }
}
