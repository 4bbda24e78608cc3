//! LoRA adapter folders as Hugging Face PEFT writes and reads them: `adapter_config.json` beside
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{json, Map, Value};

use crate::config::{LoraConfig, TargetModules};
use crate::error::{Error, Result};
use crate::lora::tensors::{le_bytes, write_tensors, Matrix};
pub use crate::lora::tensors::{load_tensors, Tensors};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const SUFFIX_A: &str = ".lora_A.weight";
const SUFFIX_B: &str = ".lora_B.weight";

/// The PEFT release whose keys are written.
const PEFT_VERSION: &str = "0.21.2";

/// Keys that change what the adapter computes, or what it needs, beyond plain LoRA. Null, false and empty
/// are neutral for each of them.
const UNSUPPORTED: [&str; 15] = [
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
    "use_dora",
    "use_qalora",
    "velora_config",
];

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
            let [rows, cols] = matrix.shape;
            if rows == 0 || rows.checked_mul(cols) != Some(matrix.data.len()) || cols == 0 {
                let found = matrix.data.len();
                return Err(fault(format!("{key}: expected {:?}, found {found} numbers", matrix.shape)));
            }
            if matrices.insert(key.clone(), matrix).is_some() {
                return Err(fault(format!("{key}: given twice")));
            }
        }
        if t.r != config.r {
            ranks.insert(t.module.into(), t.r.into());
        }
        let r = t.r as f64;
        let alpha = t.scale * if config.use_rslora { r.sqrt() } else { r };
        if (alpha - config.lora_alpha).abs() > 1e-6 * config.lora_alpha.abs() {
            alphas.insert(t.module.into(), alpha_json(alpha));
        }
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
    fs::write(&path, json).map_err(Error::io(&path))?;
    let path = dir.join(TENSORS);
    write_tensors(&path, json!({"format": "pt"}), &matrices)
}

/// Reads an adapter folder. What plain LoRA cannot express is refused by name, never dropped.
pub fn load_adapter(dir: &Path) -> Result<PeftAdapter> {
    let path = dir.join(CONFIG);
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let json: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|e| Error::Adapter { path: path.clone(), reason: format!("damaged: {e}") })?;
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
    let ranks = file.pattern("rank_pattern")?;
    let alphas = file.pattern("alpha_pattern")?;
    let mut scales = BTreeMap::new();
    for (module, lora) in &modules {
        let rank = lookup(&ranks, module).unwrap_or(config.r as f64);
        if rank != lora.r as f64 {
            let reason = format!("{PREFIX}{module}{SUFFIX_A}: expected rank {rank} by {CONFIG}, found {}", lora.r);
            return Err(Error::Adapter { path: tensors, reason });
        }
        let lora_alpha = lookup(&alphas, module).unwrap_or(config.lora_alpha);
        let own = LoraConfig { r: lora.r, lora_alpha, ..config.clone() };
        scales.insert(module.clone(), own.scale());
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
        for n in matrix.shape {
            hasher.update(&(n as u64).to_le_bytes());
        }
        hasher.update(&le_bytes(matrix.data));
    }
    hasher.finalize().into()
}

/// A and B under their keys.
fn matrices_of<'a>(t: &PeftTensor<'a>) -> [(String, Matrix<'a>); 2] {
    [
        (format!("{PREFIX}{}{SUFFIX_A}", t.module), Matrix { shape: [t.r, t.in_features], data: t.a }),
        (format!("{PREFIX}{}{SUFFIX_B}", t.module), Matrix { shape: [t.out_features, t.r], data: t.b }),
    ]
}

/// PEFT declares the type as int; readers in other languages insist. A scale went through f32, so an alpha
/// next to a whole number is that number.
fn alpha_json(alpha: f64) -> Value {
    let whole = alpha.round();
    if (alpha - whole).abs() <= 1e-6 * alpha.abs() && whole.abs() < 1e15 {
        json!(whole as i64)
    } else {
        json!(alpha)
    }
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
        "layers_to_transform": null,
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
        "use_dora": false,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null
    })
}

