//! What distinguishes the families: which keys each reads, its defaults, and the switches that follow.

use serde_json::Value;

use super::keys::{shown, Keys};
use super::parts::{Layer, QkNorm};
use super::rope::{Reading, Rope};
use crate::error::Result;
use crate::kernels::cpu::elementwise::Gate as Activation;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Family {
    Gemma,
    Gemma2,
    Gemma3,
    Granite,
    Llama,
    Mistral,
    Olmo2,
    Phi3,
    Qwen2,
    Qwen3,
    SmolLm3,
}
use Family::*;

impl Family {
    /// Keys that change the numbers, and that this family's code reads while others ignore them.
    pub fn reads(self) -> &'static [&'static str] {
        match self {
            Gemma => &["hidden_act", "hidden_activation"],
            Gemma2 => &[
                "hidden_act",
                "hidden_activation",
                "query_pre_attn_scalar",
                "attn_logit_softcapping",
                "final_logit_softcapping",
            ],
            Gemma3 => &[
                "hidden_act",
                "hidden_activation",
                "query_pre_attn_scalar",
                "attn_logit_softcapping",
                "final_logit_softcapping",
                "rope_local_base_freq",
                "sliding_window_pattern",
            ],
            Granite => &["attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"],
            Phi3 => &["partial_rotary_factor"],
            SmolLm3 => &["no_rope_layers", "no_rope_layer_interval"],
            Llama | Mistral | Olmo2 | Qwen2 | Qwen3 => &[],
        }
    }

    pub fn is_gemma(self) -> bool {
        matches!(self, Gemma | Gemma2 | Gemma3)
    }

    /// Gemma's later blocks norm what a branch takes and what it gives.
    pub fn has_four_norms(self) -> bool {
        matches!(self, Gemma2 | Gemma3)
    }

    /// Whether the model scales what its embedding module gives, as HF's code of transformers 5.24 has it. In 5.0
    /// Gemma's and Gemma 2's still did; now all Gemmas scale within the module.
    pub fn scales_behind_embedding(self) -> bool {
        self == Granite
    }

    /// `head_dim` where the file has none; `None` is the hidden size over the heads.
    pub fn head_dim(self) -> Option<usize> {
        match self {
            Qwen3 => Some(128),
            Gemma | Gemma2 | Gemma3 => Some(256),
            _ => None,
        }
    }

    pub fn rms_norm_eps(self) -> f64 {
        if matches!(self, Olmo2 | Phi3) {
            1e-5
        } else {
            1e-6
        }
    }

    pub fn ties(self) -> bool {
        self.is_gemma() || self == SmolLm3
    }

    /// Whether `attention_bias` and `mlp_bias` are read.
    pub fn biases(self) -> (bool, bool) {
        (!matches!(self, Mistral | Phi3), matches!(self, Llama | Granite | SmolLm3))
    }

    pub fn qk_norm(self) -> QkNorm {
        match self {
            Qwen3 | Gemma3 => QkNorm::Head,
            Olmo2 => QkNorm::Whole,
            _ => QkNorm::None,
        }
    }

    pub fn activation(self, keys: &Keys) -> Result<Activation> {
        if !self.is_gemma() {
            // Another one has been refused.
            return Ok(Activation::Silu);
        }
        for key in ["hidden_activation", "hidden_act"] {
            let Some(value) = keys.get(key) else { continue };
            match value.as_str() {
                Some("gelu_pytorch_tanh") => {}
                // Gemma's first files say gelu and mean its approximation.
                Some("gelu") if self == Gemma => {}
                _ => return Err(keys.unsupported(key, value, "\"gelu_pytorch_tanh\"")),
            }
        }
        Ok(Activation::GeluTanh)
    }

    /// The rotary embeddings and, for each layer, which of them it uses and its window.
    pub fn layers(self, keys: &Keys, num_layers: usize, head_dim: usize) -> Result<(Vec<Rope>, Vec<Layer>)> {
        let slides = match self {
            Gemma2 => Some(pattern(keys, num_layers, 2)?),
            Gemma3 => {
                let key = "sliding_window_pattern";
                let every = keys.get(key).map_or(Ok(6), |_| keys.size(key))?;
                Some(pattern(keys, num_layers, every)?)
            }
            _ => None,
        };
        let windows = match &slides {
            Some(slides) => {
                let window = match keys.raw("sliding_window") {
                    None => Some(4096),
                    Some(Value::Null) => None,
                    Some(_) => Some(keys.size("sliding_window")?),
                };
                slides.iter().map(|&s| window.filter(|_| s)).collect()
            }
            None => windows(keys, self, num_layers)?,
        };
        let ropes = self.ropes(keys, head_dim)?;
        let mut rope = vec![Some(0); num_layers];
        if self == SmolLm3 {
            rope.iter_mut().zip(rotated(keys, num_layers)?).for_each(|(r, rotates)| *r = r.filter(|_| rotates));
        }
        if let (Gemma3, Some(slides)) = (self, slides) {
            rope = slides.iter().map(|&s| Some(usize::from(s))).collect();
        }
        Ok((ropes, windows.into_iter().zip(rope).map(|(window, rope)| Layer { window, rope }).collect()))
    }

    fn ropes(self, keys: &Keys, head_dim: usize) -> Result<Vec<Rope>> {
        let reading = Reading { top: keys, head_dim, partial: self == Phi3, long: self == Phi3 };
        let (new, old) = (keys.object("rope_parameters")?, keys.object("rope_scaling")?);
        let theta = if self == SmolLm3 { 2e6 } else { 1e4 };
        if self != Gemma3 {
            return Ok(vec![reading.read(new.as_ref(), old.as_ref(), "rope_theta", theta)?]);
        }
        let part = |key: &str| new.as_ref().map_or(Ok(None), |new| new.object(key));
        let (full, sliding) = (part("full_attention")?, part("sliding_attention")?);
        if let Some(new) = new.as_ref().filter(|_| full.is_none() && sliding.is_none()) {
            let shown = keys.get("rope_parameters").map(shown).unwrap_or_default();
            return Err(
                new.fail(format!("rope_parameters: expected full_attention and sliding_attention, found {shown}"))
            );
        }
        for place in [&full, &sliding, &old].into_iter().flatten() {
            // transformers looks for it beside the kinds of layers, and so does not find it.
            if let Some(value) = place.raw("truncate").filter(|v| *v != &Value::Bool(true)) {
                return Err(place.unsupported("truncate", value, "true with \"gemma3_text\""));
            }
        }
        Ok(vec![
            reading.read(full.as_ref(), old.as_ref(), "rope_theta", 1e6)?,
            reading.read(sliding.as_ref(), None, "rope_local_base_freq", 1e4)?,
        ])
    }
}

