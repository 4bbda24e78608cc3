//! Made by scripts/schema.py of src/config; change those.

use std::collections::HashMap;

use serde::Serialize;

use crate::records::DataSource;

/// Settings of a run, by their names on the command line and in settings files. What is left out has its default;
/// in a run that is taken up, the run's own value.
#[derive(Clone, Debug, Default, Serialize, uniffi::Record)]
pub struct TrainSettings {
    /// Hugging Face model folder (`config.json`, `tokenizer.json`, safetensors), or a GGUF file; or `org/name[@revision]`, a model of the local Hugging Face cache. A run records where it lies.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Training rows: a file of JSONL, a JSON array, CSV, TSV or Parquet (feature `tables`), a folder with `train.jsonl` or of texts; several with weights.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<DataSource>>,
    /// Run folder; must not hold a run.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Held-out rows, of the same shape; `None` takes `valid.jsonl` where `data` is a folder that has one.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<String>,
    /// Share of the rows of `data` that is held out instead, 0 < s < 1: round(s · rows) of them, which ones by `seed`. Not with `valid`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_split: Option<f64>,
    /// What to compute.
    /// One of: sftmix, ntp.
    /// Default: "sftmix".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// Weight μ of the Mixup term, ≥ 0.
    /// Default: 0.2.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mu: Option<f64>,
    /// λ ~ Beta(α, α), α > 0.
    /// Default: 0.5.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix_alpha: Option<f64>,
    /// How Mixup terms are averaged.
    /// One of: token, pair.
    /// Default: "token".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix_reduction: Option<String>,
    /// Where the dynamics come from.
    /// Default: "sweep".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamics: Option<String>,
    /// Epochs of the reference run, ≥ 1.
    /// Default: 1.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_epochs: Option<u64>,
    /// Checkpoints of the reference run that are scored, ≥ 1: evenly spaced over its steps, the last at its end. As many as there are `reference_epochs` lie at the ends of those. The paper does not publish their number and spacing.
    /// Default: 4.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_checkpoints: Option<u64>,
    /// What confidence is minus the mean of.
    /// One of: perplexity, nll.
    /// Default: "perplexity".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<String>,
    /// Passes over the data, ≥ 1.
    /// Default: 3.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Stop each stage after so many optimizer steps; the schedule runs over these.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Rows per optimizer step; even for SFTMix (half of them confident).
    /// Default: 8.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u64>,
    /// Rows whose blocks run together, ≥ 1; `None` chooses from `batch_size` and `max_length`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u64>,
    /// Longest row in tokens, ≥ 2.
    /// Default: 1024.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// The learning rate of B (and of DoRA's magnitudes) is `lr` times this, ≥ 1 as a rule (LoRA+). `weight_decay` decays A at the rate `lr` and B at its own: it is `loraplus_weight_decay` of PEFT's `create_loraplus_optimizer`, which is 0 there unless it is given.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Noise on the embeddings in training, uniform in ±α/√(tokens of the row · hidden size) (NEFTune).
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neftune_noise_alpha: Option<f64>,
    /// Start every stage from this PEFT adapter instead of a fresh one. What `lora` says must be what it has, but for `lora_dropout`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<String>,
    /// Take `init_adapter` whatever base its `sftmix.json` names.
    /// Default: false.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_base: Option<bool>,
    /// Peak learning rate.
    /// Default: 0.0002.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate after warm-up.
    /// One of: cosine, linear, constant.
    /// Default: "cosine".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Share of the steps in which the rate rises from 0, 0 ≤ w ≤ 1.
    /// Default: 0.1.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Decoupled weight decay of every trained number, at its own learning rate; also with LoRA+.
    /// Default: 0.01.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// AdamW's β₁, β₂.
    /// Default: [0.9, 0.999].
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adam_betas: Option<Vec<f64>>,
    /// AdamW's ε.
    /// Default: 1e-08.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adam_eps: Option<f64>,
    /// Largest global gradient norm; 0 switches clipping off.
    /// Default: 1.0.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Seed of everything that is drawn.
    /// Default: 0.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Where to compute. A run may be resumed on another device.
    /// Default: "auto".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Worker threads; `None` takes the machine's cores.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// Keep activations or run blocks twice.
    /// One of: auto, on, off.
    /// Default: "auto".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<String>,
    /// Bytes that the library may hold at most, mapped weights not counted. It decides how rows are cut and what is kept, never what is computed; `None` takes what a workstation has to spare.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Bytes that the process may have resident in all, mapped weights counted: those of blocks that have run are given up and read again. `None` leaves mapped weights to the system.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_limit: Option<u64>,
    /// Evaluate on `valid` every so many steps as well as after each epoch.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Stop once so many evaluations in a row have not improved on the best held-out loss. The reference run and the plain epoch of dynamics `single` have none that count.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    /// By how much the held-out loss must fall to count as improved, nats.
    /// Default: 0.0.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_threshold: Option<f64>,
    /// Keep the checkpoint of the best held-out loss beyond `keep`, and end with its adapter.
    /// Default: false.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<bool>,
    /// Write a checkpoint every so many steps, ≥ 1.
    /// Default: 100.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every: Option<u64>,
    /// How many checkpoints stay, ≥ 1.
    /// Default: 2.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// Where token stores and hashes are kept; `None` takes `<out>/cache`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<String>,
    /// Rank, ≥ 1; `lora_r` in settings.
    /// Default: 16.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_r: Option<u64>,
    /// The update is scaled by `lora_alpha / r`.
    /// Default: 32.0.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Dropout on the adapter's input, 0 ≤ p < 1, in training only.
    /// Default: 0.0.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// Scale by `lora_alpha / √r` instead.
    /// Default: false.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_rslora: Option<bool>,
    /// Learn the length of each row of the adapted weight apart from its direction (DoRA).
    /// Default: false.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_dora: Option<bool>,
    /// Which linears.
    /// Default: "all-linear".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<Vec<String>>,
    /// Blocks whose linears are adapted; `None` is all.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<u64>>,
    /// Ranks that differ from `r`.
    /// Default: {}.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_pattern: Option<HashMap<String, u64>>,
    /// Alphas that differ from `lora_alpha`.
    /// Default: {}.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_pattern: Option<HashMap<String, f64>>,
    /// Shape of the rows; `None` takes it from the first row.
    /// One of: text, prompt-completion, alpaca, messages, sharegpt, columns.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_format: Option<String>,
    /// Column of the prompt (with `response_field`).
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_field: Option<String>,
    /// Column of the response (with `prompt_field`).
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_field: Option<String>,
    /// Column of the text, instead of `text`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    /// The prompt with `{column}` in place of values, e.g. `Question: {question}\nAnswer: `.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// Column of the turns of a conversation, instead of `messages` or `conversations`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_field: Option<String>,
    /// File with the chat template that conversations are written with, instead of the model's own.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Further variables of the chat template, such as `enable_thinking`.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<String>,
    /// What a conversation may have that its template leaves out: keys, as `reasoning_content`, `tools` or `documents`, and roles whose texts it may leave out. A part of a trained answer is not to be left out.
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_drops: Option<Vec<String>>,
    /// What becomes of a row that is no example.
    /// One of: error, skip.
    /// Default: "error".
    #[uniffi(default = None)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_rows: Option<String>,
}