/// Puts A and B of every module together.
fn pair(path: &Path, tensors: Tensors) -> Result<BTreeMap<String, LoraPair>> {
    type Found = Option<(String, [usize; 2], Vec<f32>)>;
    let fault = |reason: String| Error::Adapter { path: path.into(), reason };
    let mut halves: BTreeMap<String, (Found, Found)> = BTreeMap::new();
    for (key, (shape, data)) in tensors {
        let rest = key.strip_prefix(PREFIX);
        let (module, is_a) = match rest.and_then(|k| k.strip_suffix(SUFFIX_A).map(|m| (m, true))) {
            Some(found) => found,
            None => match rest.and_then(|k| k.strip_suffix(SUFFIX_B)) {
                Some(module) => (module, false),
                None => {
                    let expected = format!("{PREFIX}<module>{SUFFIX_A} or …{SUFFIX_B}");
                    return Err(fault(format!("{key}: not a plain LoRA tensor, expected {expected}")));
                }
            },
        };
        let shape = match shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => [rows, cols],
            _ => return Err(fault(format!("{key}: expected two dimensions, none of them 0, found {shape:?}"))),
        };
        let (a, b) = halves.entry(module.to_string()).or_default();
        *(if is_a { a } else { b }) = Some((key, shape, data));
    }
    let mut modules = BTreeMap::new();
    for (module, halves) in halves {
        let lora = match halves {
            (Some((_, [r, in_features], a)), Some((key, [out_features, rank], b))) => {
                if rank != r {
                    let found = [out_features, rank];
                    return Err(fault(format!(
                        "{key}: expected shape [{out_features}, {r}] by its A, found {found:?}"
                    )));
                }
                LoraPair { r, in_features, out_features, a, b }
            }
            (Some((key, ..)), _) => return Err(fault(format!("{key}: has no lora_B"))),
            (_, Some((key, ..))) => return Err(fault(format!("{key}: has no lora_A"))),
            (None, None) => continue,
        };
        modules.insert(module, lora);
    }
    match modules.is_empty() {
        true => Err(fault("expected LoRA tensors, found none".into())),
        false => Ok(modules),
    }
}

/// A pattern and its number, in the file's order: PEFT takes the first that matches.
type Patterns = Vec<(String, f64)>;

/// PEFT's `get_pattern_key`: `(.*\.)?(key)$`.
fn lookup(patterns: &Patterns, module: &str) -> Option<f64> {
    let matches = |key: &str| module.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    patterns.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value)
}

/// What a Python regular expression does not take literally. The dot is: it separates a path's names.
fn is_regex(c: char) -> bool {
    r"\^$*+?{}[]()|".contains(c)
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
                return Err(self.fault(format!("{key}: {value} is not supported, only plain LoRA is")));
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

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_f64() {
            Some(x) if x.is_finite() => Ok(x),
            _ => Err(self.fault(format!("{key}: expected a number, found {value}"))),
        }
    }

    /// Where a key is absent, PEFT's default holds.
    fn lora_config(&self, modules: &BTreeMap<String, LoraPair>) -> Result<LoraConfig> {
        let r = match self.get("r") {
            None => 8,
            Some(value) => match value.as_u64().and_then(|r| usize::try_from(r).ok()) {
                Some(r) if r > 0 => r,
                _ => return Err(self.fault(format!("r: expected a whole number ≥ 1, found {value}"))),
            },
        };
        let use_rslora = match self.get("use_rslora") {
            None => false,
            Some(Value::Bool(on)) => *on,
            Some(value) => return Err(self.fault(format!("use_rslora: expected true or false, found {value}"))),
        };
        Ok(LoraConfig {
            r,
            lora_alpha: self.number("lora_alpha", 8.0)?,
            lora_dropout: self.number("lora_dropout", 0.0)?,
            use_rslora,
            target_modules: self.target_modules(modules)?,
        })
    }

    fn target_modules(&self, modules: &BTreeMap<String, LoraPair>) -> Result<TargetModules> {
        let narrowed = ["exclude_modules", "layers_pattern", "layers_to_transform"].iter().any(|k| {
            self.get(k).is_some_and(|v| !matches!(v.as_array().map(Vec::len), Some(0)) && v.as_str() != Some(""))
        });
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

    fn pattern(&self, key: &str) -> Result<Patterns> {
        let map = match self.get(key) {
            None => return Ok(Vec::new()),
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
                match value.as_f64() {
                    Some(x) if x.is_finite() => Ok((pattern.clone(), x)),
                    _ => Err(self.fault(format!("{key}: {pattern}: expected a number, found {value}"))),
                }
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "peft_tests.rs"]
mod tests;
