//! Settings as plain data. Field names are the command line's, with `_` for `-`; they stand in
//! `run.json` under the same names, and a settings file uses them too.

mod patterns;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use patterns::is_regex;
pub use patterns::{Layers, ModulePattern};

use crate::data::DataSources;
use crate::device::DeviceSetting;
use crate::error::{Error, Result};

macro_rules! text_enum {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$vm])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            /// Every value, as written in settings.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// The value as written in settings.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("expected one of {}, found {s:?}", Self::NAMES.join(", "))),
                }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

text_enum! {
    /// What a run computes.
    Recipe {
        /// Reference run, dynamics, split, then training with Mixup from the untouched base.
        Sftmix = "sftmix",
        /// Plain next-token prediction.
        Ntp = "ntp",
    }
}
text_enum! {
    /// How the Mixup terms of a step are averaged (method.md 1.3; the paper is silent).
    MixReduction {
        /// Sum over all mixed tokens ÷ their number.
        Token = "token",
        /// Mean over pairs of the mean over their tokens.
        Pair = "pair",
    }
}
text_enum! {
    /// What confidence is minus the mean of, over the checkpoints.
    Confidence {
        /// exp(NLL): the paper's.
        Perplexity = "perplexity",
        /// NLL: less ruled by outliers.
        Nll = "nll",
    }
}
text_enum! {
    /// Learning rate after warm-up.
    Schedule {
        /// Half a cosine down to 0.
        Cosine = "cosine",
        /// A line down to 0.
        Linear = "linear",
        /// Constant.
        Constant = "constant",
    }
}
text_enum! {
    /// Whether blocks keep their activations for the backward pass or run forward twice.
    Recompute {
        /// Keep as long as the predicted activations of a micro-batch stay small.
        Auto = "auto",
        /// Always run forward twice.
        On = "on",
        /// Always keep.
        Off = "off",
    }
}
text_enum! {
    /// Shape of a data row.
    DataFormat {
        /// `{"text"}`: loss on every token.
        Text = "text",
        /// `{"prompt", "completion"}`.
        PromptCompletion = "prompt-completion",
        /// `{"instruction", "input"?, "output"}` with Stanford's template.
        Alpaca = "alpaca",
        /// `{"messages": [{"role", "content"}, …]}` by the model's chat template, or in a plain role format.
        Messages = "messages",
        /// `{"conversations": [{"from", "value"}, …]}`, with `system` and `tools` columns.
        ShareGpt = "sharegpt",
        /// Two columns by name: `prompt_field`, `response_field`.
        Columns = "columns",
    }
}

/// Where the training dynamics come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Dynamics {
    /// Reference run, then a forward pass over the set at each of its checkpoints (the paper's).
    Sweep,
    /// The reference run's own passes are logged; its first epoch is left out. They are training passes: dropout and
    /// NEFTune's noise are in their losses, where the run has them.
    Online,
    /// One run: the first epoch plain, one sweep, Mixup from the second.
    Single,
    /// The `dynamics` folder of an earlier run, joined by the content hash of the row.
    Path(PathBuf),
}

impl From<String> for Dynamics {
    fn from(s: String) -> Self {
        match s.as_str() {
            "sweep" => Dynamics::Sweep,
            "online" => Dynamics::Online,
            "single" => Dynamics::Single,
            _ => Dynamics::Path(s.into()),
        }
    }
}

impl From<Dynamics> for String {
    fn from(d: Dynamics) -> Self {
        d.to_string()
    }
}

impl std::fmt::Display for Dynamics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dynamics::Sweep => f.write_str("sweep"),
            Dynamics::Online => f.write_str("online"),
            Dynamics::Single => f.write_str("single"),
            Dynamics::Path(p) => write!(f, "{}", p.display()),
        }
    }
}

