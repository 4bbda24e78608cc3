//! LoRA adapter folders as Hugging Face PEFT writes and reads them: `adapter_config.json` beside
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{json, Map, Value};

use crate::config::{is_regex, Layers, ModulePattern};
use crate::config::{LoraConfig, TargetModules};
use crate::disk::put;
use crate::error::{Error, Result};
use crate::formats::dtype::le_bytes;
use crate::formats::json::damage;
use crate::held::lfs_pointer;
pub use crate::lora::tensors::{load_tensors, Tensors};
use crate::lora::tensors::{write_tensors, Matrix};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const SUFFIX_A: &str = ".lora_A.weight";
const SUFFIX_B: &str = ".lora_B.weight";
const SUFFIX_M: &str = ".lora_magnitude_vector";

/// The PEFT release whose keys are written.
const PEFT_VERSION: &str = "0.21.2";

/// Keys that change what the adapter computes, or what it needs, beyond LoRA and DoRA. Null, false and empty
/// are neutral for each of them.
const UNSUPPORTED: [&str; 14] = [
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// What ranks are.
const WHOLE: &str = "a whole number ≥ 1";

/// Initialisations that leave the base weights alone. The others (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ)
/// subtract the first A and B from them, so the saved tensors do not fit the base as published.
const NEUTRAL_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The LoRA matrices of one linear, to be written.
#[derive(Clone, Copy, Debug)]
pub struct PeftTensor<'a> {
    /// Path of the linear in the base model, e.g. `model.layers.0.self_attn.q_proj`.
    pub module: &'a str,
    /// Rank.
    pub r: usize,
    /// Columns of the linear's weight.
    pub in_features: usize,
    /// Rows of the linear's weight.
    pub out_features: usize,
    /// What `B·A·x` is multiplied with; written as an alpha of its own where it is not the config's.
    pub scale: f64,
    /// A, `[r, in_features]`, row-major.
    pub a: &'a [f32],
    /// B, `[out_features, r]`, row-major.
    pub b: &'a [f32],
    /// DoRA's magnitudes, `[out_features]`, where the adapter has them.
    pub magnitude: Option<&'a [f32]>,
}

/// The LoRA matrices of one linear, as read.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// Rank.
    pub r: usize,
    /// Columns of the linear's weight.
    pub in_features: usize,
    /// Rows of the linear's weight.
    pub out_features: usize,
    /// A, `[r, in_features]`, row-major.
    pub a: Vec<f32>,
    /// B, `[out_features, r]`, row-major.
    pub b: Vec<f32>,
    /// DoRA's magnitudes, `[out_features]`, with `use_dora`: each row of `W + scale·B·A` is to be given this
    /// length.
    pub magnitude: Option<Vec<f32>>,
}

/// An adapter folder, as read.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    /// Its settings. `target_modules` holds full module paths where the file selects by more than names.
    pub config: LoraConfig,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
    /// The matrices, by module path (`model.layers.0.self_attn.q_proj`).
    pub modules: BTreeMap<String, LoraPair>,
    /// What `B·A·x` is multiplied with, for every module: rank and alpha patterns and rsLoRA applied.
    pub scales: BTreeMap<String, f64>,
}

