//! What a run's adapter begins as: settings from what is given and what the initial adapter has, the two held
//! against each other, and whether training has moved it.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::peft::load_adapter;
use crate::config::{LoraConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::model::Adapter;

impl TrainConfig {
    /// The settings of those that are given by name, as on the command line and in a settings file; the others keep
    /// their defaults, and null counts as not given. What is given of the adapter is laid over the configuration of
    /// `init_adapter` where that is given, which is then read, else over the defaults.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names a setting that there is not (and the one whose name is near), that has no such
    /// value, or that is given, be it with its default, and has no effect; [`Error::Adapter`] and [`Error::Io`] when
    /// the initial adapter cannot be read.
    pub fn from_settings(given: Map<String, Value>) -> Result<TrainConfig> {
        TrainConfig::laid(given, |dir| Ok(load_adapter(dir)?.config))
    }
}

/// The settings of the adapter in training: what is said, else the initial adapter's own, else the defaults.
pub(crate) fn in_training(said: Option<&LoraConfig>, initial: Option<&LoraConfig>) -> LoraConfig {
    said.or(initial).cloned().unwrap_or_default()
}

/// Holds what is said of the adapter against what the initial adapter has. Dropout is the run's own. Modules, ranks
/// and alphas may be written in another way: what counts is what each linear has. `linears` gives every linear of
/// the model and whether the adapter is on it.
///
/// # Errors
/// [`Error::InvalidConfig`] names the first field that differs, and both values.
pub(crate) fn check_initial<'a>(
    said: &LoraConfig,
    has: &LoraConfig,
    linears: impl Iterator<Item = (&'a str, bool)>,
) -> Result<()> {
    fn agrees<T: Serialize>(field: &str, same: bool, said: &T, has: &T) -> Result<()> {
        let shown = |v: &T| serde_json::to_string(v).unwrap_or_default();
        match same {
            true => Ok(()),
            false => {
                let reason = format!("{} is given, but the initial adapter has {}", shown(said), shown(has));
                Err(Error::config(field, reason))
            }
        }
    }
    agrees("lora_r", said.r == has.r, &said.r, &has.r)?;
    agrees("lora_alpha", said.lora_alpha == has.lora_alpha, &said.lora_alpha, &has.lora_alpha)?;
    agrees("use_rslora", said.use_rslora == has.use_rslora, &said.use_rslora, &has.use_rslora)?;
    agrees("use_dora", said.use_dora == has.use_dora, &said.use_dora, &has.use_dora)?;
    let linears: Vec<(&str, bool)> = linears.collect();
    let selects = |chosen: &LoraConfig| linears.iter().all(|(m, adapted)| chosen.selects(m) == *adapted);
    let on_its_blocks = LoraConfig { layers_to_transform: has.layers_to_transform.clone(), ..said.clone() };
    let targets = said.target_modules == has.target_modules || selects(&on_its_blocks);
    agrees("target_modules", targets, &said.target_modules, &has.target_modules)?;
    let layers = said.layers_to_transform == has.layers_to_transform || selects(said);
    agrees("layers_to_transform", layers, &said.layers_to_transform, &has.layers_to_transform)?;
    let each = |same: &dyn Fn(&str) -> bool| linears.iter().filter(|(_, adapted)| *adapted).all(|(m, _)| same(m));
    let ranks = each(&|m| said.rank_of(m) == has.rank_of(m));
    agrees("rank_pattern", ranks, &said.rank_pattern, &has.rank_pattern)?;
    let alphas = each(&|m| said.alpha_of(m) == has.alpha_of(m));
    agrees("alpha_pattern", alphas, &said.alpha_pattern, &has.alpha_pattern)
}

/// Refuses an adapter that training has left without effect, or as it began: B all zero where it was made fresh, each
/// number the file's where it began as an initial adapter. `stage` is for the message.
///
/// # Errors
/// [`Error::NothingTrained`]; what the device says when it refuses the copy.
pub(crate) fn check_moved(adapter: &Adapter, initial: Option<&Path>, stage: &str) -> Result<()> {
    let still = match initial.map(load_adapter) {
        // DoRA's magnitudes have the gradient of the same products: they move with B.
        None => all_slots(adapter, |_, _, b, _| b.iter().all(|v| *v == 0.0))?,
        Some(Ok(file)) => all_slots(adapter, |module, a, b, m| {
            file.modules.get(module).is_some_and(|p| p.a == a && p.b == b && p.magnitude.as_deref() == m)
        })?,
        // It was there as the stage began. What was trained since is not lost for its sake.
        Some(Err(_)) => false,
    };
    let what = if initial.is_some() { "every number is the initial adapter's" } else { "B is zero, as it began" };
    match still {
        false => Ok(()),
        true => Err(Error::NothingTrained {
            reason: format!(
                "after the {stage} stage {what}: the loss has no gradient there, or lr is too small to move it"
            ),
        }),
    }
}

/// Whether something holds of module, A, B and magnitude of every slot.
fn all_slots(adapter: &Adapter, holds: impl Fn(&str, &[f32], &[f32], Option<&[f32]>) -> bool) -> Result<bool> {
    for slot in &adapter.slots {
        let magnitude = slot.dora.as_ref().map(|d| d.magnitude.numbers()).transpose()?;
        if !holds(&slot.module, &slot.a.numbers()?, &slot.b.numbers()?, magnitude.as_deref()) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, ModulePattern, TargetModules};
    use crate::ops::linear::Slot;
    use crate::ops::{Engine, EngineOptions};
    use serde_json::json;

    const Q: [&str; 2] = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
    const UP: &str = "model.layers.0.mlp.up_proj";

    fn own() -> LoraConfig {
        LoraConfig { r: 4, lora_alpha: 6.0, target_modules: TargetModules::parse("q_proj"), ..Default::default() }
    }

    fn check(said: LoraConfig, has: &LoraConfig) -> Result<(), String> {
        let linears = [Q[0], Q[1], UP].map(|m| (m, has.selects(m)));
        check_initial(&said, has, linears.into_iter()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_differs_from_the_initial_adapter_is_named_with_both_values() {
        let has = own();
        let e = |said: LoraConfig| check(said, &has).unwrap_err();
        // The default is said like any other value.
        let other = LoraConfig { r: 16, ..own() };
        assert_eq!(e(other), "invalid setting lora_r: 16 is given, but the initial adapter has 4");
        let other = LoraConfig { lora_alpha: 32.0, ..own() };
        assert_eq!(e(other), "invalid setting lora_alpha: 32.0 is given, but the initial adapter has 6.0");
        let text = "true is given, but the initial adapter has false";
        assert_eq!(e(LoraConfig { use_rslora: true, ..own() }), format!("invalid setting use_rslora: {text}"));
        assert_eq!(e(LoraConfig { use_dora: true, ..own() }), format!("invalid setting use_dora: {text}"));
        let other = LoraConfig { target_modules: TargetModules::AllLinear, ..own() };
        let text = "\"all-linear\" is given, but the initial adapter has [\"q_proj\"]";
        assert_eq!(e(other), format!("invalid setting target_modules: {text}"));
        let other = LoraConfig { layers_to_transform: Some(Layers::new([1])), ..own() };
        assert_eq!(e(other), "invalid setting layers_to_transform: [1] is given, but the initial adapter has null");
        let ranks = ModulePattern::parse("q_proj=3").unwrap();
        let text = "{\"q_proj\":3} is given, but the initial adapter has {}";
        assert_eq!(e(LoraConfig { rank_pattern: ranks, ..own() }), format!("invalid setting rank_pattern: {text}"));
        let alphas = ModulePattern::parse("layers.1.self_attn.q_proj=3").unwrap();
        assert!(e(LoraConfig { alpha_pattern: alphas, ..own() }).starts_with("invalid setting alpha_pattern: {"));
    }

    #[test]
    fn the_same_in_other_words_and_another_dropout_agree() {
        let has = own();
        check(own(), &has).unwrap();
        check(LoraConfig { lora_dropout: 0.5, ..own() }, &has).unwrap();
        let whole = TargetModules::Names(Q.map(String::from).to_vec());
        check(LoraConfig { target_modules: whole, ..own() }, &has).unwrap();
        check(LoraConfig { layers_to_transform: Some(Layers::new([0, 1])), ..own() }, &has).unwrap();
        let ranks = ModulePattern::parse("q_proj=4").unwrap();
        check(LoraConfig { rank_pattern: ranks, ..own() }, &has).unwrap();
    }

    #[test]
    fn the_adapter_in_training_is_as_said_or_as_it_was() {
        let (said, has) = (LoraConfig { r: 3, ..own() }, own());
        assert_eq!(in_training(Some(&said), Some(&has)), said);
        assert_eq!(in_training(None, Some(&has)), has);
        assert_eq!(in_training(None, None), LoraConfig::default());
    }

    /// An adapter of one slot.
    fn adapter(a: &[f32], b: &[f32]) -> Adapter {
        let engine = Engine::new(EngineOptions { threads: Some(1), ..Default::default() }).unwrap();
        let slot = Slot {
            module: Q[0].into(),
            key: 0,
            r: 1,
            in_features: a.len(),
            out_features: b.len(),
            scale: 6.0,
            dropout: 0.0,
            lr_factor: 1.0,
            a: engine.parameter(1, a.len(), a).unwrap(),
            b: engine.parameter(b.len(), 1, b).unwrap(),
            dora: None,
        };
        let config = LoraConfig { r: 1, lora_alpha: 6.0, ..own() };
        Adapter::new(config, vec![slot], vec![Some(0)], vec![0])
    }

    #[test]
    fn an_adapter_that_did_not_move_is_an_error() {
        let fails = |a: &Adapter, initial: Option<&Path>, word: &str| {
            let e = check_moved(a, initial, "target").unwrap_err();
            assert!(matches!(e, Error::NothingTrained { .. }) && e.to_string().contains(word), "{e}");
        };
        fails(&adapter(&[1.0, 2.0], &[0.0, -0.0]), None, "after the target stage B is zero");
        check_moved(&adapter(&[1.0, 2.0], &[0.0, 1e-30]), None, "target").unwrap();

        let dir = tempfile::tempdir().unwrap();
        adapter(&[1.0, 2.0], &[3.0, 4.0]).save(dir.path(), "m").unwrap();
        let initial = Some(dir.path());
        fails(&adapter(&[1.0, 2.0], &[3.0, 4.0]), initial, "every number is the initial adapter's");
        check_moved(&adapter(&[1.0, 2.5], &[3.0, 4.0]), initial, "target").unwrap();
        check_moved(&adapter(&[1.0, 2.0], &[3.0, 4.5]), initial, "target").unwrap();
        let gone = dir.path().join("gone");
        check_moved(&adapter(&[1.0, 2.0], &[3.0, 4.0]), Some(&gone), "target").unwrap();
    }

    #[test]
    fn settings_are_laid_over_the_adapter_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        adapter(&[1.0, 2.0], &[3.0, 4.0]).save(dir.path(), "m").unwrap();
        let Value::Object(given) = json!({"init_adapter": dir.path(), "lora_dropout": 0.1}) else { unreachable!() };
        let lora = TrainConfig::from_settings(given).unwrap().lora.unwrap();
        assert_eq!((lora.r, lora.lora_alpha, lora.lora_dropout), (1, 6.0, 0.1));
        let Value::Object(given) = json!({"init_adapter": dir.path().join("gone"), "lora_r": 1}) else {
            unreachable!()
        };
        assert!(matches!(TrainConfig::from_settings(given), Err(Error::Io { .. })));
    }
}
