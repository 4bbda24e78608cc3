//! Settings that others leave without effect: what was meant would silently not happen.

use super::dynamics::Dynamics;
use super::words::Recipe;
use super::TrainConfig;
use crate::error::{Error, Result};

/// What plain training has no use for.
const OF_SFTMIX: &[&str] =
    &["mu", "mix_alpha", "mix_reduction", "dynamics", "reference_epochs", "reference_checkpoints", "confidence"];

impl TrainConfig {
    /// Refuses a setting that is given and has no effect.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names it, and the setting that takes it.
    pub(crate) fn check_effects(&self, given: impl Fn(&str) -> bool) -> Result<()> {
        let refuse = |fields: &[&str], reason: &str| match fields.iter().find(|f| given(f)) {
            Some(field) => Err(Error::config(*field, reason)),
            None => Ok(()),
        };
        match (self.recipe, &self.dynamics) {
            (Recipe::Ntp, _) => refuse(OF_SFTMIX, "it has no effect with recipe ntp; recipe sftmix takes it")?,
            (Recipe::Sftmix, Dynamics::Sweep) => {}
            (Recipe::Sftmix, Dynamics::Online) => {
                let reason =
                    "it has no effect with dynamics online, whose epochs are what counts; dynamics sweep takes it";
                refuse(&["reference_checkpoints"], reason)?;
            }
            (Recipe::Sftmix, Dynamics::Single | Dynamics::Path(_)) => {
                let without = match self.dynamics {
                    Dynamics::Single => "it has no effect with dynamics single",
                    _ => "it has no effect with dynamics of an earlier run",
                };
                let takes = |which: &str| format!("{without}, where there is no reference run; dynamics {which}");
                refuse(&["reference_epochs"], &takes("sweep and online take it"))?;
                refuse(&["reference_checkpoints"], &takes("sweep takes it"))?;
            }
        }
        if self.init_adapter.is_none() {
            refuse(&["force_base"], "it has no effect without init_adapter, which takes it")?;
        }
        if self.early_stopping_patience.is_none() {
            refuse(&["early_stopping_threshold"], "expected early_stopping_patience with it, found none")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    fn of(given: &Value) -> TrainConfig {
        let mut all = json!({"model": "m", "data": "d", "out": "o", "batch_size": 8, "epochs": 2});
        for (name, value) in given.as_object().unwrap() {
            all[name] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    fn refused(given: Value, field: &str, takes: &str) {
        let lay = |given: &Value| TrainConfig::laid(given.as_object().unwrap().clone(), |_| unreachable!());
        let [laid, valid] = [lay(&given).map(|_| ()), of(&given).validate()].map(|r| r.unwrap_err().to_string());
        let begin = format!("invalid setting {field}: ");
        assert!(laid.starts_with(&begin) && laid.contains(takes), "{laid}");
        assert_eq!(laid, valid);
    }

    #[test]
    fn what_has_no_effect_is_refused_with_what_takes_it() {
        for (name, value) in [
            ("mu", json!(7.0)),
            ("mix_alpha", json!(3.0)),
            ("mix_reduction", json!("pair")),
            ("dynamics", json!("online")),
            ("reference_epochs", json!(2)),
            ("reference_checkpoints", json!(2)),
            ("confidence", json!("nll")),
        ] {
            refused(json!({"recipe": "ntp", name: value}), name, "recipe sftmix takes it");
        }
        let online = json!({"dynamics": "online", "reference_epochs": 2, "reference_checkpoints": 2});
        refused(online, "reference_checkpoints", "dynamics sweep takes it");
        for dynamics in ["single", "some/run"] {
            let epochs = json!({"dynamics": dynamics, "reference_epochs": 2});
            refused(epochs, "reference_epochs", "dynamics sweep and online take it");
            let checkpoints = json!({"dynamics": dynamics, "reference_checkpoints": 2});
            refused(checkpoints, "reference_checkpoints", "dynamics sweep takes it");
        }
        refused(json!({"force_base": true}), "force_base", "without init_adapter");
        refused(
            json!({"early_stopping_threshold": 0.5}),
            "early_stopping_threshold",
            "early_stopping_patience with it",
        );
    }

    #[test]
    fn a_default_counts_as_given_only_where_it_is() {
        for (given, field) in [
            (json!({"recipe": "ntp", "mu": 0.2}), "mu"),
            (json!({"dynamics": "single", "reference_epochs": 1}), "reference_epochs"),
            (json!({"force_base": false}), "force_base"),
        ] {
            of(&given).validate().unwrap();
            let e = TrainConfig::laid(given.as_object().unwrap().clone(), |_| unreachable!()).unwrap_err().to_string();
            assert!(e.starts_with(&format!("invalid setting {field}: it has no effect")), "{e}");
        }
    }

    #[test]
    fn what_has_effect_is_taken() {
        for given in [
            json!({"recipe": "ntp", "lr": 1.0}),
            json!({"recipe": "sftmix", "mu": 7.0, "confidence": "nll", "reference_checkpoints": 2}),
            json!({"dynamics": "online", "reference_epochs": 2}),
            json!({"dynamics": "some/run", "confidence": "nll"}),
            json!({"init_adapter": "a", "force_base": true}),
        ] {
            TrainConfig::laid(given.as_object().unwrap().clone(), |_| unreachable!()).unwrap();
            of(&given).validate().unwrap();
        }
    }
}