/// For each layer whether it slides: as `layer_types` says, else all but each `every`th.
fn pattern(keys: &Keys, num_layers: usize, every: usize) -> Result<Vec<bool>> {
    Ok(match keys.layer_types(num_layers)? {
        Some(types) => types,
        None => (1..=num_layers).map(|i| i % every != 0).collect(),
    })
}

/// For each layer whether it rotates queries and keys: SmolLM3 leaves each fourth alone.
fn rotated(keys: &Keys, num_layers: usize) -> Result<Vec<bool>> {
    let key = "no_rope_layers";
    let Some(value) = keys.get(key) else {
        let key = "no_rope_layer_interval";
        let every = keys.get(key).map_or(Ok(4), |_| keys.size(key))?;
        return Ok((1..=num_layers).map(|i| i % every != 0).collect());
    };
    let flag = |v: &Value| v.as_u64().filter(|&n| n <= 1).map(|n| n == 1).or(v.as_bool());
    let flags = value.as_array().and_then(|list| list.iter().map(flag).collect::<Option<Vec<bool>>>());
    let flags = flags.filter(|list| list.len() >= num_layers);
    let expected = format!("a list of at least {num_layers} numbers 0 (no rotation) or 1");
    let mut flags = flags.ok_or_else(|| keys.wrong(key, &expected, Some(value)))?;
    flags.truncate(num_layers);
    Ok(flags)
}

/// As in HF's model code: Mistral has a window on every layer, Qwen and SmolLM3 on their sliding layers if at all;
/// absent: 4096 but for SmolLM3 and Phi-3.
fn windows(keys: &Keys, family: Family, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let read = || match keys.raw("sliding_window") {
        None => Ok((!matches!(family, SmolLm3 | Phi3)).then_some(4096)),
        Some(Value::Null) => Ok(None),
        Some(_) => keys.size("sliding_window").map(Some),
    };
    let always = matches!(family, Mistral | Phi3);
    let use_window = keys.flag("use_sliding_window", always)?;
    let types = keys.layer_types(num_layers)?;
    let window = match family {
        Qwen2 | Qwen3 | SmolLm3 if use_window => read()?,
        Qwen2 | Qwen3 | SmolLm3 => None,
        Mistral | Phi3 => match read()? {
            Some(n) if !use_window => {
                return Err(keys.fail(format!("use_sliding_window false contradicts sliding_window {n}")));
            }
            window => window,
        },
        _ => {
            let name = family.name();
            match (keys.get("sliding_window"), use_window) {
                (Some(value), _) => {
                    return Err(keys.unsupported("sliding_window", value, &format!("null with {name:?}")))
                }
                (None, true) => {
                    let expected = format!("false with {name:?}");
                    return Err(keys.unsupported("use_sliding_window", &Value::Bool(true), &expected));
                }
                (None, false) => None,
            }
        }
    };
    let Some(types) = types else {
        return Ok(match family {
            // Without a list of kinds its layers slide where they do not rotate.
            SmolLm3 => rotated(keys, num_layers)?.into_iter().map(|rotates| window.filter(|_| !rotates)).collect(),
            Qwen2 | Qwen3 => {
                let first = match keys.raw("max_window_layers") {
                    None => 28,
                    Some(_) => keys.size_from("max_window_layers", 0)?,
                };
                (0..num_layers).map(|i| window.filter(|_| i >= first)).collect()
            }
            _ => vec![window; num_layers],
        });
    };
    let layer = |(i, slides): (usize, bool)| match (slides, window) {
        (true, None) => Err(keys.fail(format!("layer_types[{i}] \"sliding_attention\" has no sliding_window"))),
        (false, Some(n)) if always => {
            Err(keys.fail(format!("layer_types[{i}] \"full_attention\" contradicts sliding_window {n}")))
        }
        (slides, window) => Ok(window.filter(|_| slides)),
    };
    types.into_iter().enumerate().map(layer).collect()
}