impl PeftAdapter {
    /// BLAKE3 over what the adapter computes: modules in order of name with their ranks, scales and numbers.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (module, pair) in &self.modules {
            hasher.update(&(module.len() as u64).to_le_bytes());
            hasher.update(module.as_bytes());
            for n in [pair.r, pair.in_features, pair.out_features] {
                hasher.update(&(n as u64).to_le_bytes());
            }
            let scale = self.scales.get(module).copied().unwrap_or_else(|| self.config.scale());
            hasher.update(&scale.to_le_bytes());
            for numbers in [Some(&pair.a), Some(&pair.b), pair.magnitude.as_ref()].into_iter().flatten() {
                hasher.update(&le_bytes(numbers));
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// Writes an adapter folder; the same arguments give the same bytes. The folder is created; files of an
/// earlier adapter in it are overwritten in place, so write to a temporary folder where a kill matters.
pub fn save_adapter(dir: &Path, config: &LoraConfig, base_model: &str, tensors: &[PeftTensor]) -> Result<()> {
    let fault = |reason: String| Error::Adapter { path: dir.into(), reason };
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    let mut matrices: BTreeMap<String, Matrix> = BTreeMap::new();
    let mut ordered: Vec<&PeftTensor> = tensors.iter().collect();
    ordered.sort_by_key(|t| t.module);
    for t in ordered {
        for (key, matrix) in matrices_of(t) {
            let elements = matrix.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if elements != Some(matrix.data.len()) || elements == Some(0) {
                let found = matrix.data.len();
                return Err(fault(format!("{key}: expected {:?}, found {found} numbers", matrix.shape)));
            }
            if matrices.insert(key.clone(), matrix).is_some() {
                return Err(fault(format!("{key}: given twice")));
            }
        }
        if t.magnitude.is_some() != config.use_dora {
            return Err(fault(format!("{}: magnitudes and use_dora do not go together", t.module)));
        }
        // What the patterns do not say of a module stands before them: the first that matches counts.
        if t.r != config.rank_of(t.module) {
            ranks.insert(t.module.into(), t.r.into());
        }
        if let Some(alpha) = own_alpha(t, config) {
            alphas.insert(t.module.into(), alpha_json(alpha));
        }
    }
    for (name, r) in config.rank_pattern.entries() {
        ranks.entry(name.clone()).or_insert_with(|| (*r).into());
    }
    for (name, alpha) in config.alpha_pattern.entries() {
        alphas.entry(name.clone()).or_insert_with(|| alpha_json(*alpha));
    }
    if matrices.is_empty() {
        return Err(fault("no module has an adapter".into()));
    }
    let targets: BTreeSet<&str> = match &config.target_modules {
        TargetModules::AllLinear => tensors.iter().map(|t| t.module.rsplit('.').next().unwrap_or(t.module)).collect(),
        TargetModules::Names(names) => names.iter().map(String::as_str).collect(),
    };

    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let path = dir.join(CONFIG);
    let json = serde_json::to_vec_pretty(&config_json(config, base_model, &targets, (ranks, alphas)))
        .map_err(|e| Error::Adapter { path: path.clone(), reason: e.to_string() })?;
    put(&path, &json)?;
    let path = dir.join(TENSORS);
    write_tensors(&path, json!({"format": "pt"}), &matrices)
}

/// Reads an adapter folder. What plain LoRA cannot express is refused by name, never dropped.
pub fn load_adapter(dir: &Path) -> Result<PeftAdapter> {
    let path = dir.join(CONFIG);
    if !path.exists() && dir.join("run.json").is_file() && dir.join("adapter").is_dir() {
        let reason = "this is the folder of a run, its adapter lies in adapter/".into();
        return Err(Error::Adapter { path: dir.into(), reason });
    }
    let text = fs::read(&path).map_err(Error::io(&path))?;
    if let Some(reason) = lfs_pointer(&text) {
        return Err(Error::Adapter { path, reason });
    }
    let json: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| Error::Adapter { path: path.clone(), reason: damage(&text, &e) })?;
    let file = ConfigFile { path: &path, json: &json };
    file.refuse_unsupported()?;

    let tensors = dir.join(TENSORS);
    if !tensors.try_exists().map_err(Error::io(&tensors))? {
        let bin = dir.join("adapter_model.bin");
        let reason = match bin.try_exists().map_err(Error::io(&bin))? {
            true => format!("expected {TENSORS}, found only adapter_model.bin; convert it to safetensors first"),
            false => format!("{TENSORS} is missing"),
        };
        return Err(Error::Adapter { path: dir.into(), reason });
    }
    let modules = pair(&tensors, load_tensors(&tensors)?)?;

    let config = file.lora_config(&modules)?;
    let mut scales = BTreeMap::new();
    for (module, lora) in &modules {
        let rank = config.rank_of(module);
        if rank != lora.r {
            let reason = format!("{PREFIX}{module}{SUFFIX_A}: expected rank {rank} by {CONFIG}, found {}", lora.r);
            return Err(Error::Adapter { path: tensors, reason });
        }
        if lora.magnitude.is_some() != config.use_dora {
            let (key, so) = (format!("{PREFIX}{module}{SUFFIX_M}"), config.use_dora);
            let reason = match so {
                true => format!("{key}: missing, though {CONFIG} says use_dora"),
                false => format!("{key}: found, though {CONFIG} does not say use_dora"),
            };
            return Err(Error::Adapter { path: tensors, reason });
        }
        scales.insert(module.clone(), config.scale_of(module));
    }
    if scales.values().all(|scale| *scale == 0.0) {
        return Err(file.fault("alpha_pattern: every module has an alpha of 0, so the adapter does nothing".into()));
    }
    let base_model = file.get("base_model_name_or_path").and_then(Value::as_str).map(String::from);
    Ok(PeftAdapter { config, base_model, modules, scales })
}

/// BLAKE3 over the tensors in name order: names, shapes and little-endian numbers. The order of the
/// argument does not matter, nor do the settings.
pub fn adapter_hash(tensors: &[PeftTensor]) -> [u8; 32] {
    let matrices: BTreeMap<String, Matrix> = tensors.iter().flat_map(matrices_of).collect();
    let mut hasher = blake3::Hasher::new();
    for (key, matrix) in &matrices {
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key.as_bytes());
        for n in &matrix.shape {
            hasher.update(&(*n as u64).to_le_bytes());
        }
        hasher.update(&le_bytes(matrix.data));
    }
    hasher.finalize().into()
}

