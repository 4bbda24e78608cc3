//! The facts of a model folder's `config.json`: one [`DecoderConfig`] for all supported families.
//!
//! Keys of transformers before v5 and of v5 are read; where a file holds both, they must agree. What would change the
//! numbers and is not supported is refused by name; a key that is neither read nor known to be harmless is logged with
//! `log::warn!` and ignored, as is (unlogged) one beginning with `_`.

mod families;
mod keys;
mod named;
mod parts;
pub mod rope;
pub mod shapes;
pub mod yarn;

use std::path::Path;

use serde_json::Value;

use self::families::Family;
use self::keys::{parse_json, Keys};
use self::named::{family_of, FAMILIES};
pub use self::parts::{Layer, Norms, QkNorm};
pub use self::rope::{Rope, RopeScaling};

use crate::error::Result;
use crate::files::ModelFiles;
pub use crate::kernels::cpu::elementwise::Gate as Activation;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// The largest number of layers; a larger one is a damaged file.
const MAX_LAYERS: usize = 10_000;

/// Shape and numerics of a decoder-only model.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family, by the file's `model_type` or, without one, its `architectures`: `llama`, `qwen3`, `gemma2`, …
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
    /// The longest sequence the model was made for, or is stretched to by YaRN.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// What differs from layer to layer.
    pub layers: Vec<Layer>,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// `q_proj`, `k_proj` and `v_proj` have biases.
    pub qkv_bias: bool,
    /// `o_proj` has a bias.
    pub o_bias: bool,
    /// The three MLP projections have biases.
    pub mlp_bias: bool,
    /// `q_proj`, `k_proj` and `v_proj` are one linear, `gate_proj` and `up_proj` another.
    pub fused: bool,
    /// What queries and keys pass before they are rotated.
    pub qk_norm: QkNorm,
    /// Where a block norms its two branches.
    pub norms: Norms,
    /// Norms multiply with 1 + weight.
    pub norm_plus_one: bool,
    /// What the gate of the MLP passes.
    pub activation: Activation,
    /// Factor of the scores before the softmax, usually 1/√head_dim.
    pub attention_scale: f64,
    /// Scores s become c·tanh(s/c).
    pub attention_softcap: Option<f64>,
    /// Logits x become c·tanh(x/c).
    pub logit_softcap: Option<f64>,
    /// Factor of the embeddings.
    pub embedding_scale: f64,
    /// The model scales what its embedding module gives; else the module gives it scaled. NEFTune's noise is added to
    /// what the module gives.
    pub scaled_behind_embedding: bool,
    /// Factor of what each branch of a block adds.
    pub residual_scale: f64,
    /// Factor of the logits, before any softcap.
    pub logit_scale: f64,
    /// Tokens that end a generation, each once; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a sequence.
    pub bos_token_id: Option<u32>,
}

/// `config.json` as it stands in a model folder.
pub(crate) fn raw(files: &ModelFiles) -> Result<Value> {
    parse_json(&files.place(CONFIG), &files.needed(CONFIG)?)
}

