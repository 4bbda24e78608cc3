//! Settings of an adapter.

use serde::{Deserialize, Serialize};

use super::patterns;
use super::patterns::{Layers, ModulePattern};

/// Which linears get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "TargetText", into = "TargetText")]
#[non_exhaustive]
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
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank, ≥ 1; `lora_r` in settings.
    #[serde(rename = "lora_r")]
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