/// A, B and the magnitudes under their keys.
fn matrices_of<'a>(t: &PeftTensor<'a>) -> Vec<(String, Matrix<'a>)> {
    let key = |suffix: &str| format!("{PREFIX}{}{suffix}", t.module);
    let mut all = vec![
        (key(SUFFIX_A), Matrix { shape: vec![t.r, t.in_features], data: t.a }),
        (key(SUFFIX_B), Matrix { shape: vec![t.out_features, t.r], data: t.b }),
    ];
    all.extend(t.magnitude.map(|data| (key(SUFFIX_M), Matrix { shape: vec![t.out_features], data })));
    all
}

/// The alpha of a module whose scale is not what the config says of it. Scales are kept in f32, so it is as f32 that
/// they are compared, and a whole number stands for those beside it that give the same scale.
fn own_alpha(t: &PeftTensor, config: &LoraConfig) -> Option<f64> {
    let divisor = if config.use_rslora { (t.r as f64).sqrt() } else { t.r as f64 };
    let same = |alpha: f64| (alpha / divisor) as f32 == t.scale as f32;
    let alpha = t.scale * divisor;
    let whole = Some(alpha.round()).filter(|whole| same(*whole));
    (!same(config.alpha_of(t.module))).then(|| whole.unwrap_or(alpha))
}

/// An alpha, exactly. PEFT declares the type as int, and readers in other languages insist.
fn alpha_json(alpha: f64) -> Value {
    match alpha.fract() == 0.0 && alpha.abs() < (1u64 << 53) as f64 {
        true => json!(alpha as i64),
        false => json!(alpha),
    }
}

/// An alpha that a scale in f32 can be made of. PEFT multiplies with any number: a negative one takes the update away.
fn alpha_of(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| (*x as f32).is_finite() && (*x == 0.0 || *x as f32 != 0.0))
}

fn rank_of(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|r| usize::try_from(r).ok()).filter(|r| *r > 0)
}

/// The keys in the order in which PEFT sorts them.
fn config_json(
    config: &LoraConfig,
    base_model: &str,
    targets: &BTreeSet<&str>,
    (ranks, alphas): (Map<String, Value>, Map<String, Value>),
) -> Value {
    json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": alphas,
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": config.layers_to_transform,
        "loftq_config": {},
        "lora_alpha": alpha_json(config.lora_alpha),
        "lora_bias": false,
        "lora_dropout": config.lora_dropout,
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": config.r,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets,
        "target_parameters": null,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": null,
        "use_bdlora": null,
        "use_dora": config.use_dora,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null
    })
}

