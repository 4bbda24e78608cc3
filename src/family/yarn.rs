//! YaRN (Peng et al. 2023), as transformers reads and computes it: frequencies that turn often within the original
//! length are kept, those that hardly turn are stretched, a ramp lies between, and cos and sin have a factor.

use std::f64::consts::PI;

use serde_json::Value;

use super::keys::Keys;
use crate::error::Result;

/// The keys of a rotary embedding's object that only YaRN reads. Who made a model says `finetuned`; no code reads it.
/// `attn_factor` (DeepSeek-R1-0528-Qwen3-8B) is llama.cpp's name: transformers warns of it and goes on without.
pub(super) const KEYS: &[&str] =
    &["attention_factor", "attn_factor", "beta_fast", "beta_slow", "finetuned", "mscale", "mscale_all_dim", "truncate"];

/// YaRN's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the frequencies that hardly turn are divided.
    pub factor: f64,
    /// The sequence length before stretching.
    pub original_max_position_embeddings: usize,
    /// Frequencies that turn more often than this within the original length are kept.
    pub beta_fast: f64,
    /// Frequencies that turn less often than this are divided in full.
    pub beta_slow: f64,
    /// The ends of the ramp are rounded outwards to whole frequencies.
    pub truncate: bool,
    /// Factor of cos and sin.
    pub attention_factor: f64,
}

/// The factor of cos and sin that the paper suggests for this stretching.
pub fn attention_of(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * libm::log(factor) + 1.0
    }
}

impl Yarn {
    /// Reads the settings; `original` is the length before stretching, `positions` the one that the model names.
    pub(super) fn read(keys: &Keys, original: usize, positions: usize) -> Result<Yarn> {
        // transformers takes zero for absent in these.
        let number = |key: &str| match keys.get(key).filter(|v| v.as_f64() != Some(0.0)) {
            Some(_) => keys.positive(key).map(Some),
            None => Ok(None),
        };
        let factor = match keys.raw("factor") {
            Some(Value::Null) => positions as f64 / original as f64,
            _ => keys.positive("factor")?,
        };
        let attention_factor = match (keys.get("attention_factor"), number("mscale")?, number("mscale_all_dim")?) {
            (Some(_), ..) => keys.positive("attention_factor")?,
            (None, Some(mscale), Some(all)) => attention_of(factor, mscale) / attention_of(factor, all),
            _ => attention_of(factor, 1.0),
        };
        if keys.get("attn_factor").is_some() {
            log::warn!("rope_scaling.attn_factor is no setting of transformers' YaRN, and is left out as there");
        }
        let truncate = match keys.raw("truncate") {
            // Not absent: transformers asks whether the value is true.
            Some(Value::Null) => false,
            _ => keys.flag("truncate", true)?,
        };
        Ok(Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: number("beta_fast")?.unwrap_or(32.0),
            beta_slow: number("beta_slow")?.unwrap_or(1.0),
            truncate,
            attention_factor,
        })
    }

    /// The first and the last frequency of the ramp.
    fn ramp(&self, theta: f64, dim: usize) -> (f64, f64) {
        let length = self.original_max_position_embeddings as f64;
        let turning = |turns: f64| dim as f64 * libm::log(length / (turns * 2.0 * PI)) / (2.0 * libm::log(theta));
        let (mut low, mut high) = (turning(self.beta_fast), turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low.max(0.0), high.min(dim as f64 - 1.0))
    }

    /// What is wrong with the ramp over a head of which `dim` features are rotated: transformers would take one that
    /// ends before it begins backwards, and llama.cpp would take it for a step.
    pub(super) fn fault(&self, theta: f64, dim: usize) -> Option<String> {
        let (low, high) = self.ramp(theta, dim);
        if low <= high {
            return None;
        }
        let Yarn { beta_fast, beta_slow, original_max_position_embeddings: length, .. } = self;
        let settings = format!("beta_fast {beta_fast} and beta_slow {beta_slow} over {length} positions");
        Some(format!("{settings} leave no ramp between the frequencies: it would begin at {low} and end at {high}"))
    }

    /// The frequencies, in singles as transformers computes them.
    pub(super) fn frequencies(&self, theta: f64, dim: usize) -> Vec<f32> {
        let (low, high) = self.ramp(theta, dim);
        // A ramp of no length is a step.
        let width = (if low == high { high + 0.001 } else { high } - low) as f32;
        let one = |i: usize| {
            let power = libm::pow(theta, (2 * i) as f64 / dim as f64) as f32;
            let (kept, stretched) = (1.0 / power, 1.0 / (self.factor as f32 * power));
            let share = 1.0 - ((i as f32 - low as f32) / width).clamp(0.0, 1.0);
            stretched * (1.0 - share) + kept * share
        };
        (0..dim / 2).map(one).collect()
    }

    /// The length that the original one is stretched to.
    pub(super) fn reach(&self) -> usize {
        (self.factor * self.original_max_position_embeddings as f64).min(f64::from(i32::MAX)) as usize
    }
}
