//! An adapter as mlx-lm reads it: `adapters.safetensors` with `<module>.lora_a [in, r]` and `.lora_b [r, out]`, the
//! transposes of PEFT's, beside an `adapter_config.json` of its own kind.
//!
//! Rank and scale stand once for the file: slots of smaller rank are filled with zeros, and where scales differ the rest
//! stands in B. Layers are counted from the last, each with every one of the keys: what has no slot there is zero. With
//! DoRA each has its lengths in `.m [out]`, and what has none takes those of its own weight.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{json, Value};

use super::halves::{exact_scale, first_nonzero, pair_up, scaled, Factor};
use crate::error::{Error, Result};
use crate::family::DecoderConfig;
use crate::formats::json::damage;
use crate::lora::peft::PeftAdapter;
use crate::lora::tensors::{load_tensors, write_tensors, Matrix};
use crate::model::Adapter;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapters.safetensors";

/// The block of a module and its path in there: `model.layers.3.self_attn.q_proj` → (3, `self_attn.q_proj`).
fn split(module: &str) -> Option<(usize, &str)> {
    let (layer, key) = module.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, key))
}

/// Rows become columns.
fn transposed(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect()
}

/// `[r, cols]` with rows of zeros up to `rank`.
fn filled(mut data: Vec<f32>, cols: usize, rank: usize) -> Vec<f32> {
    data.resize(rank * cols, 0.0);
    data
}

pub(super) fn write(dir: &Path, config: &DecoderConfig, adapter: &Adapter) -> Result<()> {
    let wrong = |reason: String| Error::Adapter { path: dir.into(), reason };
    let rank = adapter.slots.iter().map(|s| s.r).max().unwrap_or(0);
    let scale = first_nonzero(adapter.slots.iter().map(|s| exact_scale(&adapter.config, s))).unwrap_or(1.0);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let (mut keys, mut lowest) = (BTreeSet::new(), config.num_layers);
    for s in &adapter.slots {
        let Some((layer, key)) = split(&s.module) else {
            return Err(wrong(format!("mlx: {} is in no block", s.module)));
        };
        keys.insert(key.to_string());
        lowest = lowest.min(layer);
        let a = filled(s.a.numbers()?.into_owned(), s.in_features, rank);
        // B's columns of smaller ranks are rows here, and what is beyond them is zero.
        let b = scaled(&s.b.numbers()?, exact_scale(&adapter.config, s) / scale);
        let b = filled(transposed(&b, s.out_features, s.r), s.out_features, rank);
        let a = transposed(&a, rank, s.in_features);
        tensors.insert(format!("{}.lora_a", s.module), (vec![s.in_features, rank], a));
        tensors.insert(format!("{}.lora_b", s.module), (vec![rank, s.out_features], b));
        if let Some(d) = &s.dora {
            let magnitude = d.magnitude.numbers()?.into_owned();
            tensors.insert(format!("{}.m", s.module), (vec![s.out_features], magnitude));
        }
    }
    // MLX puts a LoRA layer wherever layer and key say so.
    for l in config.linears() {
        let named = split(&l.module).is_some_and(|(layer, key)| layer >= lowest && keys.contains(key));
        if named && !tensors.contains_key(&format!("{}.lora_a", l.module)) {
            for (half, shape) in [("lora_a", vec![l.in_features, rank]), ("lora_b", vec![rank, l.out_features])] {
                let zeros = vec![0.0; shape.iter().product()];
                tensors.insert(format!("{}.{half}", l.module), (shape, zeros));
            }
        }
    }
    let with_lengths = adapter.slots.iter().any(|s| s.dora.is_some());
    let settings = json!({
        "fine_tune_type": if with_lengths { "dora" } else { "lora" },
        "num_layers": config.num_layers - lowest,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys},
    });
    let path = dir.join(CONFIG);
    crate::disk::put(&path, &crate::disk::pretty(&settings)?)?;
    let matrices = tensors.iter().map(|(name, (shape, data))| (name.clone(), Matrix { shape: shape.clone(), data }));
    write_tensors(&dir.join(TENSORS), json!({"format": "mlx"}), &matrices.collect())
}

