//! Which family a `config.json` is of.

use serde_json::Value;

use super::families::Family::{self, *};
use super::keys::{shown, Keys};
use crate::error::Result;

/// The families that can be loaded.
pub(crate) const FAMILIES: [Family; 11] =
    [Gemma, Gemma2, Gemma3, Granite, Llama, Mistral, Olmo2, Phi3, Qwen2, Qwen3, SmolLm3];

impl Family {
    /// Its `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Gemma => "gemma",
            Gemma2 => "gemma2",
            Gemma3 => "gemma3_text",
            Granite => "granite",
            Llama => "llama",
            Mistral => "mistral",
            Olmo2 => "olmo2",
            Phi3 => "phi3",
            Qwen2 => "qwen2",
            Qwen3 => "qwen3",
            SmolLm3 => "smollm3",
        }
    }

    /// The class of its causal models in transformers, as `architectures` names it.
    pub fn architecture(self) -> &'static str {
        match self {
            Gemma => "GemmaForCausalLM",
            Gemma2 => "Gemma2ForCausalLM",
            Gemma3 => "Gemma3ForCausalLM",
            Granite => "GraniteForCausalLM",
            Llama => "LlamaForCausalLM",
            Mistral => "MistralForCausalLM",
            Olmo2 => "Olmo2ForCausalLM",
            Phi3 => "Phi3ForCausalLM",
            Qwen2 => "Qwen2ForCausalLM",
            Qwen3 => "Qwen3ForCausalLM",
            SmolLm3 => "SmolLM3ForCausalLM",
        }
    }
}

/// The family that `config.json` names: its `model_type`, which decides in transformers' `AutoConfig` too, whatever
/// `architectures` says. Where it is absent, the first of `architectures` tells; that is said, and so is a
/// disagreement, since other programs go by `architectures`.
///
/// # Errors
/// [`Error::ModelNotSupported`](crate::Error::ModelNotSupported) names both keys where neither is there or known.
pub(crate) fn family_of(keys: &Keys) -> Result<Family> {
    let known = || FAMILIES.map(|f| format!("{} ({})", f.name(), f.architecture())).join(", ");
    let listed = keys.get("architectures");
    let first = listed.and_then(|list| list.get(0)).and_then(Value::as_str);
    let by_architecture = FAMILIES.into_iter().find(|f| first == Some(f.architecture()));
    if keys.get("model_type").is_some() {
        let model_type = keys.text("model_type")?;
        let Some(family) = FAMILIES.into_iter().find(|f| f.name() == model_type) else {
            let names = FAMILIES.map(Family::name).join(", ");
            let found = shown(&Value::from(model_type));
            return Err(keys.fail(format!("model_type {found} is not one of those supported: {names}")));
        };
        if let Some(other) = by_architecture.filter(|other| *other != family) {
            let (class, other) = (other.architecture(), other.name());
            keys.warn(&format!("architectures {class:?} is the family {other}; model_type {model_type:?} decides"));
        }
        return Ok(family);
    }
    match (by_architecture, listed) {
        (Some(family), _) => {
            let (class, name) = (family.architecture(), family.name());
            keys.warn(&format!("model_type is absent; architectures {class:?} is the family {name}"));
            Ok(family)
        }
        (None, Some(listed)) => Err(keys.fail(format!(
            "model_type is absent, and architectures {} is not one of those supported: {}",
            shown(listed),
            known()
        ))),
        (None, None) => Err(keys.fail(format!("model_type and architectures are absent; supported are {}", known()))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn found(config: Value) -> std::result::Result<&'static str, String> {
        let keys = Keys::new(&config, Path::new("config.json")).unwrap();
        family_of(&keys).map(Family::name).map_err(|e| e.to_string())
    }

    #[test]
    fn model_type_decides_and_without_it_the_architecture() {
        let list = "gemma (GemmaForCausalLM), gemma2 (Gemma2ForCausalLM), gemma3_text (Gemma3ForCausalLM), granite \
                    (GraniteForCausalLM), llama (LlamaForCausalLM), mistral (MistralForCausalLM), olmo2 \
                    (Olmo2ForCausalLM), phi3 (Phi3ForCausalLM), qwen2 (Qwen2ForCausalLM), qwen3 (Qwen3ForCausalLM), \
                    smollm3 (SmolLM3ForCausalLM)";
        let neither = format!("model_type and architectures are absent; supported are {list}");
        let unknown = |shown: &str| {
            format!("model_type is absent, and architectures {shown} is not one of those supported: {list}")
        };
        let unsupported =
            "model_type \"gpt2\" is not one of those supported: gemma, gemma2, gemma3_text, granite, llama, \
                           mistral, olmo2, phi3, qwen2, qwen3, smollm3";
        let mut wrong = Vec::new();
        for (config, want) in [
            (json!({"architectures": ["LlamaForCausalLM"]}), Ok("llama")),
            (json!({"architectures": ["SmolLM3ForCausalLM"]}), Ok("smollm3")),
            (json!({"model_type": null, "architectures": ["Gemma3ForCausalLM"]}), Ok("gemma3_text")),
            // Renamed by who tuned it, or another family's: transformers goes by model_type.
            (json!({"model_type": "qwen3", "architectures": ["MyTunedModel"]}), Ok("qwen3")),
            (json!({"model_type": "mistral", "architectures": ["LlamaForCausalLM"]}), Ok("mistral")),
            (json!({"model_type": "llama", "architectures": null}), Ok("llama")),
            (json!({"model_type": "gpt2", "architectures": ["LlamaForCausalLM"]}), Err(unsupported.to_string())),
            (json!({"model_type": 3}), Err("model_type: expected a string, found 3".into())),
            (json!({"architectures": ["GPT2LMHeadModel"]}), Err(unknown("[\"GPT2LMHeadModel\"]"))),
            // Not a causal model, and not the first.
            (
                json!({"architectures": ["LlamaForSequenceClassification"]}),
                Err(unknown("[\"LlamaForSequenceClassification\"]")),
            ),
            (json!({"architectures": ["X", "LlamaForCausalLM"]}), Err(unknown("[\"X\",\"LlamaForCausalLM\"]"))),
            (json!({"architectures": []}), Err(unknown("[]"))),
            (json!({"architectures": "LlamaForCausalLM"}), Err(unknown("\"LlamaForCausalLM\""))),
            (json!({}), Err(neither.clone())),
            (json!({"model_type": null, "architectures": null}), Err(neither)),
        ] {
            let want = want.map_err(|reason| format!("config.json: model not supported: {reason}"));
            let shown = config.to_string();
            let found = found(config);
            if found != want {
                wrong.push(format!("{shown}: expected {want:?}, found {found:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn every_family_has_names_of_its_own_and_is_found_by_both() {
        for (i, family) in FAMILIES.into_iter().enumerate() {
            let other = |f: &Family| f.name() == family.name() || f.architecture() == family.architecture();
            assert!(!FAMILIES[..i].iter().any(other), "{family:?}");
            assert_eq!(found(json!({"model_type": family.name()})), Ok(family.name()));
            assert_eq!(found(json!({"architectures": [family.architecture()]})), Ok(family.name()));
        }
    }

    /// What a message lists as supported can be loaded.
    #[test]
    fn gguf_lists_families_that_are_read() {
        for name in crate::gguf::Architecture::names() {
            let arch = crate::gguf::Architecture::named(name).unwrap();
            assert!(FAMILIES.iter().any(|f| f.name() == arch.model_type), "{name}");
        }
    }
}