impl DecoderConfig {
    /// The `model_type`s that can be loaded.
    pub fn families() -> impl Iterator<Item = &'static str> {
        FAMILIES.into_iter().map(Family::name)
    }

    /// Reads a model's `config.json`; the end tokens are the union with those of any `generation_config.json`.
    /// A GGUF file's fields are read as the `config.json` they came from.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::ModelFormat`](crate::Error::ModelFormat) when a file is not JSON; [`Error::ModelNotSupported`](crate::Error::ModelNotSupported) names the key and
    /// its value.
    pub fn of(files: &ModelFiles) -> Result<Self> {
        if let Some(file) = files.gguf() {
            file.file().unchanged()?;
            return Self::from_json(&crate::gguf::model_config(file)?, files.path());
        }
        let mut config = Self::from_json(&raw(files)?, &files.place(CONFIG))?;
        if let Some(bytes) = files.small(GENERATION)? {
            let path = files.place(GENERATION);
            config.add_eos(Keys::new(&parse_json(&path, &bytes)?, &path)?.token_ids("eos_token_id")?);
        }
        Ok(config)
    }

    /// As [`DecoderConfig::of`], of what lies at this path.
    ///
    /// # Errors
    /// As [`DecoderConfig::of`].
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::of(&ModelFiles::open(dir)?)
    }

    /// Reads a parsed `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`DecoderConfig::of`].
    pub fn from_json(value: &Value, path: &Path) -> Result<Self> {
        let keys = Keys::new(value, path)?;
        let family = family_of(&keys)?;
        let model_type = family.name();
        keys.check(family.reads())?;

        let hidden_size = keys.size("hidden_size")?;
        let num_layers = keys.size("num_hidden_layers")?;
        if num_layers > MAX_LAYERS {
            return Err(keys.fail(format!("num_hidden_layers {num_layers} exceeds {MAX_LAYERS}")));
        }
        let (num_heads, num_kv_heads, head_dim) = heads(&keys, family, hidden_size)?;
        let [attention_bias, mlp_bias] = ["attention_bias", "mlp_bias"].map(|key| keys.flag(key, false));
        let (attention_bias, mlp_bias) = (attention_bias?, mlp_bias?);
        let (reads_attention, reads_mlp) = family.biases();
        if attention_bias && !reads_attention || mlp_bias && !reads_mlp {
            let key = if mlp_bias && !reads_mlp { "mlp_bias" } else { "attention_bias" };
            return Err(keys.fail(format!("{key} true is not supported with model_type {model_type:?}")));
        }
        let bos_token_id = match keys.token_ids("bos_token_id")?.as_slice() {
            [] => None,
            [id] => Some(*id),
            _ => return Err(keys.wrong("bos_token_id", "one token id", keys.raw("bos_token_id"))),
        };
        let (ropes, layers) = family.layers(&keys, num_layers, head_dim)?;
        // YaRN is switched on in configs that go on naming the length of before.
        let reach = ropes.iter().filter_map(Rope::reach).max().unwrap_or(0);
        let number = |key: &str, default: f64| keys.get(key).map_or(Ok(default), |_| keys.positive(key));
        // A key that the family does not read has been refused unless it changes nothing.
        let cap = |key: &str, default: Option<f64>| match keys.raw(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => keys.positive(key).map(Some),
        };
        let gemma2 = |c: f64| (family == Family::Gemma2).then_some(c);
        let score_width =
            if family.has_four_norms() { number("query_pre_attn_scalar", 256.0)? } else { head_dim as f64 };
        let attention_scale = match family {
            Family::Granite => number("attention_multiplier", 1.0)?,
            _ => 1.0 / score_width.sqrt(),
        };
        let embedding_scale = match family.is_gemma() {
            true => (hidden_size as f64).sqrt(),
            false => number("embedding_multiplier", 1.0)?,
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
            max_position_embeddings: keys.size("max_position_embeddings")?.max(reach),
            rms_norm_eps: keys
                .raw("rms_norm_eps")
                .map_or(Ok(family.rms_norm_eps()), |_| keys.positive("rms_norm_eps"))?,
            ropes,
            layers,
            tie_word_embeddings: keys.flag("tie_word_embeddings", family.ties())?,
            // HF's Qwen2 has these biases whatever `attention_bias` says.
            qkv_bias: attention_bias || family == Family::Qwen2,
            o_bias: attention_bias && family != Family::Qwen2,
            mlp_bias,
            fused: family == Family::Phi3,
            qk_norm: family.qk_norm(),
            norms: Norms { before: family != Family::Olmo2, after: family == Family::Olmo2 || family.has_four_norms() },
            norm_plus_one: family.is_gemma(),
            activation: family.activation(&keys)?,
            attention_scale,
            attention_softcap: cap("attn_logit_softcapping", gemma2(50.0))?,
            logit_softcap: cap("final_logit_softcapping", gemma2(30.0))?,
            embedding_scale,
            scaled_behind_embedding: family.scales_behind_embedding(),
            residual_scale: number("residual_multiplier", 1.0)?,
            logit_scale: 1.0 / number("logits_scaling", 1.0)?,
            eos_token_ids: Vec::new(),
            bos_token_id,
        };
        config.add_eos(keys.token_ids("eos_token_id")?);
        Ok(config)
    }

    /// Widths of all query heads and of all key heads together.
    pub fn head_widths(&self) -> (usize, usize) {
        (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim)
    }

    fn add_eos(&mut self, ids: Vec<u32>) {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }
}

/// Query heads, key heads and the width of one.
fn heads(keys: &Keys, family: Family, hidden_size: usize) -> Result<(usize, usize, usize)> {
    let num_heads = keys.size("num_attention_heads")?;
    let num_kv_heads = match keys.get("num_key_value_heads") {
        Some(_) => keys.size("num_key_value_heads")?,
        None => num_heads,
    };
    if num_heads % num_kv_heads != 0 {
        return Err(keys
            .fail(format!("num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_kv_heads}")));
    }
    let head_dim = match (keys.get("head_dim"), family.head_dim()) {
        (Some(_), _) => keys.size("head_dim")?,
        (None, Some(width)) => width,
        (None, None) if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        (None, None) => {
            return Err(keys.fail(format!(
                "head_dim is absent and hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}"
            )))
        }
    };
    if head_dim % 2 != 0 {
        return Err(keys.fail(format!("head_dim {head_dim} is not even")));
    }
    Ok((num_heads, num_kv_heads, head_dim))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod yarn_tests;