/// Which linears get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "TargetText", into = "TargetText")]
pub enum TargetModules {
    /// Every linear of every block (not the LM head), as PEFT's `all-linear`.
    AllLinear,
    /// Those whose module path ends in one of these names.
    Names(Vec<String>),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TargetText {
    One(String),
    Many(Vec<String>),
}

impl From<TargetText> for TargetModules {
    fn from(t: TargetText) -> Self {
        match t {
            TargetText::One(s) => TargetModules::parse(&s),
            TargetText::Many(v) => TargetModules::Names(v),
        }
    }
}

impl From<TargetModules> for TargetText {
    fn from(t: TargetModules) -> Self {
        match t {
            TargetModules::AllLinear => TargetText::One("all-linear".into()),
            TargetModules::Names(v) => TargetText::Many(v),
        }
    }
}

impl TargetModules {
    /// `all-linear`, or names separated by commas.
    pub fn parse(text: &str) -> TargetModules {
        match text.trim() {
            "all-linear" => TargetModules::AllLinear,
            list => TargetModules::Names(
                list.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from).collect(),
            ),
        }
    }

    /// Whether the module of this path (`model.layers.0.self_attn.q_proj`) gets an adapter.
    /// PEFT's rule: the path equals a name or ends in `.name`.
    pub fn matches(&self, module: &str) -> bool {
        match self {
            TargetModules::AllLinear => true,
            TargetModules::Names(names) => names.iter().any(|n| patterns::ends_with_name(module, n)),
        }
    }
}

/// Settings of a LoRA adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank, ≥ 1.
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Dropout on the adapter's input, 0 ≤ p < 1, in training only.
    pub lora_dropout: f64,
    /// Scale by `lora_alpha / √r` instead.
    pub use_rslora: bool,
    /// Learn the length of each row of the adapted weight apart from its direction (DoRA).
    pub use_dora: bool,
    /// Which linears.
    pub target_modules: TargetModules,
    /// Blocks whose linears are adapted; `None` is all.
    pub layers_to_transform: Option<Layers>,
    /// Ranks that differ from `r`.
    pub rank_pattern: ModulePattern<usize>,
    /// Alphas that differ from `lora_alpha`.
    pub alpha_pattern: ModulePattern<f64>,
}

impl LoraConfig {
    /// `lora_alpha / r`, or `lora_alpha / √r` with `use_rslora`: of modules that no pattern names.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / if self.use_rslora { (self.r as f64).sqrt() } else { self.r as f64 }
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            target_modules: TargetModules::AllLinear,
            layers_to_transform: None,
            rank_pattern: ModulePattern::default(),
            alpha_pattern: ModulePattern::default(),
        }
    }
}

