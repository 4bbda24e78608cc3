//! The facts of a model folder's `config.json`: one [`DecoderConfig`] for all supported families.
//!
//! Keys of transformers before v5 and of v5 are read; where a file holds both, they must agree. What would change the
//! numbers and is not supported is refused by name; a key that is neither read nor known to be harmless is logged with
//! `log::warn!` and ignored, as is (unlogged) one beginning with `_`.

use std::f64::consts::PI;
use std::path::Path;

use serde_json::Value;

use super::config_keys::{read_json, shown, Keys};
use crate::{Error, Result};

/// The `model_type`s that can be loaded.
const SUPPORTED: [(&str, Family); 4] =
    [("llama", Family::Llama), ("mistral", Family::Mistral), ("qwen2", Family::Qwen2), ("qwen3", Family::Qwen3)];

/// The largest number of layers; a larger one is a damaged file.
const MAX_LAYERS: usize = 10_000;

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// Shape and numerics of a decoder-only model.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family, as in the file: `llama`, `mistral`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even, and not always `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// `q_proj`, `k_proj` and `v_proj` have biases.
    pub qkv_bias: bool,
    /// `o_proj` has a bias.
    pub o_bias: bool,
    /// The three MLP projections have biases.
    pub mlp_bias: bool,
    /// Queries and keys pass an RMSNorm over each head.
    pub qk_norm: bool,
    /// For each layer, how many keys a query sees, its own position included; `None`: all earlier ones.
    pub windows: Vec<Option<usize>>,
    /// Tokens that end a generation, each once; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a sequence.
    pub bos_token_id: Option<u32>,
}

/// Rotary position embedding over the whole head.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How the frequencies are changed for longer sequences.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No change.
    None,
    /// Llama 3: long wavelengths are stretched, short ones kept, those between interpolated.
    Llama3 {
        /// By how much long wavelengths are stretched.
        factor: f64,
        /// Wavelengths above the original length divided by this are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below the original length divided by this are kept.
        high_freq_factor: f64,
        /// The sequence length before stretching.
        original_max_position_embeddings: f64,
    },
}

impl DecoderConfig {
    /// Reads `config.json` in `dir`; the end tokens are the union with those of any `generation_config.json`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut config = Self::from_json(&read_json(&path)?, &path)?;
        let path = dir.join("generation_config.json");
        match read_json(&path) {
            Ok(value) => config.add_eos(Keys::new(&value, &path)?.token_ids("eos_token_id")?),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(config)
    }

    /// Reads a parsed `config.json`; `path` is for messages.
    pub fn from_json(value: &Value, path: &Path) -> Result<Self> {
        let keys = Keys::new(value, path)?;
        let model_type = keys.text("model_type")?;
        let Some((_, family)) = SUPPORTED.into_iter().find(|(name, _)| *name == model_type) else {
            let names = SUPPORTED.map(|(name, _)| name).join(", ");
            let found = shown(&Value::from(model_type));
            return Err(keys.fail(format!("model_type {found} is not one of those supported: {names}")));
        };
        keys.check()?;

        let hidden_size = keys.size("hidden_size")?;
        let num_layers = keys.size("num_hidden_layers")?;
        if num_layers > MAX_LAYERS {
            return Err(keys.fail(format!("num_hidden_layers {num_layers} exceeds {MAX_LAYERS}")));
        }
        let num_heads = keys.size("num_attention_heads")?;
        let num_kv_heads = match keys.get("num_key_value_heads") {
            Some(_) => keys.size("num_key_value_heads")?,
            None => num_heads,
        };
        if num_heads % num_kv_heads != 0 {
            return Err(keys.fail(format!(
                "num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_kv_heads}"
            )));
        }
        let head_dim = match keys.get("head_dim") {
            Some(_) => keys.size("head_dim")?,
            None if family == Family::Qwen3 => 128,
            None if hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => {
                return Err(keys.fail(format!(
                "head_dim is absent and hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}"
            )))
            }
        };
        if head_dim % 2 != 0 {
            return Err(keys.fail(format!("head_dim {head_dim} is not even")));
        }
        let attention_bias = keys.flag("attention_bias", false)?;
        let mlp_bias = keys.flag("mlp_bias", false)?;
        if attention_bias && family == Family::Mistral || mlp_bias && family != Family::Llama {
            let key = if mlp_bias { "mlp_bias" } else { "attention_bias" };
            return Err(keys.fail(format!("{key} true is not supported with model_type {model_type:?}")));
        }
        let bos_token_id = match keys.token_ids("bos_token_id")?.as_slice() {
            [] => None,
            [id] => Some(*id),
            _ => return Err(keys.wrong("bos_token_id", "one token id", keys.raw("bos_token_id"))),
        };
        let mut config = Self {
            model_type: model_type.to_string(),
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size: keys.size("vocab_size")?,
            max_position_embeddings: keys.size("max_position_embeddings")?,
            rms_norm_eps: keys.raw("rms_norm_eps").map_or(Ok(1e-6), |_| keys.positive("rms_norm_eps"))?,
            rope: rope(&keys)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            // HF's Qwen2 has these biases whatever `attention_bias` says.
            qkv_bias: attention_bias || family == Family::Qwen2,
            o_bias: attention_bias && family != Family::Qwen2,
            mlp_bias,
            qk_norm: family == Family::Qwen3,
            windows: windows(&keys, family, num_layers)?,
            eos_token_ids: Vec::new(),
            bos_token_id,
        };
        config.add_eos(keys.token_ids("eos_token_id")?);
        Ok(config)
    }

