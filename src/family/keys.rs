//! Typed reading of a `config.json`, with the keys that are refused, known or unknown.
//!
//! Policy: a key that changes the numbers and is not supported is an error ([`REFUSED`], and unknown keys whose
//! names say so); a key that [`KNOWN`] lists is
//! read or harmless; a key beginning with `_` is private to its writer and ignored; any other key is logged once for
//! each file read, and ignored.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The largest size a key may have; keeps products of two sizes far from overflow.
const MAX_SIZE: u64 = i32::MAX as u64;

/// The only values of a key that change nothing; `null` is always one.
#[derive(Clone, Copy)]
pub(crate) enum Only {
    Null,
    /// Null, `false`, or an empty list or object.
    Empty,
    /// A number ≤ 0.
    Zero,
    /// The number 1.
    One,
    False,
    True,
    Silu,
}

impl Only {
    fn allows(self, value: &Value) -> bool {
        let number = value.as_f64();
        value.is_null()
            || match self {
                Only::Null => false,
                Only::Empty => match value {
                    Value::Bool(b) => !b,
                    Value::Array(a) => a.is_empty(),
                    Value::Object(o) => o.is_empty(),
                    _ => false,
                },
                Only::Zero => number.is_some_and(|x| x <= 0.0),
                Only::One => number == Some(1.0),
                Only::False => *value == Value::Bool(false),
                Only::True => *value == Value::Bool(true),
                Only::Silu => matches!(value.as_str(), Some("silu" | "swish")),
            }
    }

    fn expected(self) -> &'static str {
        match self {
            Only::Null | Only::Empty => "null",
            Only::Zero => "0",
            Only::One => "1",
            Only::False => "false",
            Only::True => "true",
            Only::Silu => "\"silu\"",
        }
    }
}

/// Keys that change the numbers, and the values with which they do not.
pub(crate) const REFUSED: &[(Only, &[&str])] = &[
    (Only::Silu, &["hidden_act", "hidden_activation"]),
    (
        Only::Null,
        &[
            "attn_logit_softcapping",
            "clip_qkv",
            "final_logit_softcapping",
            "no_rope_layer_interval",
            "no_rope_layers",
            "query_pre_attn_scalar",
            "rope_local_base_freq",
            "sliding_window_pattern",
        ],
    ),
    (Only::Empty, &["compression_config", "pruned_heads", "quantization_config"]),
    (
        Only::Zero,
        &[
            "attention_chunk_size",
            "dropout",
            "embd_pdrop",
            "hidden_dropout",
            "moe_num_experts",
            "n_routed_experts",
            "n_shared_experts",
            "num_experts",
            "num_experts_per_tok",
            "num_local_experts",
            "num_shared_experts",
            "resid_pdrop",
        ],
    ),
    (
        Only::One,
        &[
            "attention_multiplier",
            "embedding_multiplier",
            "logit_scale",
            "logits_multiplier",
            "logits_scaling",
            "partial_rotary_factor",
            "residual_multiplier",
        ],
    ),
    (
        Only::False,
        &[
            "add_cross_attention",
            "alibi",
            "attn_temperature_tuning",
            "is_encoder_decoder",
            "rope_interleaved",
            "rope_traditional",
            "use_bidirectional_attention",
            "use_moe",
            "use_mrope",
            "use_qk_norm",
        ],
    ),
    (Only::True, &["is_causal"]),
];

/// Keys that are read, or that change no number.
pub(crate) const KNOWN: &[&str] = &[
    // Read.
    "attention_bias bos_token_id eos_token_id head_dim hidden_size intermediate_size layer_types max_position_embeddings",
    "max_window_layers mlp_bias model_type num_attention_heads num_hidden_layers num_key_value_heads",
    "original_max_position_embeddings rms_norm_eps rope_parameters rope_scaling rope_theta sliding_window",
    "tie_word_embeddings use_sliding_window vocab_size",
    // Of training by dropout, of which LoRA's own is what we have; and how Llama's first code cut its products.
    "attention_dropout pretraining_tp",
    // About the file, the dtype and the task.
    "architectures chunk_size_feed_forward cross_attention_hidden_size dtype finetuning_task id2label initializer_range",
    "is_decoder label2id name_or_path output_attentions output_hidden_states output_scores prefix problem_type",
    "return_dict return_dict_in_generate task_specific_params tf_legacy_loss tie_encoder_decoder tokenizer_class",
    "torch_dtype torchscript transformers.js_config transformers_version unsloth_fixed unsloth_version use_bfloat16",
    "use_cache",
    // Tokens and generation.
    "bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample early_stopping",
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id",
    "length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences",
    "pad_token_id remove_invalid_values repetition_penalty sep_token_id suppress_tokens temperature top_k top_p typical_p",
];

/// Keys of `rope_parameters` and `rope_scaling` that are read.
const ROPE_KEYS: &[&str] = &[
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "type",
];

/// The value as JSON, shortened for a message.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Parses a file's content.
pub(crate) fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value> {
    crate::files::json_of(path, bytes)
}