/// Puts A, B and the magnitudes of every module together.
fn pair(path: &Path, tensors: Tensors) -> Result<BTreeMap<String, LoraPair>> {
    let fault = |reason: String| Error::Adapter { path: path.into(), reason };
    type Part = Option<(String, Vec<usize>, Vec<f32>)>;
    let mut parts: BTreeMap<String, [Part; 3]> = BTreeMap::new();
    for (key, (shape, data)) in tensors {
        let suffixes = [SUFFIX_A, SUFFIX_B, SUFFIX_M].into_iter().enumerate();
        let found = key.strip_prefix(PREFIX).and_then(|k| {
            let mut named = suffixes.filter_map(|(i, suffix)| Some((k.strip_suffix(suffix)?.to_string(), i)));
            named.next()
        });
        let Some((module, part)) = found else {
            let expected = format!("{PREFIX}<module>{SUFFIX_A}, …{SUFFIX_B} or …{SUFFIX_M}");
            return Err(fault(format!("{key}: not a LoRA tensor, expected {expected}")));
        };
        let dimensions = if part == 2 { 1 } else { 2 };
        if shape.len() != dimensions || shape.contains(&0) {
            let expected = ["two dimensions, none", "one dimension, not"][2 - dimensions];
            return Err(fault(format!("{key}: expected {expected} of them 0, found {shape:?}")));
        }
        parts.entry(module).or_default()[part] = Some((key, shape, data));
    }
    let mut modules = BTreeMap::new();
    for (module, parts) in parts {
        let (a, b, magnitude) = match parts {
            [Some(a), Some(b), m] => (a, b, m),
            [Some((key, ..)), None, _] => return Err(fault(format!("{key}: has no lora_B"))),
            [None, Some((key, ..)), _] | [None, None, Some((key, ..))] => {
                return Err(fault(format!("{key}: has no lora_A")));
            }
            [None, None, None] => continue,
        };
        let (r, in_features, out_features) = (a.1[0], a.1[1], b.1[0]);
        if b.1[1] != r {
            let (key, found) = (b.0, b.1);
            return Err(fault(format!("{key}: expected shape [{out_features}, {r}] by its A, found {found:?}")));
        }
        if let Some((key, found, _)) = magnitude.as_ref().filter(|m| m.1[0] != out_features) {
            return Err(fault(format!("{key}: expected shape [{out_features}] by its B, found {found:?}")));
        }
        let magnitude = magnitude.map(|m| m.2);
        modules.insert(module, LoraPair { r, in_features, out_features, a: a.2, b: b.2, magnitude });
    }
    match modules.is_empty() {
        true => Err(fault("expected LoRA tensors, found none".into())),
        false => Ok(modules),
    }
}

struct ConfigFile<'a> {
    path: &'a Path,
    json: &'a Map<String, Value>,
}