/// How rows become examples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataOptions {
    /// Shape of the rows; `None` takes it from the first row.
    pub data_format: Option<DataFormat>,
    /// Column of the prompt (with `response_field`).
    pub prompt_field: Option<String>,
    /// Column of the response (with `prompt_field`).
    pub response_field: Option<String>,
    /// Column of the text, instead of `text`.
    pub text_field: Option<String>,
    /// The prompt with `{column}` in place of values, e.g. `Question: {question}\nAnswer: `.
    pub prompt_template: Option<String>,
    /// Column of the turns of a conversation, instead of `messages` or `conversations`.
    pub messages_field: Option<String>,
    /// File with the chat template that conversations are written with, instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Further variables of the chat template, such as `enable_thinking`.
    pub chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Every setting of a run. `Default` gives what the command line's `--help` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors), or a GGUF file.
    pub model: PathBuf,
    /// Training rows: a file of JSONL, a JSON array, CSV or Parquet (feature `tables`), a folder with
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
    /// Checkpoints of the reference run that are scored, evenly spaced, ≥ 1.
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
    /// LoRA rank.
    pub lora_r: usize,
    /// LoRA alpha.
    pub lora_alpha: f64,
    /// LoRA dropout.
    pub lora_dropout: f64,
    /// Scale by `lora_alpha / √r`.
    pub use_rslora: bool,
    /// Learn the length of each row of the adapted weight apart from its direction (DoRA).
    pub use_dora: bool,
    /// Which linears get an adapter.
    pub target_modules: TargetModules,
    /// Blocks whose linears get an adapter; `None` is all.
    pub layers_to_transform: Option<Layers>,
    /// LoRA ranks by module name or path, where they differ from `lora_r`.
    pub rank_pattern: ModulePattern<usize>,
    /// LoRA alphas by module name or path, where they differ from `lora_alpha`.
    pub alpha_pattern: ModulePattern<f64>,
    /// The learning rate of B (and of DoRA's magnitudes) is `lr` times this, ≥ 1 as a rule (LoRA+).
    pub loraplus_lr_ratio: Option<f64>,
    /// Noise on the embeddings in training, uniform in ±α/√(tokens of the row · hidden size) (NEFTune).
    pub neftune_noise_alpha: Option<f64>,
    /// Start every stage from this PEFT adapter instead of a fresh one; rank, alpha and modules are its own.
    pub init_adapter: Option<PathBuf>,
    /// Take `init_adapter` whatever base its `sftmix.json` names.
    pub force_base: bool,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate after warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which the rate rises from 0, 0 ≤ w ≤ 1.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
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
        let lora = LoraConfig::default();
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
            lora_r: lora.r,
            lora_alpha: lora.lora_alpha,
            lora_dropout: lora.lora_dropout,
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            target_modules: lora.target_modules,
            layers_to_transform: lora.layers_to_transform,
            rank_pattern: lora.rank_pattern,
            alpha_pattern: lora.alpha_pattern,
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
    /// The adapter's settings.
    pub fn lora(&self) -> LoraConfig {
        LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            target_modules: self.target_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
        }
    }

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
        [&mut self.valid, &mut self.init_adapter, &mut self.cache_dir].into_iter().flatten().for_each(make);
        if let Dynamics::Path(p) = &mut self.dynamics {
            make(p);
        }
        self
    }

    /// Checks every range and every pair of settings that contradict each other.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the field and its value.
    pub fn validate(&self) -> Result<()> {
        fn check(ok: bool, field: &str, expected: &str, found: impl std::fmt::Display) -> Result<()> {
            if ok {
                Ok(())
            } else {
                Err(Error::config(field, format!("expected {expected}, found {found}")))
            }
        }
        let path = |p: &PathBuf, field: &str| check(!p.as_os_str().is_empty(), field, "a path", "nothing");
        path(&self.model, "model")?;
        self.data.validate()?;
        path(&self.out, "out")?;
        let finite = |v: f64| v.is_finite();
        check(finite(self.mu) && self.mu >= 0.0, "mu", "a number ≥ 0", self.mu)?;
        check(finite(self.mix_alpha) && self.mix_alpha > 0.0, "mix_alpha", "a number > 0", self.mix_alpha)?;
        check(self.reference_epochs >= 1, "reference_epochs", "≥ 1", self.reference_epochs)?;
        check(self.reference_checkpoints >= 1, "reference_checkpoints", "≥ 1", self.reference_checkpoints)?;
        check(self.epochs >= 1, "epochs", "≥ 1", self.epochs)?;
        check(self.max_steps != Some(0), "max_steps", "≥ 1", 0)?;
        check(self.batch_size >= 1, "batch_size", "≥ 1", self.batch_size)?;
        check(self.micro_batch != Some(0), "micro_batch", "≥ 1", 0)?;
        check(self.max_length >= 2, "max_length", "≥ 2", self.max_length)?;
        check(self.lora_r >= 1, "lora_r", "≥ 1", self.lora_r)?;
        check(finite(self.lora_alpha) && self.lora_alpha > 0.0, "lora_alpha", "> 0", self.lora_alpha)?;
        check((0.0..1.0).contains(&self.lora_dropout), "lora_dropout", "0 ≤ p < 1", self.lora_dropout)?;
        if let TargetModules::Names(names) = &self.target_modules {
            check(!names.is_empty(), "target_modules", "all-linear or at least one name", "none")?;
        }
        self.lora().validate_patterns()?;
        let positive = |v: Option<f64>| v.is_none_or(|v| v.is_finite() && v > 0.0);
        let shown = |v: Option<f64>| v.unwrap_or(0.0);
        let (ratio, noise) = (self.loraplus_lr_ratio, self.neftune_noise_alpha);
        check(positive(ratio), "loraplus_lr_ratio", "> 0", shown(ratio))?;
        check(positive(noise), "neftune_noise_alpha", "> 0", shown(noise))?;
        check(finite(self.lr) && self.lr > 0.0, "lr", "> 0", self.lr)?;
        check((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "0 to 1", self.warmup_ratio)?;
        check(finite(self.weight_decay) && self.weight_decay >= 0.0, "weight_decay", "≥ 0", self.weight_decay)?;
        let (b1, b2) = self.adam_betas;
        check(
            (0.0..1.0).contains(&b1) && (0.0..1.0).contains(&b2),
            "adam_betas",
            "two numbers, 0 ≤ β < 1",
            format!("{b1},{b2}"),
        )?;
        check(finite(self.adam_eps) && self.adam_eps > 0.0, "adam_eps", "> 0", self.adam_eps)?;
        check(finite(self.clip) && self.clip >= 0.0, "clip", "≥ 0 (0 = off)", self.clip)?;
        check(self.threads.is_none_or(|n| (1..=1024).contains(&n)), "threads", "1 to 1024", self.threads.unwrap_or(0))?;
        check(self.eval_every != Some(0), "eval_every", "≥ 1", 0)?;
        check(
            self.eval_every.is_none() || self.has_valid(),
            "eval_every",
            "held-out rows (valid or valid_split) with it",
            "none",
        )?;
        let (patience, threshold) = (self.early_stopping_patience, self.early_stopping_threshold);
        for (field, given) in [("early_stopping_patience", patience.is_some()), ("keep_best", self.keep_best)] {
            check(!given || self.has_valid(), field, "held-out rows (valid or valid_split) with it", "none")?;
        }
        check(patience != Some(0), "early_stopping_patience", "≥ 1", 0)?;
        check(finite(threshold) && threshold >= 0.0, "early_stopping_threshold", "≥ 0", threshold)?;
        let goes = threshold == 0.0 || patience.is_some();
        check(goes, "early_stopping_threshold", "early_stopping_patience with it", "none")?;
        if let Some(share) = self.valid_split {
            check(share > 0.0 && share < 1.0, "valid_split", "a share between 0 and 1", share)?;
            if let Some(valid) = &self.valid {
                let reason = format!("valid is {} as well: one of them says what is held out", valid.display());
                return Err(Error::config("valid_split", reason));
            }
        }
        check(self.save_every >= 1, "save_every", "≥ 1", self.save_every)?;
        check(self.keep >= 1, "keep", "≥ 1", self.keep)?;
        if self.recipe == Recipe::Sftmix {
            check(
                self.batch_size.is_multiple_of(2),
                "batch_size",
                "an even number for recipe sftmix (half confident, half not)",
                self.batch_size,
            )?;
            if self.dynamics == Dynamics::Online {
                check(
                    self.reference_epochs >= 2,
                    "reference_epochs",
                    "≥ 2 with dynamics online (the first epoch is left out)",
                    self.reference_epochs,
                )?;
            }
            if self.dynamics == Dynamics::Single {
                check(self.epochs >= 2, "epochs", "≥ 2 with dynamics single (the first epoch is plain)", self.epochs)?;
            }
        }
        self.data_options.validate()
    }
}

impl DataOptions {
    /// Checks that the options name one shape.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the field.
    pub fn validate(&self) -> Result<()> {
        match (&self.prompt_field, &self.prompt_template, &self.response_field) {
            (Some(_), Some(_), _) => {
                Err(Error::config("prompt_template", "prompt_field is given as well; one of them makes the prompt"))
            }
            (Some(_), None, None) | (None, Some(_), None) if self.data_format != Some(DataFormat::PromptCompletion) => {
                Err(Error::config("response_field", "the column of the response is missing"))
            }
            (None, None, Some(_)) => {
                Err(Error::config("prompt_field", "the column of the prompt (or prompt_template) is missing"))
            }
            _ => Ok(()),
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
            json.contains("\"target_modules\":\"all-linear\"") && json.contains("\"dynamics\":\"sweep\""),
            "{json}"
        );
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
