//! Which files of a model are downloaded: what it is opened with, and nothing else.

use super::client::refused;
use super::name::ModelName;
use super::usable::{is_inside, INDEX, NEEDED, SINGLE};
use crate::error::{Error, Result};

/// What a model is opened with, beside its weights.
const SMALL: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
/// The folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates/";

/// What is downloaded.
#[derive(Debug, PartialEq)]
pub(super) enum Chosen<'a> {
    /// Small files and weights; with an index, its shards are to follow.
    Folder(Vec<&'a str>),
    Gguf(&'a str),
}

/// What of a model's files is needed.
pub(super) fn chosen<'a>(model: &ModelName, files: &'a [String], file: Option<&str>) -> Result<Chosen<'a>> {
    let inside = || files.iter().map(String::as_str).filter(|name| is_inside(name));
    let gguf: Vec<&str> = inside().filter(|name| name.to_ascii_lowercase().ends_with(".gguf")).collect();
    let list = || match gguf.as_slice() {
        [] => "it has no GGUF file".into(),
        all => format!("its GGUF files are {}", all.join(", ")),
    };
    if let Some(file) = file {
        let known = gguf.iter().find(|name| **name == file);
        return known.map(|name| Chosen::Gguf(name)).ok_or_else(|| {
            Error::config("file", format!("expected a GGUF file of the model, found {file:?}; {}", list()))
        });
    }
    let weights = [SINGLE, INDEX].into_iter().find(|name| files.iter().any(|f| f == name));
    match (weights, gguf.as_slice()) {
        (Some(weights), _) => {
            let is_small = |name: &str| {
                SMALL.contains(&name) || name.strip_prefix(TEMPLATES).is_some_and(|rest| rest.ends_with(".jinja"))
            };
            if let Some(name) = NEEDED.iter().find(|name| !files.iter().any(|f| f == *name)) {
                let mut reason = format!("the model has no {name}, which is needed");
                if *name == "tokenizer.json" && files.iter().any(|f| f == "tokenizer.model" || f == "tekken.json") {
                    let ModelName { repo, .. } = model;
                    let revision = model.revision();
                    reason += &format!(
                        "; transformers makes one of the files that it has: pip install transformers sentencepiece protobuf; \
                         python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{repo}', \
                         revision='{revision}').save_pretrained('DIR')\""
                    );
                }
                return Err(refused(&model.to_string(), reason));
            }
            // The weights last: what is wrong with the rest is known before they are read.
            Ok(Chosen::Folder(inside().filter(|name| is_small(name)).chain([weights]).collect()))
        }
        (None, [only]) => Ok(Chosen::Gguf(only)),
        (None, []) => {
            Err(refused(&model.to_string(), format!("the model has neither {SINGLE}, {INDEX} nor a GGUF file")))
        }
        (None, _) => Err(Error::config("file", format!("the model is one of GGUF files, say which; {}", list()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_model_is_opened_with_is_chosen() {
        let name: ModelName = "a/b".parse().unwrap();
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let of = |names: &[&str], file: Option<&str>| match chosen(&name, &list(names), file) {
            Ok(Chosen::Folder(names)) => names.join(" "),
            Ok(Chosen::Gguf(name)) => format!("gguf {name}"),
            Err(e) => format!("error {e}"),
        };
        let mut all = vec![SINGLE, "config.json", "tokenizer.json", "README.md", "pytorch_model.bin", "a.gguf"];
        all.extend(["additional_chat_templates/rag.jinja", "additional_chat_templates/x.py", "../merges.txt", INDEX]);
        let folder = "config.json tokenizer.json additional_chat_templates/rag.jinja model.safetensors";
        assert_eq!(of(&all, None), folder);
        assert_eq!(of(&all, Some("a.gguf")), "gguf a.gguf");
        assert_eq!(of(&[INDEX, "config.json", "tokenizer.json"], None), format!("config.json tokenizer.json {INDEX}"));
        assert_eq!(of(&["config.json", "q/x.GGUF"], None), "gguf q/x.GGUF");
        assert!(of(&[SINGLE, "config.json"], None).contains("a/b: the model has no tokenizer.json"));
        assert!(of(&["config.json", "pytorch_model.bin"], None).contains("neither model.safetensors"));
        assert!(of(&["x.gguf", "y.gguf"], None).contains("say which; its GGUF files are x.gguf, y.gguf"));
        assert!(of(&all, Some("config.json")).contains("found \"config.json\""));
        assert!(of(&["../x.gguf"], Some("../x.gguf")).contains("it has no GGUF file"));
    }
}
