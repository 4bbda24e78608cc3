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
