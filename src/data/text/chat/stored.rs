//! A model's chat templates, word for word, as they lie in its folder or file: the one place that reads them, for rendering,
//! for hashes, for every export.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The template that is used when none is named.
pub const DEFAULT: &str = "default";
const FILE: &str = "chat_template.jinja";
const FOLDER: &str = "additional_chat_templates";

/// The templates of a model by name: those that a GGUF file holds, or those of `tokenizer_config.json`, and over them
/// `chat_template.jinja` and `additional_chat_templates/`.
///
/// # Errors
/// When a file cannot be read, or is not what it should be.
pub fn model_templates(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if crate::gguf::is_file(dir) {
        let held = crate::gguf::chat_template(dir)?;
        found.extend(held.template.map(|text| (DEFAULT.to_string(), text)));
        found.extend(held.named);
        return Ok(found);
    }
    let path = dir.join("tokenizer_config.json");
    if let Some(text) = read(&path)? {
        let wrong = |reason: String| Error::ChatTemplate { path: path.clone(), reason };
        let config: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("damaged: {e}")))?;
        match config.get("chat_template") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                found.insert(DEFAULT.to_string(), text.clone());
            }
            Some(Value::Array(list)) => {
                for item in list {
                    let text = |key: &str| item.get(key).and_then(Value::as_str).map(String::from);
                    match (text("name"), text("template")) {
                        (Some(name), Some(template)) => found.insert(name, template),
                        _ => return Err(wrong(format!("chat_template: expected name and template, found {item}"))),
                    };
                }
            }
            Some(other) => return Err(wrong(format!("chat_template: expected text or a list, found {other}"))),
        }
    }
    if let Some(text) = read(&dir.join(FILE))? {
        found.insert(DEFAULT.into(), text);
    }
    let folder = dir.join(FOLDER);
    if folder.is_dir() {
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            let name = path.file_stem().and_then(|n| n.to_str()).map(String::from);
            if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str())) {
                found.extend(read(&path)?.map(|text| (name, text)));
            }
        }
    }
    Ok(found)
}

/// Whether a template is another one with marks around what is trained (`{% generation %}`), which change nothing of what
/// it writes.
pub(crate) fn same_but_for_training(trained: &str, own: &str) -> bool {
    let words = |template: &str| {
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find("{%") {
            let end = rest[at..].find("%}").map_or(rest.len(), |n| at + n + 2);
            let name = rest[at..end].trim_start_matches("{%").trim_end_matches("%}");
            let name = name.trim_matches(|c: char| c.is_whitespace() || "+-".contains(c));
            out.push_str(&rest[..if matches!(name, "generation" | "endgeneration") { at } else { end }]);
            rest = &rest[end..];
        }
        out.push_str(rest);
        // A tag stands on a line of its own, or beside white space that it takes away.
        out.retain(|c| !c.is_whitespace());
        out
    };
    words(trained) == words(own)
}

/// Writes templates as Hugging Face lays them out: the default one and those beside it.
pub(crate) fn write_templates(templates: &BTreeMap<String, String>, dir: &Path) -> Result<()> {
    for (name, text) in templates {
        let path = match name.as_str() {
            DEFAULT => dir.join(FILE),
            // A name becomes part of a path.
            n if n.is_empty() || !n.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) => {
                let reason = format!("chat_template: the name {n:?} makes no file name");
                return Err(Error::ChatTemplate { path: dir.into(), reason });
            }
            n => {
                let folder = dir.join(FOLDER);
                fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
                folder.join(format!("{n}.jinja"))
            }
        };
        crate::disk::put(&path, text.as_bytes())?;
    }
    Ok(())
}

/// `None` where there is no such file, or no folder that could hold it.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_come_and_go_word_for_word() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("tokenizer_config.json");
        assert!(model_templates(dir.path()).unwrap().is_empty());
        fs::write(&config, r#"{"chat_template": "a\r\n{{ x }}\n"}"#).unwrap();
        assert_eq!(model_templates(dir.path()).unwrap()[DEFAULT], "a\r\n{{ x }}\n");
        fs::write(
            &config,
            r#"{"chat_template": [{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]}"#,
        )
        .unwrap();
        fs::write(dir.path().join(FILE), "file\r\n").unwrap();
        let found = model_templates(dir.path()).unwrap();
        assert_eq!((found[DEFAULT].as_str(), found["tool_use"].as_str(), found.len()), ("file\r\n", "t", 2));
        let out = tempfile::tempdir().unwrap();
        write_templates(&found, out.path()).unwrap();
        assert_eq!(model_templates(out.path()).unwrap(), found);
        assert_eq!(fs::read(out.path().join(FILE)).unwrap(), b"file\r\n");

        let own = "{% for m in messages %}\n{{ m.content }}{% endfor %}";
        let tagged = "{% for m in messages %}\n{%- generation -%}\n{{ m.content }}{% endgeneration %}{% endfor %}";
        assert!(same_but_for_training(tagged, own) && !same_but_for_training("{{ m }}", own));

        let bad = BTreeMap::from([("../x".to_string(), String::new())]);
        assert!(write_templates(&bad, out.path()).unwrap_err().to_string().contains("../x"));
        for bad in [r#"{"chat_template": 1}"#, r#"{"chat_template": [1]}"#, "{"] {
            fs::write(&config, bad).unwrap();
            assert!(matches!(model_templates(dir.path()), Err(Error::ChatTemplate { .. })), "{bad}");
        }
    }
}
