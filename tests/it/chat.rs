//! Chat templates, ids and masks of real tokenizers against transformers' (`golden_*.json` in shared/tokenizers),
//! and conversations from rows to tokens.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{json, Value};
use sftmix::internal::data::text::chat::{Spans, SpecialTokens};
use sftmix::internal::data::text::Rendered;
use sftmix::internal::data::text::{ChatTemplate, Conversation, RenderOptions};
use sftmix::internal::data::tokens::{StoreRequest, TokenStore, Tokenizer, TARGET};
use sftmix::{Control, DataOptions, Error, Recipe, TrainConfig, TrainingJob};

use crate::support::{json as read, shared};

/// A model's folder of tokenizer files, completed where the shared one is not whole.
pub struct Folder {
    pub path: PathBuf,
    _made: Option<tempfile::TempDir>,
}

pub fn folder(name: &str) -> Option<Folder> {
    let dir = shared("tokenizers")?.join(name);
    if dir.join("tokenizer.json").exists() {
        return Some(Folder { path: dir, _made: None });
    }
    let made = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer_config.json"] {
        std::fs::copy(dir.join(file), made.path().join(file)).unwrap();
    }
    let tokenizer = if dir.join("tokenizer.json.gz").exists() {
        let mut text = Vec::new();
        let file = std::fs::File::open(dir.join("tokenizer.json.gz")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap();
        text
    } else {
        // Qwen3 has Qwen2.5's vocabulary and four more added tokens.
        let mut tokenizer = read(&dir.with_file_name("qwen2.5-0.5b-instruct").join("tokenizer.json"));
        let own = read(&dir.join("tokenizer_config.json"));
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let known: BTreeSet<u64> = added.iter().map(|t| t["id"].as_u64().unwrap()).collect();
        for (id, token) in own["added_tokens_decoder"].as_object().unwrap() {
            let id: u64 = id.parse().unwrap();
            if !known.contains(&id) {
                let mut token = token.clone();
                token["id"] = id.into();
                added.push(token);
            }
        }
        assert_eq!(added.len(), known.len() + 4);
        serde_json::to_vec(&tokenizer).unwrap()
    };
    std::fs::write(made.path().join("tokenizer.json"), tokenizer).unwrap();
    Some(Folder { path: made.path().into(), _made: Some(made) })
}

fn golden(name: &str, file: &str) -> Value {
    read(&shared("tokenizers").unwrap().join(name).join(file))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn conversation(case: &Value) -> Conversation {
    Conversation {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: case["tools"].as_array().cloned(),
        ..Default::default()
    }
}

#[test]
fn rendered_texts_and_ids_are_the_goldens() {
    let mut cases = 0;
    for name in [
        "qwen2.5-0.5b-instruct",
        "qwen3-0.6b",
        "mistral-7b-instruct-v0.3",
        "phi-3-mini-4k-instruct",
        "llama-3.2-1b-instruct",
        "minimind",
    ] {
        let Some(folder) = folder(name) else { return };
        let tokenizer = Tokenizer::load(&folder.path).unwrap();
        let template = ChatTemplate::from_dir(&folder.path).unwrap().unwrap();
        for case in golden(name, "golden_chat.json").as_array().unwrap() {
            let options = RenderOptions {
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                clock: Some(UNIX_EPOCH + Duration::from_secs(1_721_995_200)), // 26 Jul 2024
                ..Default::default()
            };
            let text = template.render(&conversation(case), &options).unwrap().text;
            assert_eq!(text, case["text"].as_str().unwrap(), "{name} {}", case["name"]);
            assert_eq!(tokenizer.encode_chat(&text).unwrap(), ids(&case["ids"]), "{name} {}", case["name"]);
            cases += 1;
        }
    }
    assert_eq!(cases, 36);
}

#[test]
fn encodings_are_the_goldens() {
    for (name, least) in [("qwen2.5-0.5b-instruct", 45), ("phi-3-mini-4k-instruct", 45), ("llama-3.2-1b-instruct", 45)]
    {
        let Some(folder) = folder(name) else { return };
        let tokenizer = Tokenizer::load(&folder.path).unwrap();
        let golden = golden(name, "golden_encodings.json");
        assert!(golden.as_array().unwrap().len() >= least);
        for case in golden.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode_chat(text).unwrap(), ids(&case["ids"]), "{name} {text:?}");
        }
    }
}

