//! Tokenizers as transformers loads them: ids and masks beside its own (`tests/golden/tokens.json`, `masks.json`), with tokens
//! that other files than `tokenizer.json` name, and the same tokens in GGUF files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as Field};
use serde_json::{json, Map, Value};
use sftmix::export::{quantize, QuantType, QuantizeConfig, Quantized};
use sftmix::internal::data::text::chat::{Spans, SpecialTokens};
use sftmix::internal::data::text::{ChatTemplate, Conversation, RenderOptions};
use sftmix::internal::data::tokens::{Tokenizer, TARGET};
use sftmix::{Control, Error, Recipe, TrainConfig, TrainingJob};

use crate::support::{json as read, letters, project, shared};

/// RFC 7386: objects are merged, null takes a key away.
fn patched(value: Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut out = match value {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, change) in changes {
        match (change, out.get(key).cloned()) {
            (Value::Null, _) => drop(out.shift_remove(key)),
            (_, had) => drop(out.insert(key.clone(), patched(had.unwrap_or(Value::Null), change))),
        }
    }
    out.into()
}

/// The folder that the golden's script made: a `tokenizer.json`, and the other files of a folder with what is added.
fn folder(own: &str, tokenizer: &str, files: &Value) -> Option<tempfile::TempDir> {
    let all = shared("tokenizers")?;
    let made = tempfile::tempdir().unwrap();
    let from = all.join(tokenizer).join("tokenizer.json");
    let bytes = std::fs::read(&from).unwrap_or_else(|_| {
        let mut text = Vec::new();
        let packed = std::fs::File::open(from.with_extension("json.gz")).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut text).unwrap();
        text
    });
    std::fs::write(made.path().join("tokenizer.json"), bytes).unwrap();
    let mut names = vec!["config.json", "tokenizer_config.json"];
    names.extend(files.as_object().unwrap().keys().map(String::as_str).filter(|name| *name != "tokenizer_config.json"));
    for name in names {
        let path = all.join(own).join(name);
        let had = if path.exists() { read(&path) } else { json!({}) };
        let content = patched(had, files.get(name).unwrap_or(&json!({})));
        if content != json!({}) {
            std::fs::write(made.path().join(name), content.to_string()).unwrap();
        }
    }
    Some(made)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn ids_are_those_of_transformers_whichever_file_names_the_tokens() {
    let golden = read(&project("tests/golden/tokens.json"));
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let (mut seen, mut folders, mut wrong) = (0, BTreeMap::new(), Vec::new());
    for case in golden["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let Some(made) = folder(text("folder"), text("tokenizer"), &case["files"]) else { return };
        *folders.entry(text("folder").to_string()).or_insert(0) += 1;
        let at = format!("{}, {}", text("folder"), text("name"));
        let tokenizer = match Tokenizer::load(made.path()) {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                wrong.push(format!("{at}: {e}"));
                continue;
            }
        };
        for (text, want) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let whole = [ids(&case["around"]), ids(want)].concat();
            let (inner, around) = (tokenizer.encode_chat(text).unwrap(), tokenizer.encode(text).unwrap());
            if (&inner, &around) != (&ids(want), &whole) {
                wrong.push(format!("{at}: {text:?}: {inner:?}, there {want}; whole {around:?}"));
            }
            seen += 1;
        }
    }
    // transformers' class for Qwen makes the special tokens that have a name anew, without their flags; what an adapter is
    // merged into keeps them.
    let of_qwen = |wrong: &String| {
        wrong.starts_with("qwen") && wrong.contains(", older and special: ") && wrong.contains(r"<pad> [PAD]")
    };
    let (known, wrong): (Vec<String>, Vec<String>) = wrong.into_iter().partition(of_qwen);
    println!("{seen} texts, {} of {folders:?} known to differ", known.len());
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((seen, folders.len(), known.len()), (672, 7, 2), "{known:?}");
}

