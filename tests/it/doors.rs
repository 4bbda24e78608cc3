//! What every door says is what the library says: settings with their defaults, words of events, kinds of errors.

use std::collections::BTreeSet;

use serde_json::Value;
use sftmix::{LoraConfig, TrainConfig};

use crate::support::{json, project};

/// Names of an enum's variants in a source file, by its text.
fn variants(file: &str, head: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(project(file)).unwrap();
    let body = &text[text.find(head).unwrap_or_else(|| panic!("{file} has no {head:?}")) + head.len()..];
    let body = &body[..body.find("\n}").unwrap()];
    let is_variant = |line: &&str| line.starts_with("    ") && line.chars().nth(4).is_some_and(char::is_uppercase);
    body.lines()
        .filter(is_variant)
        .map(|line| line.trim().split(|c: char| !c.is_alphanumeric()).next().unwrap().to_string())
        .collect()
}

#[test]
fn the_schema_has_every_setting_with_its_default() {
    let config = TrainConfig { lora: Some(LoraConfig::default()), ..Default::default() };
    let Value::Object(want) = serde_json::to_value(config).unwrap() else { unreachable!() };
    let schema = json(&project("bindings/schema.json"));
    let found: BTreeSet<&str> =
        schema["settings"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(found, want.keys().map(String::as_str).collect());
    for setting in schema["settings"].as_array().unwrap() {
        let name = setting["name"].as_str().unwrap();
        assert!(setting["doc"].as_str().is_some_and(|doc| doc.len() > 5), "{name} says nothing");
        assert_eq!(setting["default"], want[name], "{name}");
        let value = |word: &str| TrainConfig::setting(name, word.into());
        for word in setting["words"].as_object().into_iter().flatten().map(|(word, _)| word) {
            assert!(value(word).is_ok(), "{name} {word}");
        }
    }
}

#[test]
fn each_error_of_the_library_has_its_kind_in_the_door() {
    let ours = variants("src/error.rs", "pub enum Error {");
    let mut door = variants("bindings/uniffi/src/error.rs", "errors! {");
    assert!(door.remove("Other"));
    assert_eq!(ours, door);
    let mut c = variants("bindings/c/src/fault.rs", "pub enum sftmix_status {");
    for own in ["Ok", "Other", "InvalidArgument", "InvalidHandle", "Forked", "Panic"] {
        assert!(c.remove(own), "{own}");
    }
    assert_eq!(ours, c);
}

#[test]
fn each_event_of_the_library_has_its_kind_in_the_door() {
    let ours = variants("src/job/event.rs", "pub enum Event {");
    let mut door = variants("bindings/uniffi/src/records.rs", "pub enum Event {");
    assert!(door.remove("Other"));
    assert_eq!(ours, door);
    assert_eq!(
        variants("src/job/status.rs", "pub enum JobState {"),
        variants("bindings/uniffi/src/records.rs", "pub enum JobState {")
    );
}

/// The texts of the files with this ending in a folder.
fn sources(folder: &str, ending: &str) -> String {
    let mut files: Vec<_> = std::fs::read_dir(project(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let of = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == ending);
    files.iter().filter(|p| of(p)).map(|p| std::fs::read_to_string(p).unwrap()).collect()
}

/// `share_workers` as `shareWorkers`.
fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut up = false;
    for c in name.chars() {
        match c {
            '_' => up = true,
            c if std::mem::take(&mut up) => out.extend(c.to_uppercase()),
            c => out.push(c),
        }
    }
    out
}

/// Whether a word stands in a text by itself.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

#[test]
fn each_function_of_the_door_is_used_by_each_language() {
    let door = sources("bindings/uniffi/src", "rs");
    let mut names = BTreeSet::new();
    for exported in door.split("#[uniffi::export").skip(1) {
        // A function, or the block of an object's.
        let head = &exported[exported.find("]\n").unwrap() + 2..];
        let end = if head.starts_with("impl ") { head.find("\n}").unwrap() } else { head.find('{').unwrap() };
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let functions = ["pub fn ", "pub async fn "].into_iter().flat_map(|form| head[..end].split(form).skip(1));
        for name in functions.filter_map(|function| function.split(|c| !is_name(c)).next()) {
            // Of the two forms a language takes the one that suits it.
            names.insert(name.trim_end_matches("_async").to_string());
        }
    }
    assert!(names.len() > 30 && names.contains("share_workers") && names.contains("run_slice"), "{names:?}");
    let renamed = std::fs::read_to_string(project("bindings/kotlin/uniffi.toml")).unwrap();
    let kotlin = |name: &str| {
        let new = renamed.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
        new.map_or_else(|| camel(name), |new| new.trim_end_matches('"').to_string())
    };
    type Named<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let languages: [(&str, String, Named); 3] = [
        ("Swift", sources("bindings/swift/Sources/SFTMix", "swift"), Box::new(camel)),
        ("Kotlin", sources("bindings/kotlin/src/main/kotlin/org/sftmix", "kt"), Box::new(kotlin)),
        ("Python", sources("bindings/python/sftmix", "py"), Box::new(str::to_string)),
    ];
    let mut absent = Vec::new();
    for (language, text, named) in &languages {
        for name in &names {
            let name = named(name);
            let forms = [name.clone(), format!("{name}Async"), format!("{name}_async")];
            if !forms.iter().any(|form| has_word(text, form)) {
                absent.push(format!("{language}: {name}"));
            }
        }
    }
    assert!(absent.is_empty(), "{absent:?}");
    // Records and enums: Swift has a name of its own for each, the other languages take them as they are generated.
    let swift = &languages[0].1;
    let records = door.split("uniffi::Record").chain(door.split("uniffi::Enum")).skip(1).filter_map(|rest| {
        let head = rest.split('{').next()?;
        head.split("pub struct ").nth(1).or_else(|| head.split("pub enum ").nth(1)).map(|name| name.trim().to_string())
    });
    let twins =
        door.lines().filter_map(|line| line.trim().split_once(" of sftmix::").map(|(name, _)| name.to_string()));
    let all: BTreeSet<String> = records.chain(twins).filter(|name| name.chars().all(char::is_alphanumeric)).collect();
    assert!(all.len() > 25, "{all:?}");
    let absent: Vec<_> = all.iter().filter(|name| !has_word(swift, name)).collect();
    assert!(absent.is_empty(), "Swift lacks {absent:?}");
}