/// The keys of one JSON object of the file.
pub(crate) struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
    prefix: String,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(value: &'a Value, path: &'a Path) -> Result<Self> {
        match value.as_object() {
            Some(map) => Ok(Self { map, path, prefix: String::new() }),
            None => Err(fail(path, format!("expected a JSON object, found {}", shown(value)))),
        }
    }

    /// An error of this file.
    pub(crate) fn fail(&self, reason: String) -> Error {
        fail(self.path, reason)
    }

    /// Says something of this file that is no error.
    pub(crate) fn warn(&self, what: &str) {
        log::warn!("{}: {what}", self.path.display());
    }

    /// The key's full name in messages.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value, `null` included.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// The value; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|v| !v.is_null())
    }

    /// The error for a key that is absent or of another type.
    pub(crate) fn wrong(&self, key: &str, expected: &str, found: Option<&Value>) -> Error {
        let found = found.map_or_else(|| "nothing".to_string(), shown);
        self.fail(format!("{}: expected {expected}, found {found}", self.name(key)))
    }

    /// The error for a value that is read but not supported.
    pub(crate) fn unsupported(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.fail(format!("{} {} is not supported (expected {expected})", self.name(key), shown(value)))
    }

    /// The error for two keys, by full name, that say different things.
    pub(crate) fn contradiction(&self, left: (&str, &Value), right: (&str, &Value)) -> Error {
        self.fail(format!("{} {} contradicts {} {}", left.0, shown(left.1), right.0, shown(right.1)))
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str> {
        let value = self.raw(key);
        value.and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a string", value))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false", Some(v))))
    }

    /// An integer from `min` to [`MAX_SIZE`].
    pub(crate) fn size_from(&self, key: &str, min: u64) -> Result<usize> {
        let value = self.raw(key);
        let size = value.and_then(Value::as_u64).filter(|n| (min..=MAX_SIZE).contains(n));
        size.and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.wrong(key, &format!("an integer from {min} to {MAX_SIZE}"), value))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.size_from(key, 1)
    }

    /// A finite number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<f64> {
        let value = self.raw(key);
        let number = value.and_then(Value::as_f64).filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| self.wrong(key, "a number above 0", value))
    }

    /// Token ids: absent or null, one, or a list.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|n| vec![n]),
        };
        ids.ok_or_else(|| self.wrong(key, "a token id or a list of token ids", self.raw(key)))
    }

    /// For each layer whether `layer_types` says that it slides.
    pub(crate) fn layer_types(&self, num_layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get("layer_types") else { return Ok(None) };
        let expected = format!("a list of {num_layers} strings");
        let list = value.as_array().filter(|list| list.len() == num_layers);
        let list = list.ok_or_else(|| self.wrong("layer_types", &expected, Some(value)))?;
        let slides = |(i, kind): (usize, &Value)| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => {
                Err(self.unsupported(&format!("layer_types[{i}]"), kind, "\"full_attention\" or \"sliding_attention\""))
            }
        };
        list.iter().enumerate().map(slides).collect::<Result<Vec<bool>>>().map(Some)
    }

    /// An object inside this one; absent when `null`.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object", Some(value)))?;
        Ok(Some(Keys { map, path: self.path, prefix: format!("{}.", self.name(key)) }))
    }

    /// Refuses what changes the numbers, but for the keys that the family `reads`, and logs the unknown keys.
    pub(crate) fn check(&self, reads: &[&str]) -> Result<()> {
        for (only, keys) in REFUSED {
            for key in keys.iter().filter(|key| !reads.contains(key)) {
                if let Some(value) = self.raw(key).filter(|v| !only.allows(v)) {
                    return Err(self.unsupported(key, value, only.expected()));
                }
            }
        }
        if let Some(rate) = self.raw("attention_dropout").filter(|v| !Only::Zero.allows(v)) {
            self.warn(&format!("attention_dropout {} is not applied", shown(rate)));
        }
        for key in self.unknown() {
            let value = self.raw(key).unwrap_or(&Value::Null);
            if changes_numbers(key) && !(Only::Empty.allows(value) || Only::Zero.allows(value)) {
                return Err(self.unsupported(key, value, "null, false or 0"));
            }
            self.warn(&format!("unknown key {key} is ignored"));
        }
        Ok(())
    }

    /// Refuses every key of a RoPE object that is not read, these `more` aside: each would change the numbers.
    pub(crate) fn check_rope(&self, more: &[&str]) -> Result<()> {
        for (key, value) in self.map {
            let known = ROPE_KEYS.contains(&key.as_str()) || more.contains(&key.as_str()) || key.starts_with('_');
            if !known && !value.is_null() {
                return Err(self.unsupported(key, value, "no such key"));
            }
        }
        Ok(())
    }

    pub(crate) fn unknown(&self) -> Vec<&'a str> {
        let known = |key: &str| {
            key.starts_with('_')
                || KNOWN.iter().any(|line| line.split(' ').any(|k| k == key))
                || REFUSED.iter().any(|(_, keys)| keys.contains(&key))
        };
        self.map.keys().map(String::as_str).filter(|key| !known(key)).collect()
    }
}

/// Whether an unknown key's name says that it is part of the arithmetic: families name these in many ways.
fn changes_numbers(key: &str) -> bool {
    const PARTS: [&str; 8] = ["dropout", "pdrop", "softcap", "expert", "moe_", "lora_rank", "rotary_p", "text_config"];
    PARTS.iter().any(|p| key.contains(p)) || key.ends_with("bias")
}

fn fail(path: &Path, reason: String) -> Error {
    Error::ModelNotSupported { path: path.to_path_buf(), reason }
}
