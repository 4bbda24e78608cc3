//! Templates that write past turns otherwise than those they are trained on, and what they become for training.
//!
//! Qwen3 writes its think block only in turns behind the last question, so past turns would teach the model to answer
//! without one. In the training form every assistant turn has the block, and trains it. Templates are known by their
//! hash; the form is made from the template by edits, each of which must find its place.

/// A template that is known.
struct Known {
    name: &'static str,
    /// blake3 of the template without white space at its end, in hexadecimal.
    hash: &'static str,
    /// What is replaced, and by what; each is there once.
    edits: &'static [(&'static str, &'static str)],
}

const KNOWN: &[Known] = &[Known {
    name: "Qwen3",
    hash: "72a1a5e64f5ff443c86b9332e82c85afd838c9e398b8e8f8bb38579d0e76d892",
    edits: &[
        (
            "{%- if loop.index0 > ns.last_query_index %}",
            "{{- '<|im_start|>' + message.role + '\\n' }}{%- generation %}{%- if true %}",
        ),
        ("{%- if loop.last or (not loop.last and reasoning_content) %}", "{%- if true %}"),
        ("{{- '<|im_start|>' + message.role + '\\n<think>\\n' + ", "{{- '<think>\\n' + "),
        (
            "{{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}",
            "{{- '<|im_end|>\\n' }}{%- endgeneration %}\n    {%- elif message.role == \"tool\" %}",
        ),
    ],
}];

/// Name and training form of a template that is known.
pub(crate) fn of(template: &str) -> Option<(&'static str, String)> {
    let hash = blake3::hash(template.trim_end().as_bytes()).to_hex();
    let known = KNOWN.iter().find(|k| k.hash == hash.as_str())?;
    let mut text = template.to_string();
    for (from, to) in known.edits {
        debug_assert_eq!(text.matches(from).count(), 1, "{}: {from}", known.name);
        text = text.replacen(from, to, 1);
    }
    Some((known.name, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::shared;

    #[test]
    fn every_edit_finds_its_place_once() {
        let Some(path) = shared("tokenizers/qwen3-0.6b/tokenizer_config.json") else { return };
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let template = config["chat_template"].as_str().unwrap();
        assert_eq!(blake3::hash(template.trim_end().as_bytes()).to_hex().as_str(), KNOWN[0].hash);
        for (from, _) in KNOWN[0].edits {
            assert_eq!(template.matches(from).count(), 1, "{from}");
        }
        assert_eq!(of(template).unwrap().0, "Qwen3");
        assert!(of(&template.replacen("user", "User", 1)).is_none());
    }
}