/// The mask as transformers takes it from spans: from the token that holds a span's first character to the one that
/// holds its last.
fn transformers_mask(tokenizer: &tokenizers::Tokenizer, rendered: &Rendered) -> Vec<bool> {
    let encoding = tokenizer.encode_char_offsets(rendered.text.as_str(), false).unwrap();
    let mut mask = vec![false; encoding.len()];
    for span in &rendered.spans {
        let char_at = |byte: usize| rendered.text[..byte].chars().count();
        let token = |at: usize| encoding.char_to_token(at, 0);
        let Some(start) = token(char_at(span.start)) else { break };
        let end = token(char_at(span.end) - 1).map_or(mask.len(), |t| t + 1);
        mask[start..end].fill(true);
    }
    mask
}

/// Ids, and which of them the library trains.
fn ours(tokenizer: &Tokenizer, rendered: &Rendered) -> (Vec<u32>, Vec<bool>) {
    let row = tokenizer.encode_row(rendered, 1 << 20).unwrap();
    assert_eq!((row.windows.len(), row.cut), (1, false));
    row.windows[0].iter().map(|t| (t & !TARGET, t & TARGET != 0)).unzip()
}

/// The trained tokens, each run of them as text.
fn runs(tokenizer: &Tokenizer, ids: &[u32], mask: &[bool]) -> Vec<String> {
    let places: Vec<usize> = (0..ids.len()).filter(|&i| mask[i]).collect();
    let runs = places.chunk_by(|a, b| a + 1 == *b);
    runs.map(|run| tokenizer.decode(&run.iter().map(|&i| ids[i]).collect::<Vec<_>>(), false).unwrap()).collect()
}

const MASKED: [&str; 4] = ["qwen2.5-0.5b-instruct", "qwen3-0.6b", "llama-3.2-1b-instruct", "phi-3-mini-4k-instruct"];

