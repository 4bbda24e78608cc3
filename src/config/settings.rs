//! From some settings by name, as a command line or a file gives them, to the settings of a run.

use std::path::Path;

use serde_json::{Map, Value};

use super::flat::NAMES;
use super::lora::LoraConfig;
use super::TrainConfig;
use crate::error::{Error, Result};

/// The settings by name.
fn by_name(config: &TrainConfig) -> Result<Map<String, Value>> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::config("config", "settings are no object")),
        Err(e) => Err(Error::config("config", e.to_string())),
    }
}

/// Every setting with its default, those of the adapter among them.
fn defaults() -> Result<Map<String, Value>> {
    by_name(&TrainConfig { lora: Some(LoraConfig::default()), ..Default::default() })
}

/// The setting whose name is nearest to one that is none, where one is near.
fn nearest(name: &str) -> Option<String> {
    let most = (name.chars().count() / 3).clamp(1, 3);
    let known = defaults().unwrap_or_default();
    let far = known.keys().map(|k| (edits(k, &name.replace('-', "_")), k));
    far.filter(|(n, _)| *n <= most).min().map(|(_, k)| k.clone())
}

/// How many letters must be put in, taken out or changed to make one text of the other (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let best = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

impl TrainConfig {
    /// A value of a setting in the form that [`TrainConfig`] writes (`1` becomes `1.0` where a fraction may stand).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting: there is none of this name, or it has no such value.
    pub fn setting(name: &str, value: Value) -> Result<Value> {
        let alone = Map::from_iter([(name.to_string(), value)]);
        if !defaults()?.contains_key(name) {
            let near = nearest(name).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            return Err(Error::config(name, format!("there is no setting of this name{near}")));
        }
        let config: TrainConfig =
            serde_json::from_value(Value::Object(alone)).map_err(|e| Error::config(name, e.to_string()))?;
        Ok(by_name(&config)?.remove(name).unwrap_or(Value::Null))
    }

    /// The settings of what is given by name; null is not given. What is said of the adapter is laid over what
    /// `initial` reads of the initial adapter, where there is one, else over the defaults.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a setting that there is not, that has no such value, or that has no effect.
    pub(crate) fn laid(
        given: Map<String, Value>,
        initial: impl FnOnce(&Path) -> Result<LoraConfig>,
    ) -> Result<TrainConfig> {
        let wrong = |e: serde_json::Error| Error::config("config", e.to_string());
        let mut all = Map::new();
        for (name, value) in given {
            let value = TrainConfig::setting(&name, value)?;
            if !value.is_null() {
                all.insert(name, value);
            }
        }
        let given: Vec<String> = all.keys().cloned().collect();
        let is_given = |name: &str| given.iter().any(|g| g == name);
        if let Some(dir) = all.get("init_adapter").and_then(Value::as_str).filter(|_| NAMES.iter().any(|n| is_given(n)))
        {
            let own = initial(Path::new(dir))?;
            if let Value::Object(own) = serde_json::to_value(own).map_err(wrong)? {
                for (name, value) in own {
                    all.entry(name).or_insert(value);
                }
            }
        }
        let config: TrainConfig = serde_json::from_value(Value::Object(all)).map_err(wrong)?;
        config.check_effects(is_given)?;
        Ok(config)
    }

    /// Whether a setting has another value than its default.
    pub(super) fn differs(&self) -> Result<impl Fn(&str) -> bool> {
        let (is, default) = (by_name(self)?, by_name(&TrainConfig::default())?);
        Ok(move |name: &str| is.get(name) != default.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;
    use serde_json::json;

    fn laid(given: Value) -> Result<TrainConfig, String> {
        let own = LoraConfig { r: 4, lora_alpha: 6.0, lora_dropout: 0.1, ..Default::default() };
        let Value::Object(given) = given else { unreachable!() };
        TrainConfig::laid(given, |dir| {
            assert_eq!(dir, Path::new("a"));
            Ok(own)
        })
        .map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_said_of_the_adapter_is_laid_over_the_initial_ones() {
        assert_eq!(laid(json!({"init_adapter": "a", "lr": 1})).unwrap().lora, None);
        assert_eq!(laid(json!({"lr": 1})).unwrap().lora, None);
        let over = laid(json!({"init_adapter": "a", "lora_r": 16})).unwrap().lora.unwrap();
        assert_eq!((over.r, over.lora_alpha, over.lora_dropout), (16, 6.0, 0.1));
        let fresh = laid(json!({"lora_r": 3, "rank_pattern": "q_proj=2"})).unwrap().lora.unwrap();
        assert_eq!((fresh.r, fresh.lora_alpha, fresh.rank_of("q_proj")), (3, 32.0, 2));
        let all = json!({"recipe": "ntp", "lr": 1, "prompt_field": "q", "response_field": "a", "valid": null});
        let all = laid(all).unwrap();
        assert_eq!((all.recipe, all.lr, all.data_options.prompt_field.as_deref()), (Recipe::Ntp, 1.0, Some("q")));
    }

    #[test]
    fn faults_name_the_setting() {
        let e = |given: Value| laid(given).unwrap_err();
        assert_eq!(
            e(json!({"lora_rank": 4})),
            "invalid setting lora_rank: there is no setting of this name; did you mean lora_r?"
        );
        assert_eq!(e(json!({"optimizer": "x"})), "invalid setting optimizer: there is no setting of this name");
        assert!(e(json!({"lora": {}})).starts_with("invalid setting lora: there is no setting"));
        assert!(e(json!({"lora_r": -1})).starts_with("invalid setting lora_r: invalid value"));
        assert!(e(json!({"lr": null})).starts_with("invalid setting lr: invalid type: null"));
        assert!(e(json!({"rank_pattern": "q_proj=3,q_proj=5"})).starts_with("invalid setting rank_pattern: q_proj is"));
    }

    #[test]
    fn a_near_name_is_known() {
        assert_eq!(nearest("batchsize").as_deref(), Some("batch_size"));
        assert_eq!(nearest("warm-up-ratio").as_deref(), Some("warmup_ratio"));
        assert_eq!((nearest("x"), nearest("gradient_accumulation_steps")), (None, None));
        assert_eq!((edits("kitten", "sitting"), edits("", "ab"), edits("ab", "")), (3, 2, 2));
    }
}
