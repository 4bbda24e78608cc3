//! What the readers and writers of adapters' formats share: the halves A and B of each module, put together, and numbers
//! with a scale of their own.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{LoraConfig, TargetModules};
use crate::error::{Error, Result};
use crate::lora::peft::{LoraPair, PeftAdapter};
use crate::ops::linear::Slot;

/// A or B of a module, as a reader found it, in PEFT's orientation.
pub(super) struct Factor {
    pub module: String,
    pub is_a: bool,
    pub shape: (usize, usize),
    pub data: Vec<f32>,
}

/// Puts the parts of every module together; `scale` is that of a rank. Where there are magnitudes, a module without
/// them has an update of zero.
pub(super) fn pair_up(
    path: &Path,
    halves: Vec<Factor>,
    magnitudes: Option<BTreeMap<String, Vec<f32>>>,
    scale: impl Fn(usize) -> f64,
) -> Result<PeftAdapter> {
    let wrong = |reason: String| Error::Adapter { path: path.into(), reason };
    let mut found: BTreeMap<String, (Option<Factor>, Option<Factor>)> = BTreeMap::new();
    for half in halves {
        let (a, b) = found.entry(half.module.clone()).or_default();
        let place = if half.is_a { a } else { b };
        *place = Some(half);
    }
    let (mut modules, mut scales) = (BTreeMap::new(), BTreeMap::new());
    let use_dora = magnitudes.is_some();
    let mut magnitudes = magnitudes.unwrap_or_default();
    for (module, halves) in found {
        let (a, b) = match halves {
            (Some(a), Some(b)) => (a, b),
            (a, _) => {
                let other = if a.is_some() { "lora_b" } else { "lora_a" };
                return Err(wrong(format!("{module}: has no {other}")));
            }
        };
        let ((r, in_features), (out_features, rank)) = (a.shape, b.shape);
        if r != rank || r == 0 {
            return Err(wrong(format!("{module}: A is {:?} and B {:?}: they share no rank", a.shape, b.shape)));
        }
        let magnitude = magnitudes.remove(&module);
        if magnitude.as_ref().map_or(use_dora && b.data.iter().any(|v| *v != 0.0), |m| m.len() != out_features) {
            let found = magnitude.map_or(0, |m| m.len());
            return Err(wrong(format!("{module}: expected {out_features} magnitudes, found {found}")));
        }
        scales.insert(module.clone(), scale(r));
        modules.insert(module, LoraPair { r, in_features, out_features, a: a.data, b: b.data, magnitude });
    }
    if let Some(left) = magnitudes.keys().next() {
        return Err(wrong(format!("{left}: has magnitudes, but no lora_a")));
    }
    let r = modules.values().map(|m| m.r).max().ok_or_else(|| wrong("holds no LoRA tensors".into()))?;
    let target_modules = TargetModules::Names(modules.keys().cloned().collect());
    let config = LoraConfig { r, lora_alpha: scale(r) * r as f64, target_modules, use_dora, ..Default::default() };
    Ok(PeftAdapter { config, base_model: None, modules, scales })
}

/// What a slot's update is multiplied with: the config's own value where the slot's, which is kept in f32, is that one.
pub(super) fn exact_scale(config: &LoraConfig, slot: &Slot) -> f64 {
    let said = config.scale_of(&slot.module);
    match said as f32 == slot.scale {
        true => said,
        false => slot.scale as f64,
    }
}

/// The numbers times a factor; as they are where it is 1 to rounding.
pub(super) fn scaled(data: &[f32], factor: f64) -> Vec<f32> {
    match (factor - 1.0).abs() < 1e-7 {
        true => data.to_vec(),
        false => data.iter().map(|v| (*v as f64 * factor) as f32).collect(),
    }
}

pub(super) fn first_nonzero(mut values: impl Iterator<Item = f64>) -> Option<f64> {
    values.find(|v| *v != 0.0)
}
