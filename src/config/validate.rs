//! Ranges of the settings of a run, and settings that contradict each other.

use std::path::PathBuf;

use super::dynamics::Dynamics;
use super::lora::{LoraConfig, TargetModules};
use super::words::Recipe;
use super::TrainConfig;
use crate::error::{Error, Result};

fn check(ok: bool, field: &str, expected: &str, found: impl std::fmt::Display) -> Result<()> {
    if ok {
        Ok(())
    } else {
        Err(Error::config(field, format!("expected {expected}, found {found}")))
    }
}

impl TrainConfig {
    /// Checks every range and every pair of settings that contradict each other.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the field and its value.
    pub fn validate(&self) -> Result<()> {
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
        self.lora.iter().try_for_each(LoraConfig::validate)?;
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
        if let Some(share) = self.valid_split {
            check(share > 0.0 && share < 1.0, "valid_split", "a share between 0 and 1", share)?;
            if let Some(valid) = &self.valid {
                let reason = format!("valid is {} as well: one of them says what is held out", valid.display());
                return Err(Error::config("valid_split", reason));
            }
        }
        check(self.save_every >= 1, "save_every", "≥ 1", self.save_every)?;
        check(self.keep >= 1, "keep", "≥ 1", self.keep)?;
        match self.recipe {
            Recipe::Ntp => {}
            Recipe::Sftmix => self.validate_halves()?,
        }
        self.check_effects(self.differs()?)?;
        self.data_options.validate()
    }

    /// What recipe sftmix asks of a batch and of the epochs.
    fn validate_halves(&self) -> Result<()> {
        check(
            self.batch_size.is_multiple_of(2),
            "batch_size",
            "an even number for recipe sftmix (half confident, half not)",
            self.batch_size,
        )?;
        match self.dynamics {
            Dynamics::Online => check(
                self.reference_epochs >= 2,
                "reference_epochs",
                "≥ 2 with dynamics online (the first epoch is left out)",
                self.reference_epochs,
            ),
            Dynamics::Single => {
                check(self.epochs >= 2, "epochs", "≥ 2 with dynamics single (the first epoch is plain)", self.epochs)
            }
            Dynamics::Sweep | Dynamics::Path(_) => Ok(()),
        }
    }
}

impl LoraConfig {
    /// Checks ranges, names and patterns.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting and its value.
    pub(crate) fn validate(&self) -> Result<()> {
        check(self.r >= 1, "lora_r", "≥ 1", self.r)?;
        check(self.lora_alpha.is_finite() && self.lora_alpha > 0.0, "lora_alpha", "> 0", self.lora_alpha)?;
        check((0.0..1.0).contains(&self.lora_dropout), "lora_dropout", "0 ≤ p < 1", self.lora_dropout)?;
        if let TargetModules::Names(names) = &self.target_modules {
            check(!names.is_empty(), "target_modules", "all-linear or at least one name", "none")?;
        }
        self.validate_patterns()
    }
}
