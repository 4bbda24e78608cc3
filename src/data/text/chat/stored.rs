//! A model's chat templates, word for word, as they lie in its folder or file: the one place that reads them, for rendering,
//! for hashes, for every export.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::ModelFiles;

/// The template that is used when none is named.
pub const DEFAULT: &str = "default";
const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "chat_template.jinja";
const FOLDER: &str = "additional_chat_templates";

/// The templates of a model by name: those that a GGUF file holds, or those of `tokenizer_config.json`, and over them
/// `chat_template.jinja` and `additional_chat_templates/`.
///
/// # Errors
/// When a file cannot be read, or is not what it should be.
pub fn model_templates(files: &ModelFiles) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if let Some(file) = files.gguf() {
        let held = crate::gguf::chat_template_of(file)?;
        found.extend(held.template.map(|text| (DEFAULT.to_string(), text)));
        found.extend(held.named);
        return Ok(found);
    }
    let wrong = |reason: String| Error::ChatTemplate { path: files.place(CONFIG), reason };
    match files.json(CONFIG)?.get("chat_template") {
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
    found.extend(files.text(FILE)?.map(|text| (DEFAULT.to_string(), text)));
    found.extend(files.additional_templates()?);
    Ok(found)
}

/// The default template that lies in a folder as [`write_templates`] puts it; `None` where there is none.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn read_template(dir: &Path) -> Result<Option<String>> {
    let bytes = crate::disk::read_if_there(&dir.join(FILE))?;
    Ok(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(dir: &Path) -> Result<BTreeMap<String, String>> {
        model_templates(&ModelFiles::open(dir)?)
    }

    #[test]
    fn templates_come_and_go_word_for_word() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("tokenizer_config.json");
        assert!(templates(dir.path()).unwrap().is_empty());
        fs::write(&config, r#"{"chat_template": "a\r\n{{ x }}\n"}"#).unwrap();
        assert_eq!(templates(dir.path()).unwrap()[DEFAULT], "a\r\n{{ x }}\n");
        fs::write(
            &config,
            r#"{"chat_template": [{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]}"#,
        )
        .unwrap();
        fs::write(dir.path().join(FILE), "file\r\n").unwrap();
        let found = templates(dir.path()).unwrap();
        assert_eq!((found[DEFAULT].as_str(), found["tool_use"].as_str(), found.len()), ("file\r\n", "t", 2));
        let out = tempfile::tempdir().unwrap();
        write_templates(&found, out.path()).unwrap();
        assert_eq!(templates(out.path()).unwrap(), found);
        assert_eq!(fs::read(out.path().join(FILE)).unwrap(), b"file\r\n");

        let own = "{% for m in messages %}\n{{ m.content }}{% endfor %}";
        let tagged = "{% for m in messages %}\n{%- generation -%}\n{{ m.content }}{% endgeneration %}{% endfor %}";
        assert!(same_but_for_training(tagged, own) && !same_but_for_training("{{ m }}", own));

        let bad = BTreeMap::from([("../x".to_string(), String::new())]);
        assert!(write_templates(&bad, out.path()).unwrap_err().to_string().contains("../x"));
        for bad in [r#"{"chat_template": 1}"#, r#"{"chat_template": [1]}"#] {
            fs::write(&config, bad).unwrap();
            assert!(matches!(templates(dir.path()), Err(Error::ChatTemplate { .. })), "{bad}");
        }
        fs::write(&config, "{").unwrap();
        assert!(matches!(templates(dir.path()), Err(Error::ModelFormat { path, .. }) if path == config));
    }
}