impl ConfigFile<'_> {
    fn fault(&self, reason: String) -> Error {
        Error::Adapter { path: self.path.into(), reason }
    }

    /// The value of a key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let kind = self.get("peft_type").and_then(Value::as_str);
        if kind != Some("LORA") {
            let found = self.json.get("peft_type").unwrap_or(&Value::Null);
            return Err(self.fault(format!("peft_type: expected \"LORA\", found {found}")));
        }
        for key in UNSUPPORTED {
            let Some(value) = self.get(key) else { continue };
            let neutral = match value {
                Value::Bool(on) => !on,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !neutral {
                return Err(self.fault(format!("{key}: {value} is not supported, only LoRA and DoRA are")));
            }
        }
        if let Some(bias) = self.get("bias").filter(|b| b.as_str() != Some("none")) {
            return Err(self.fault(format!("bias: {bias} is not supported, only \"none\" is")));
        }
        if let Some(init) = self.get("init_lora_weights") {
            if !init.is_boolean() && !init.as_str().is_some_and(|s| NEUTRAL_INITS.contains(&s)) {
                return Err(self.fault(format!(
                    "init_lora_weights: {init} is not supported: it changes the base weights; have PEFT convert the \
                     adapter (save_pretrained with path_initial_model_for_weight_conversion)"
                )));
            }
        }
        Ok(())
    }

    /// What `read` makes of a key's value; where it is absent, PEFT's default.
    fn value<T>(&self, key: &str, default: T, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let Some(value) = self.get(key) else { return Ok(default) };
        read(value).ok_or_else(|| self.fault(format!("{key}: expected {expected}, found {value}")))
    }

    /// Where a key is absent, PEFT's default holds. PEFT takes an alpha of 0, which makes an adapter that does nothing,
    /// and any `lora_dropout` below 0 for none: both are refused, as slips. It is of use in `alpha_pattern`, where it
    /// turns one module off.
    fn lora_config(&self, modules: &BTreeMap<String, LoraPair>) -> Result<LoraConfig> {
        // Of f32, in which masks are scaled by 1 / (1 − p).
        let share = |v: &Value| v.as_f64().filter(|p| *p >= 0.0 && (*p as f32) < 1.0);
        let nonzero = |v: &Value| alpha_of(v).filter(|x| *x != 0.0);
        Ok(LoraConfig {
            r: self.value("r", 8, WHOLE, rank_of)?,
            lora_alpha: self.value("lora_alpha", 8.0, "a number other than 0", nonzero)?,
            lora_dropout: self.value("lora_dropout", 0.0, "a number, 0 ≤ p < 1", share)?,
            use_rslora: self.flag("use_rslora")?,
            use_dora: self.flag("use_dora")?,
            target_modules: self.target_modules(modules)?,
            layers_to_transform: self.layers()?,
            rank_pattern: self.pattern("rank_pattern", WHOLE, rank_of)?,
            alpha_pattern: self.pattern("alpha_pattern", "a number", alpha_of)?,
        })
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(value) => Err(self.fault(format!("{key}: expected true or false, found {value}"))),
        }
    }

    /// `layers_to_transform`, where `target_modules` are names: a regular expression has selected already.
    fn layers(&self) -> Result<Option<Layers>> {
        let Some(value) = self.get("layers_to_transform") else { return Ok(None) };
        let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        let numbers: Option<Vec<usize>> = match value {
            Value::Array(items) => items.iter().map(number).collect(),
            one => number(one).map(|n| vec![n]),
        };
        match numbers {
            Some(n) if n.is_empty() || self.is_narrowed() || !self.names_modules() => Ok(None),
            Some(n) => Ok(Some(Layers::new(n))),
            None => Err(self.fault(format!("layers_to_transform: expected numbers of blocks, found {value}"))),
        }
    }

    /// Whether something that is not kept beside the names narrows them.
    fn is_narrowed(&self) -> bool {
        ["exclude_modules", "layers_pattern"].iter().any(|k| {
            self.get(k).is_some_and(|v| !matches!(v.as_array().map(Vec::len), Some(0)) && v.as_str() != Some(""))
        })
    }

    fn names_modules(&self) -> bool {
        matches!(self.get("target_modules"), Some(Value::Array(_)))
    }

    fn target_modules(&self, modules: &BTreeMap<String, LoraPair>) -> Result<TargetModules> {
        let narrowed = self.is_narrowed();
        let paths = || TargetModules::Names(modules.keys().cloned().collect());
        match self.get("target_modules") {
            Some(Value::Array(_)) if narrowed => Ok(paths()),
            Some(Value::Array(items)) => {
                let names: Option<BTreeSet<&str>> = items.iter().map(Value::as_str).collect();
                match names {
                    Some(names) => Ok(TargetModules::Names(names.into_iter().map(String::from).collect())),
                    None => Err(self.fault("target_modules: expected a list of names".into())),
                }
            }
            Some(Value::String(s)) if s == "all-linear" && !narrowed => Ok(TargetModules::AllLinear),
            // A regular expression: the tensors tell what it selected.
            Some(Value::String(_)) | None => Ok(paths()),
            Some(value) => Err(self.fault(format!("target_modules: expected names, found {value}"))),
        }
    }

    /// A pattern, in the file's order.
    fn pattern<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<ModulePattern<T>> {
        let map = match self.get(key) {
            None => return Ok(ModulePattern::default()),
            Some(Value::Object(map)) => map,
            Some(value) => return Err(self.fault(format!("{key}: expected an object, found {value}"))),
        };
        map.iter()
            .map(|(pattern, value)| {
                if pattern.is_empty() || pattern.contains(is_regex) {
                    return Err(self.fault(format!(
                        "{key}: {pattern:?}: expected a module name or path; regular expressions are not supported"
                    )));
                }
                match read(value) {
                    Some(x) => Ok((pattern.clone(), x)),
                    None => Err(self.fault(format!("{key}: {pattern}: expected {expected}, found {value}"))),
                }
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "peft_tests.rs"]
mod tests;