#[test]
fn masks_are_those_of_transformers_under_every_training_template() {
    let golden = read(&project("tests/golden/masks.json"));
    let (mut seen, mut templates, mut wrong) = (0, Vec::new(), Vec::new());
    for set in golden["sets"].as_array().unwrap() {
        let (name, vocabulary) = (set["template"].as_str().unwrap(), set["tokenizer"].as_str().unwrap());
        let Some(made) = folder(vocabulary, vocabulary, &set["files"]) else { return };
        let tokenizer = Tokenizer::load(made.path()).unwrap();
        let names = &set["files"]["tokenizer_config.json"];
        let special = SpecialTokens::new(names["bos_token"].as_str(), names["eos_token"].as_str())
            .with(tokenizer.special_tokens().all.clone());
        let path = shared("tokenizers/chat_templates").unwrap().join(name).with_extension("jinja");
        let template = ChatTemplate::from_text(&path, std::fs::read_to_string(&path).unwrap(), special).unwrap();
        assert_eq!(template.spans(), Spans::Tags, "{name}");
        templates.push(path.file_name().unwrap().to_owned());
        for chat in set["chats"].as_array().unwrap() {
            let conversation =
                Conversation { messages: chat["messages"].as_array().unwrap().clone(), ..Default::default() };
            let rendered = template.training(&conversation, &RenderOptions::default()).unwrap();
            let row = tokenizer.encode_row(&rendered, 1 << 20).unwrap();
            let found: Vec<u32> = row.windows[0].iter().map(|t| t & !TARGET).collect();
            let mask: String = row.windows[0].iter().map(|t| if t & TARGET != 0 { '1' } else { '0' }).collect();
            let same = (rendered.text.as_str(), mask.as_str())
                == (chat["text"].as_str().unwrap(), chat["mask"].as_str().unwrap());
            if !same || found != ids(&chat["ids"]) {
                wrong.push(format!(
                    "{name}, {vocabulary}, {}: {mask} of {found:?} {:?}\n  there {} of {} {}",
                    chat["name"], rendered.text, chat["mask"], chat["ids"], chat["text"]
                ));
            }
            seen += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(seen, 36);
    // A template with tags that comes to the folder is to be covered too.
    let all = std::fs::read_dir(shared("tokenizers/chat_templates").unwrap()).unwrap();
    let tagged = all
        .map(|entry| entry.unwrap())
        .filter(|entry| std::fs::read_to_string(entry.path()).unwrap().contains("endgeneration"));
    for entry in tagged {
        assert!(templates.contains(&entry.file_name()), "{:?}", entry.file_name());
    }
}

/// The golden llama, of 64 embeddings, with a tokenizer of 29 tokens and further files.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new(files: &[(&str, Value)]) -> Made {
        let made = Made { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(made.at("model")).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(project("tests/golden/llama").join(file), made.at("model").join(file)).unwrap();
        }
        let mut config = read(&made.at("model/config.json"));
        (config["bos_token_id"], config["eos_token_id"]) = (1.into(), 2.into());
        made.write("config.json", &config);
        made.write("tokenizer.json", &letters(&[]));
        files.iter().for_each(|(name, content)| made.write(name, content));
        made
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &Value) {
        let text = content.as_str().map_or_else(|| content.to_string(), String::from);
        std::fs::write(self.at("model").join(name), text).unwrap();
    }

    /// The model as a GGUF file, and what it says of its tokens.
    fn gguf(&self) -> (Quantized, Content) {
        let out = self.at("model.gguf");
        let config = QuantizeConfig { model: self.at("model"), kind: QuantType::F32, out: out.clone() };
        let written = quantize(&config).unwrap();
        (written, Content::read(&mut std::fs::File::open(out).unwrap()).unwrap())
    }
}

fn list(content: &Content, key: &str) -> Vec<Field> {
    content.metadata[&format!("tokenizer.ggml.{key}")].to_vec().unwrap().clone()
}

fn one(content: &Content, key: &str) -> Option<u32> {
    content.metadata.get(&format!("tokenizer.ggml.{key}_token_id")).map(|id| id.to_u32().unwrap())
}

/// Kinds of tokens in ggml.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

