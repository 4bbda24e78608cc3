//! How text is generated.

use crate::error::{Error, Result};

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// Most tokens to generate, at least 1; fewer where the model's context ends before.
    pub max_new_tokens: usize,
    /// Divides the logits before sampling, 0 and more; less than 1e-6 takes the likeliest token each time.
    pub temperature: f64,
    /// Samples from this many likeliest tokens, at least 1; `None` from all.
    pub top_k: Option<usize>,
    /// Samples from the fewest tokens whose probabilities add up to this, in (0, 1], after `top_k`; `None` from
    /// all.
    pub top_p: Option<f64>,
    /// Samples from tokens that are at least this likely, relative to the likeliest, in [0, 1]; `None` from all.
    pub min_p: Option<f64>,
    /// Divides positive logits of tokens that prompt or text hold already, and multiplies negative ones; more
    /// than 0, 1 changes nothing.
    pub repetition_penalty: f64,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// Seed of the sampling.
    pub seed: u64,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        GenerateConfig {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

impl GenerateConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the field and the value found.
    pub fn validate(&self) -> Result<()> {
        let need = |right: bool, field: &str, expected: &str, found: &dyn std::fmt::Display| match right {
            true => Ok(()),
            false => Err(Error::config(field, format!("expected {expected}, found {found}"))),
        };
        need(self.max_new_tokens > 0, "max_new_tokens", "at least 1", &self.max_new_tokens)?;
        let temperature = self.temperature;
        need(temperature >= 0.0 && temperature.is_finite(), "temperature", "a number of 0 and more", &temperature)?;
        need(self.top_k != Some(0), "top_k", "at least 1", &0)?;
        if let Some(p) = self.top_p {
            need(p > 0.0 && p <= 1.0, "top_p", "more than 0 and at most 1", &p)?;
        }
        if let Some(p) = self.min_p {
            need((0.0..=1.0).contains(&p), "min_p", "0 to 1", &p)?;
        }
        let penalty = self.repetition_penalty;
        need(penalty > 0.0 && penalty.is_finite(), "repetition_penalty", "a number above 0", &penalty)?;
        need(!self.stop.iter().any(String::is_empty), "stop", "texts of at least one character", &"an empty one")
    }

    /// Whether the likeliest token is taken each time.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature < 1e-6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_range() {
        let d = GenerateConfig::default;
        let at = |top_p, min_p| GenerateConfig { top_p, min_p, ..d() };
        for config in
            [d(), at(Some(1.0), Some(0.0)), at(Some(1e-9), Some(1.0)), GenerateConfig { top_k: Some(1), ..d() }]
        {
            config.validate().unwrap();
        }
        let bad = |field, configs: Vec<GenerateConfig>| {
            for config in configs {
                match config.validate() {
                    Err(Error::InvalidConfig { field: found, .. }) => assert_eq!(found, field),
                    other => panic!("{config:?}: {other:?}"),
                }
            }
        };
        let each = |numbers: &[f64], of: &dyn Fn(f64) -> GenerateConfig| numbers.iter().map(|n| of(*n)).collect();
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        bad("max_new_tokens", vec![GenerateConfig { max_new_tokens: 0, ..d() }]);
        bad("top_k", vec![GenerateConfig { top_k: Some(0), ..d() }]);
        bad("stop", vec![GenerateConfig { stop: vec![String::new()], ..d() }]);
        bad("temperature", each(&[-1.0, -1e-9, nan, inf], &|n| GenerateConfig { temperature: n, ..d() }));
        bad("top_p", each(&[0.0, -0.1, 1.1, nan], &|n| at(Some(n), None)));
        bad("min_p", each(&[-0.1, 1.1, nan], &|n| at(None, Some(n))));
        bad("repetition_penalty", each(&[0.0, -1.0, nan, inf], &|n| GenerateConfig { repetition_penalty: n, ..d() }));
    }
}