    /// The `head_dim / 2` rotary frequencies, rounded to f32 before and after the scaling, as in transformers.
    pub fn inv_freq(&self) -> Vec<f32> {
        let frequency = |i: usize| {
            let plain = (1.0 / libm::pow(self.rope.theta, (2 * i) as f64 / self.head_dim as f64)) as f32;
            self.rope.scaling.apply(plain)
        };
        (0..self.head_dim / 2).map(frequency).collect()
    }

    fn add_eos(&mut self, ids: Vec<u32>) {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f32) -> f32 {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } = *self
        else {
            return frequency;
        };
        let f = f64::from(frequency);
        let wavelength = 2.0 * PI / f;
        if wavelength < original / high {
            frequency
        } else if wavelength > original / low {
            (f / factor) as f32
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            ((1.0 - smooth) * f / factor + smooth * f) as f32
        }
    }
}

fn rope(keys: &Keys) -> Result<Rope> {
    let new = keys.object("rope_parameters")?;
    let old = keys.object("rope_scaling")?;
    let mut theta: Option<(f64, String, &Value)> = None;
    for place in [new.as_ref(), Some(keys), old.as_ref()].into_iter().flatten() {
        let Some(value) = place.get("rope_theta") else { continue };
        let number = place.positive("rope_theta")?;
        match &theta {
            Some((first, name, shown)) if *first != number => {
                return Err(keys.contradiction((&place.name("rope_theta"), value), (name, shown)));
            }
            Some(_) => {}
            None => theta = Some((number, place.name("rope_theta"), value)),
        }
    }
    let read = |place: &Option<Keys>| place.as_ref().map_or(Ok(RopeScaling::None), |p| scaling(p, keys));
    let (new_scaling, old_scaling) = (read(&new)?, read(&old)?);
    let scaling = match (new, keys.get("rope_parameters"), keys.get("rope_scaling")) {
        (Some(_), Some(v5), Some(before)) if new_scaling != old_scaling => {
            return Err(keys.contradiction(("rope_scaling", before), ("rope_parameters", v5)));
        }
        (Some(_), ..) => new_scaling,
        (None, ..) => old_scaling,
    };
    Ok(Rope { theta: theta.map_or(10_000.0, |(number, ..)| number), scaling })
}

/// The scaling in `rope_parameters` or `rope_scaling`; `top` is the whole file.
fn scaling(keys: &Keys, top: &Keys) -> Result<RopeScaling> {
    let key = if keys.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = match (keys.get(key), keys.get("factor")) {
        (None, None) => "default",
        (None, Some(_)) => return Err(keys.wrong("rope_type", "a string", None)),
        (Some(_), _) => keys.text(key)?,
    };
    if let (Some(new), Some(old)) = (keys.get("rope_type"), keys.get("type")) {
        if new != old {
            return Err(keys.contradiction((&keys.name("type"), old), (&keys.name("rope_type"), new)));
        }
    }
    if kind != "default" && kind != "llama3" {
        return Err(keys.unsupported(key, &Value::from(kind), "\"default\" or \"llama3\""));
    }
    keys.check_rope()?;
    if kind == "default" {
        return Ok(RopeScaling::None);
    }
    let original = "original_max_position_embeddings";
    let place = match (keys.get(original), top.get(original)) {
        (Some(inner), Some(outer)) if inner.as_f64() != outer.as_f64() => {
            return Err(keys.contradiction((original, outer), (&keys.name(original), inner)));
        }
        (None, Some(_)) => top,
        _ => keys,
    };
    let [factor, low, high] = ["factor", "low_freq_factor", "high_freq_factor"].map(|key| keys.positive(key));
    let (factor, low, high) = (factor?, low?, high?);
    if low >= high {
        return Err(keys.fail(format!(
            "{} {low} is not below {} {high}",
            keys.name("low_freq_factor"),
            keys.name("high_freq_factor")
        )));
    }
    Ok(RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: place.size(original)? as f64,
    })
}

/// As in HF's model code: Llama has no window, Mistral one on every layer, Qwen on its sliding layers; absent: 4096.
fn windows(keys: &Keys, family: Family, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let read = || match keys.raw("sliding_window") {
        None => Ok(Some(4096)),
        Some(Value::Null) => Ok(None),
        Some(_) => keys.size("sliding_window").map(Some),
    };
    let use_window = keys.flag("use_sliding_window", family == Family::Mistral)?;
    let types = keys.layer_types(num_layers)?;
    let window = match family {
        Family::Llama => match (keys.get("sliding_window"), use_window) {
            (Some(value), _) => return Err(keys.unsupported("sliding_window", value, "null with \"llama\"")),
            (None, true) => {
                return Err(keys.unsupported("use_sliding_window", &Value::Bool(true), "false with \"llama\""))
            }
            (None, false) => None,
        },
        Family::Mistral => match read()? {
            Some(n) if !use_window => {
                return Err(keys.fail(format!("use_sliding_window false contradicts sliding_window {n}")));
            }
            window => window,
        },
        Family::Qwen2 | Family::Qwen3 if use_window => read()?,
        Family::Qwen2 | Family::Qwen3 => None,
    };
    let first = match (family, keys.raw("max_window_layers")) {
        (Family::Llama | Family::Mistral, _) => 0,
        (_, None) => 28,
        (_, Some(_)) => keys.size_from("max_window_layers", 0)?,
    };
    let Some(types) = types else {
        return Ok((0..num_layers).map(|i| window.filter(|_| i >= first)).collect());
    };
    let layer = |(i, slides): (usize, bool)| match (slides, window) {
        (true, None) => Err(keys.fail(format!("layer_types[{i}] \"sliding_attention\" has no sliding_window"))),
        (false, Some(n)) if family == Family::Mistral => {
            Err(keys.fail(format!("layer_types[{i}] \"full_attention\" contradicts sliding_window {n}")))
        }
        (slides, window) => Ok(window.filter(|_| slides)),
    };
    types.into_iter().enumerate().map(layer).collect()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