/// Reads such a folder. What MLX would pass over in silence, a tensor where no LoRA layer is, is an error.
pub(super) fn read(dir: &Path, config: &DecoderConfig) -> Result<PeftAdapter> {
    let path = dir.join(CONFIG);
    let wrong = |reason: String| Error::Adapter { path: path.clone(), reason };
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let json: Value = serde_json::from_slice(&text).map_err(|e| wrong(damage(&text, &e)))?;
    let with_lengths = json["fine_tune_type"] == "dora";
    if !with_lengths && json["fine_tune_type"] != "lora" {
        return Err(wrong(format!("fine_tune_type: expected \"lora\" or \"dora\", found {}", json["fine_tune_type"])));
    }
    let settings = &json["lora_parameters"];
    let other = |key: &str, expected: &str, found: &Value| wrong(format!("{key}: expected {expected}, found {found}"));
    let whole = |key: &str, found: &Value| match found.as_u64().and_then(|n| usize::try_from(n).ok()) {
        Some(n) if n > 0 => Ok(n),
        _ => Err(other(key, "a whole number ≥ 1", found)),
    };
    let layers = whole("num_layers", &json["num_layers"])?;
    let rank = whole("rank", &settings["rank"])?;
    // MLX multiplies with any number; one of 0, also in f32, is an adapter that does nothing.
    let scale = match settings["scale"].as_f64() {
        Some(scale) if (scale as f32).is_finite() && scale as f32 != 0.0 => scale,
        _ => return Err(other("scale", "a number other than 0", &settings["scale"])),
    };
    // MLX refuses others too.
    if !settings["dropout"].is_null() && !settings["dropout"].as_f64().is_some_and(|p| (0.0..1.0).contains(&p)) {
        return Err(other("dropout", "a number, 0 ≤ p < 1", &settings["dropout"]));
    }
    let keys: Option<BTreeSet<&str>> = settings["keys"].as_array().and_then(|k| k.iter().map(Value::as_str).collect());
    let keys = keys.ok_or_else(|| wrong("keys: expected a list of names".into()))?;

    let path = dir.join(TENSORS);
    let wrong = |reason: String| Error::Adapter { path: path.clone(), reason };
    let (mut halves, mut magnitudes) = (Vec::new(), BTreeMap::new());
    for (name, (shape, data)) in load_tensors(&path)? {
        let (module, part) = match name.rsplit_once('.') {
            Some((module, part)) if ["lora_a", "lora_b"].contains(&part) || (part == "m" && with_lengths) => {
                (module, part)
            }
            _ => {
                let more = if with_lengths { ", .m" } else { "" };
                return Err(wrong(format!("{name}: expected .lora_a, .lora_b{more} at its end")));
            }
        };
        let first = config.num_layers.saturating_sub(layers);
        if !split(module).is_some_and(|(layer, key)| layer >= first && keys.contains(key)) {
            return Err(wrong(format!("{name}: {CONFIG} puts no LoRA layer there")));
        }
        if part == "m" {
            magnitudes.insert(module.to_string(), data);
            continue;
        }
        let is_a = part == "lora_a";
        let &[rows, cols] = &shape[..] else {
            return Err(wrong(format!("{name}: expected two dimensions, found {shape:?}")));
        };
        if (if is_a { cols } else { rows }) != rank {
            return Err(wrong(format!("{name}: expected rank {rank}, found {shape:?}")));
        }
        let data = transposed(&data, rows, cols);
        halves.push(Factor { module: module.into(), is_a, shape: (cols, rows), data });
    }
    pair_up(&path, halves, with_lengths.then_some(magnitudes), |_| scale)
}