#[test]
fn a_gguf_file_has_the_tokens_that_other_files_name() {
    let think = json!({"content": "<think>", "special": false, "normalized": false});
    let end = json!({"content": "<e>", "special": true, "normalized": false, "lstrip": true});
    let decoder = json!({"added_tokens_decoder": {"29": think, "30": end}});
    let (text, more) = ("ab<think>c <e><|x|>", ["<e>", "<think>"]);
    let mut wrong = Vec::new();
    for (name, files, want) in [
        (
            "decoder",
            vec![("tokenizer_config.json", decoder)],
            vec![(29, "<think>", USER_DEFINED), (30, "<e>", CONTROL)],
        ),
        (
            "older",
            vec![
                ("added_tokens.json", json!({"<think>": 29, "<e>": 30})),
                ("special_tokens_map.json", json!({"sep_token": "<e>"})),
            ],
            vec![(29, "<think>", USER_DEFINED), (30, "<e>", CONTROL)],
        ),
        (
            "only named",
            vec![("tokenizer_config.json", json!({"additional_special_tokens": more, "pad_token": "<|x|>"}))],
            vec![(29, "<|x|>", CONTROL), (30, "<e>", CONTROL), (31, "<think>", CONTROL)],
        ),
    ] {
        let made = Made::new(&files);
        let (written, content) = made.gguf();
        let (tokens, kinds) = (list(&content, "tokens"), list(&content, "token_type"));
        for (id, text, kind) in want {
            let found = (tokens[id].to_string().unwrap().as_str(), kinds[id].to_i32().unwrap());
            if found != (text, kind) {
                wrong.push(format!("{name}: {id} is {found:?}, not {text:?} of kind {kind}"));
            }
        }
        let of = |path: &Path| Tokenizer::load(path).unwrap().encode(text).unwrap();
        let (folder, file) = (of(&made.at("model")), of(&made.at("model.gguf")));
        if folder != file || !folder.contains(&29) || !folder.contains(&30) {
            wrong.push(format!("{name}: {folder:?} in the folder, {file:?} in the file"));
        }
        // Only one of them takes in what is before it, which no field tells.
        let said = written.left_out.iter().any(|what| what.contains("lstrip") && what.contains("<e>"));
        if said != (name == "decoder") {
            wrong.push(format!("{name}: {:?}", written.left_out));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // What has no embedding has no place, and that is said.
    let tokens = (29..66).map(|id| (id.to_string(), json!({"content": format!("<t{id}>"), "special": true})));
    let made = Made::new(&[("tokenizer_config.json", json!({"added_tokens_decoder": tokens.collect::<Map<_, _>>()}))]);
    let (written, content) = made.gguf();
    assert_eq!(list(&content, "tokens").len(), 64);
    assert_eq!(list(&content, "tokens")[63].to_string().unwrap(), "<t63>");
    for id in [64, 65] {
        let want = format!("the token \"<t{id}>\": its id {id} is beyond the 64 embeddings");
        assert!(written.left_out.contains(&want), "{:?}", written.left_out);
    }
}

/// `eot_token_id` is where an answer ends by the template; an end token that has no field is told.
#[test]
fn a_gguf_file_names_the_templates_end_of_turn() {
    let added = json!({"added_tokens_decoder": {"29": {"content": "<e>", "special": true}}});
    let generation = json!({"eos_token_id": [2, 5, 29]});
    let ends = |end: &str| {
        let text = format!("{{% for m in messages %}}{{{{ m.role[0] }}}}{{{{ m.content }}}}{end}{{% endfor %}}");
        Some(Value::from(text))
    };
    let mut wrong = Vec::new();
    for (name, template, eot, left) in [
        ("its own", ends("<e>"), Some(29), vec!["c"]),
        ("eos", ends("</s>"), Some(2), vec!["c", "<e>"]),
        ("none", None, Some(5), vec!["<e>"]),
    ] {
        let mut files = vec![("tokenizer_config.json", added.clone()), ("generation_config.json", generation.clone())];
        files.extend(template.map(|template| ("chat_template.jinja", template)));
        let made = Made::new(&files);
        let (written, content) = made.gguf();
        let found = (one(&content, "eos"), one(&content, "eot"));
        if found != (Some(2), eot) {
            wrong.push(format!("{name}: eos and eot are {found:?}"));
        }
        let said =
            |token: &&str| written.left_out.iter().any(|what| what.starts_with(&format!("the end token {token:?}")));
        if ["c", "<e>"].into_iter().filter(|t| said(t)).collect::<Vec<_>>() != left {
            wrong.push(format!("{name}: {:?}", written.left_out));
        }
        let read = Tokenizer::load(made.at("model.gguf")).unwrap();
        let stops: Vec<u32> = [2].into_iter().chain(eot.filter(|id| *id != 2)).collect();
        if read.eos_ids() != stops {
            wrong.push(format!("{name}: read as {:?}", read.eos_ids()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder that has SentencePiece's vocabulary alone is refused before anything is read or written, with the way out.
#[test]
fn a_folder_without_a_tokenizer_json_is_told_how_to_get_one() {
    let made = Made::new(&[("tokenizer.model", "\n\u{e}\n\u{5}<unk>\u{15}".into())]);
    std::fs::remove_file(made.at("model/tokenizer.json")).unwrap();
    std::fs::write(made.at("rows.jsonl"), "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    let config = TrainConfig {
        model: made.at("model"),
        data: made.at("rows.jsonl").into(),
        out: made.at("run"),
        recipe: Recipe::Ntp,
        cache_dir: Some(made.at("cache")),
        ..Default::default()
    };
    let trained = TrainingJob::new(config).and_then(|job| job.run(|_| Control::Continue)).unwrap_err();
    let quantized =
        quantize(&QuantizeConfig { model: made.at("model"), kind: QuantType::F32, out: made.at("model.gguf") })
            .unwrap_err();
    for error in [trained, quantized] {
        assert!(matches!(&error, Error::Tokenizer { path, .. } if path.ends_with("tokenizer.model")), "{error}");
        let said = error.to_string();
        for part in [
            "there is no tokenizer.json",
            "pip install transformers sentencepiece protobuf",
            "python -c",
            "save_pretrained(",
        ] {
            assert!(said.contains(part), "{part:?} in {said}");
        }
    }
    assert!(!made.at("model.gguf").exists());
}