#[test]
fn masks_of_training_templates_are_the_goldens() {
    let mut differing = Vec::new();
    let mut cases = 0;
    for name in MASKED {
        let Some(folder) = folder(name) else { return };
        let tokenizer = Tokenizer::load(&folder.path).unwrap();
        let theirs = tokenizers::Tokenizer::from_file(folder.path.join("tokenizer.json")).unwrap();
        let golden = golden(name, "golden_masks.json");
        let file = shared("tokenizers").unwrap().join(golden["template"].as_str().unwrap());
        let special = SpecialTokens::new(golden["bos_token"].as_str(), golden["eos_token"].as_str())
            .with(tokenizer.special_tokens().all.clone());
        let template = ChatTemplate::from_text(&file, std::fs::read_to_string(&file).unwrap(), special).unwrap();
        assert_eq!(template.spans(), Spans::Tags);
        for case in golden["chats"].as_array().unwrap() {
            let at = format!("{name} {}", case["name"].as_str().unwrap());
            let rendered = template.training(&conversation(case), &RenderOptions::default()).unwrap();
            assert_eq!(rendered.text, case["text"].as_str().unwrap(), "{at}");
            let want: Vec<bool> = case["mask"].as_array().unwrap().iter().map(|m| *m == 1).collect();
            assert_eq!(transformers_mask(&theirs, &rendered), want, "{at}: transformers' rule");
            let (found, mask) = ours(&tokenizer, &rendered);
            assert_eq!(found, ids(&case["ids"]), "{at}");
            for i in (0..mask.len()).filter(|&i| mask[i] != want[i]) {
                assert!(want[i], "{at}: token {i} is trained here only");
                differing.push((at.clone(), tokenizer.decode(&[found[i]], false).unwrap()));
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 40);
    // Our rule does not train an added token that begins before the span. Phi-3's role marker swallows the white
    // space that an answer begins with: transformers trains the marker there.
    let marker = "<|assistant|>".to_string();
    assert_eq!(
        differing,
        [
            ("phi-3-mini-4k-instruct leading_space".to_string(), marker.clone()),
            ("phi-3-mini-4k-instruct leading_newline".to_string(), marker),
        ]
    );
}

/// A model's own template, without generation tags, must train what TRL's training template of it trains, but for the
/// line ends and the end of the text that the latter takes in.
#[test]
fn own_templates_train_what_training_templates_train() {
    for name in MASKED {
        let Some(folder) = folder(name) else { return };
        let tokenizer = Tokenizer::load(&folder.path).unwrap();
        let template = ChatTemplate::new(tokenizer.chat_source().unwrap().clone()).unwrap();
        let twin = name == "qwen3-0.6b";
        assert_eq!(template.spans(), if twin { Spans::Twin("Qwen3") } else { Spans::Marks });
        for case in golden(name, "golden_masks.json")["chats"].as_array().unwrap() {
            let at = format!("{name} {}", case["name"].as_str().unwrap());
            let rendered = template.training(&conversation(case), &RenderOptions::default()).unwrap();
            let (ids, mask) = ours(&tokenizer, &rendered);
            let found = runs(&tokenizer, &ids, &mask);
            let want: Vec<&str> = case["masked_text"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
            if twin {
                assert_eq!(
                    (rendered.text.as_str(), found),
                    (case["text"].as_str().unwrap(), want.iter().map(|t| t.to_string()).collect()),
                    "{at}"
                );
                continue;
            }
            let bare = |text: &str| {
                let text =
                    text.trim_end_matches("<|endoftext|>").trim_start_matches("<|assistant|>").trim_matches('\n');
                // SentencePiece's decoder drops a blank at the start, which behind the marker is none.
                if name.starts_with("phi-3") { text.trim_start_matches(' ') } else { text }.to_string()
            };
            let want: Vec<String> = want.iter().map(|t| bare(t)).collect();
            assert_eq!(found.iter().map(|t| bare(t)).collect::<Vec<_>>(), want, "{at}");
            assert!(
                found.iter().all(|t| t.ends_with(template.end_token(&RenderOptions::default()).unwrap().as_str())),
                "{at}: {found:?}"
            );
        }
    }
}

/// Templates of further families, by text: an answer with white space about it, and one more.
#[test]
fn templates_of_other_families_tell_their_answers() {
    let Some(dir) = shared("tokenizers/chat_templates") else { return };
    let special = |bos: &str, eos: &str, more: &[&str]| {
        SpecialTokens::new(Some(bos), Some(eos)).with(more.iter().map(|t| t.to_string()))
    };
    let chatml = special("<s>", "<|im_end|>", &["<|im_start|>", "<|im_end|>"]);
    let gemma = special("<bos>", "<eos>", &["<start_of_turn>", "<end_of_turn>"]);
    let header = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
    let llama = special("<|begin_of_text|>", "<|end_of_text|>", &header);
    let phi = special("<s>", "<|endoftext|>", &["<|user|>", "<|assistant|>", "<|end|>"]);
    let chat =
        Conversation::default().with("user", "a").with("assistant", " b\n").with("user", "c").with("assistant", "d");
    for (file, special, end, trims) in [
        ("gemma", &gemma, "<end_of_turn>", true),
        ("gemma3", &gemma, "<end_of_turn>", true),
        ("llama3", &llama, "<|eot_id|>", true),
        ("llama3_1", &llama, "<|eot_id|>", true),
        ("phi3_5", &phi, "<|end|>", false),
        ("qwen3_instruct_2507", &chatml, "<|im_end|>", false),
        ("smollm2", &chatml, "<|im_end|>", false),
    ] {
        let path = dir.join(file).with_extension("jinja");
        let text = std::fs::read_to_string(&path).unwrap();
        let template = ChatTemplate::from_text(&path, text, special.clone()).unwrap();
        let rendered = template.training(&chat, &RenderOptions::default()).unwrap();
        assert_eq!(template.end_token(&RenderOptions::default()).unwrap(), end, "{file}");
        let found: Vec<&str> = rendered.spans.iter().map(|s| &rendered.text[s.clone()]).collect();
        let first = if trims { "b" } else { " b\n" };
        assert_eq!(found, [format!("{first}{end}"), format!("d{end}")], "{file}");
    }
    let Some(folder) = folder("mistral-7b-instruct-v0.3") else { return };
    let tokenizer = Tokenizer::load(&folder.path).unwrap();
    let template = ChatTemplate::new(tokenizer.chat_source().unwrap().clone()).unwrap();
    let mut chat = Conversation::default().with("user", "a").with("assistant", " b").with("user", "c");
    let call = json!({"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
    chat.messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
    chat.messages.push(json!({"role": "tool", "content": "2", "tool_call_id": "abcdefghi"}));
    let chat = chat.with("assistant", "d");
    let rendered = template.training(&chat, &RenderOptions::default()).unwrap();
    let found: Vec<&str> = rendered.spans.iter().map(|s| &rendered.text[s.clone()]).collect();
    let call = "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"x\": 1}, \"id\": \"abcdefghi\"}]</s>";
    assert_eq!(found, ["  b</s>", call, "d</s>"]);
}

/// Rows to a store, in a folder of its own.
fn store(
    tokenizer: &Tokenizer,
    rows: &[Value],
    options: &DataOptions,
    max_length: usize,
    cache: &Path,
) -> Result<TokenStore, Error> {
    let data = cache.join("rows.jsonl");
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(&data, text).unwrap();
    TokenStore::open_or_build(&StoreRequest {
        data: &data,
        template: None,
        options,
        tokenizer,
        max_length,
        cache_dir: &cache.join("cache"),
        threads: 2,
        stop: &|_| false,
    })
}

fn example(store: &TokenStore, tokenizer: &Tokenizer, i: usize) -> (String, Vec<String>) {
    let example = store.example(i);
    let ids: Vec<u32> = example.ids().collect();
    let mask: Vec<bool> = (0..ids.len()).map(|p| example.is_target(p)).collect();
    (tokenizer.decode(&ids, false).unwrap(), runs(tokenizer, &ids, &mask))
}

fn turns(list: &[(&str, &str)]) -> Value {
    list.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

#[test]
fn rows_are_written_by_the_models_template() {
    let Some(folder) = folder("minimind") else { return };
    let tokenizer = Tokenizer::load(&folder.path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = DataOptions::default();
    let rows = [
        json!({"messages": turns(&[("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", " So long\n")])}),
        json!({"messages": turns(&[("user", "Hi")])}),
        json!({"messages": turns(&[("user", ""), ("assistant", "")])}),
        json!({"messages": [{"role": "user", "content": "2+2?"},
               {"role": "assistant", "content": "4.", "reasoning_content": "Easy."}]}),
    ];
    let made = store(&tokenizer, &rows, &options, 512, dir.path()).unwrap();
    let counts = made.counts();
    assert_eq!((counts.rows, counts.kept, counts.no_target, counts.empty), (4, 2, 1, 1));
    let (text, trained) = example(&made, &tokenizer, 0);
    assert!(text.starts_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{text}");
    assert!(text.ends_with("<|im_end|>\n"), "{text}");
    assert_eq!(trained.len(), 2);
    assert!(trained[0].ends_with("Hello.<|im_end|>") && trained[1].ends_with(" So long\n<|im_end|>"), "{trained:?}");
    assert!(example(&made, &tokenizer, 1).1[0].contains("Easy."));
    let chat = made.chat().unwrap();
    assert_eq!((chat.format.as_str(), chat.hash.as_ref().unwrap().len()), ("template", 64));
    // The text of a row is found again, by the same template.
    let again = made.source_rows(&[1]).unwrap();
    assert_eq!(again[&1].hash(0), made.example(0).text_hash);
    // A cut in the middle of an answer keeps what is before it, and is counted.
    let short = store(&tokenizer, &rows[..1], &options, made.example(0).tokens.len() - 4, dir.path()).unwrap();
    let (_, trained) = example(&short, &tokenizer, 0);
    assert_eq!((short.counts().cut, trained.len()), (1, 2));
    assert!(!trained[1].ends_with("<|im_end|>"), "{trained:?}");
    // A model without a template keeps the plain role format.
    let mut bare = Tokenizer::load(&folder.path).unwrap();
    bare.set_chat_source(None);
    let plain = store(&bare, &rows[..1], &options, 512, dir.path()).unwrap();
    assert_eq!(example(&plain, &bare, 0).1, ["Hello.<|im_end|>", " So long\n<|im_end|>"]);
    assert_eq!(plain.chat().unwrap().format, "plain");
    assert_ne!(plain.hash(), made.hash());
}

#[test]
fn lists_of_messages_train_the_completion_only() {
    let Some(folder) = folder("phi-3-mini-4k-instruct") else { return };
    let tokenizer = Tokenizer::load(&folder.path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let row = json!({
        "prompt": turns(&[("user", "a"), ("assistant", "b"), ("user", "c")]),
        "completion": turns(&[("assistant", "d"), ("user", "e"), ("assistant", "f")]),
    });
    let file = shared("tokenizers/chat_templates/phi3_training.jinja").unwrap();
    let training = DataOptions { chat_template: Some(file), ..Default::default() };
    let own = store(&tokenizer, std::slice::from_ref(&row), &DataOptions::default(), 512, dir.path()).unwrap();
    assert_eq!(example(&own, &tokenizer, 0).1, ["d<|end|>", "f<|end|>"]);
    let theirs = store(&tokenizer, std::slice::from_ref(&row), &training, 512, dir.path()).unwrap();
    assert_eq!(example(&theirs, &tokenizer, 0).1, ["d<|end|>", "f<|end|><|endoftext|>"]);
    // The same text, but another template: not the same store.
    assert_eq!(theirs.example(0).ids().collect::<Vec<_>>(), own.example(0).ids().collect::<Vec<_>>());
    assert_ne!(theirs.hash(), own.hash());
    let mut bare = Tokenizer::load(&folder.path).unwrap();
    bare.set_chat_source(None);
    let plain = store(&bare, std::slice::from_ref(&row), &DataOptions::default(), 512, dir.path()).unwrap();
    assert_eq!(example(&plain, &bare, 0).1, ["d<|endoftext|>", "f<|endoftext|>"]);
    let e =
        store(&tokenizer, &[row, json!({"prompt": "x", "completion": "y"})], &training, 512, dir.path()).unwrap_err();
    assert!(e.to_string().ends_with("row 2: prompt: expected an array, found a string"), "{e}");
}

#[test]
fn what_a_template_refuses_names_the_row() {
    let Some(folder) = folder("mistral-7b-instruct-v0.3") else { return };
    let tokenizer = Tokenizer::load(&folder.path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = DataOptions::default();
    let fails = |rows: &[Value], options: &DataOptions| store(&tokenizer, rows, options, 512, dir.path()).unwrap_err();
    let good = json!({"messages": turns(&[("user", "Hi"), ("assistant", "Hello.")])});
    let bad = json!({"messages": turns(&[("assistant", "Hello."), ("user", "Hi")])});
    let e = fails(&[good.clone(), bad], &options);
    assert!(matches!(e, Error::DataInvalid { row: 2, .. }), "{e}");
    assert!(
        e.to_string()
            .ends_with("the chat template refuses it: Conversation must start with a user message, got assistant."),
        "{e}"
    );
    let twice = dir.path().join("twice.jinja");
    std::fs::write(&twice, "{{ bos_token + bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
        .unwrap();
    let e =
        fails(std::slice::from_ref(&good), &DataOptions { chat_template: Some(twice.clone()), ..Default::default() });
    assert!(
        matches!(e, Error::DataInvalid { row: 1, .. }) && e.to_string().contains("two beginning tokens, <s>"),
        "{e}"
    );
    let e = fails(&[json!({"text": "a"})], &DataOptions { chat_template: Some(twice), ..Default::default() });
    assert!(matches!(&e, Error::InvalidConfig { field, .. } if field == "chat_template"), "{e}");
    let broken = dir.path().join("broken.jinja");
    std::fs::write(&broken, "{% if %}").unwrap();
    let e = fails(std::slice::from_ref(&good), &DataOptions { chat_template: Some(broken), ..Default::default() });
    assert!(matches!(e, Error::ChatTemplate { .. }), "{e}");
    let e = fails(&[good], &DataOptions { chat_template: Some("none".into()), ..Default::default() });
    assert!(matches!(e, Error::Io { .. }), "{e}");
}

#[test]
fn a_run_records_its_template_and_holds_on_to_it() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.jinja");
    let text = "{% for m in messages %}{{ m.role + ': ' + m.content + (eos_token if m.role == 'assistant' else '\n') }}{% endfor %}";
    std::fs::write(&file, text).unwrap();
    let data = dir.path().join("rows.jsonl");
    let row =
        |i: usize| json!({"messages": turns(&[("user", "One day"), ("assistant", &format!("Tim saw {i} cats."))])});
    std::fs::write(&data, (0..8).map(|i| format!("{}\n", row(i))).collect::<String>()).unwrap();
    let config = |name: &str, template: Option<PathBuf>| TrainConfig {
        model: model.clone(),
        data: data.clone().into(),
        out: dir.path().join(name),
        recipe: Recipe::Ntp,
        max_length: 64,
        batch_size: 4,
        epochs: 1,
        threads: Some(2),
        data_options: DataOptions { chat_template: template, ..Default::default() },
        ..Default::default()
    };
    for (name, template) in [("own", Some(file.clone())), ("plain", None)] {
        let report = TrainingJob::new(config(name, template.clone())).unwrap().run(|_| Control::Continue).unwrap();
        assert_eq!(report.examples, 8);
        let run = read(&dir.path().join(name).join("run.json"));
        match template {
            Some(file) => {
                assert_eq!(run["config"]["chat_template"], file.to_str().unwrap());
                assert_eq!((&run["chat"]["format"], &run["chat"]["template"]), (&json!("template"), &json!(text)));
                assert_eq!(run["chat"]["hash"], blake3::hash(text.as_bytes()).to_hex().to_string());
            }
            None => assert_eq!(run["chat"]["format"], "plain"),
        }
    }
}
