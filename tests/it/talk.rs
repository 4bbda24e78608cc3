//! Conversations, stop strings, adapters on one base, long prompts and their memory, blocks of a GGUF base.

use std::path::{Path, PathBuf};

use sftmix::export::{quantize, QuantizeConfig};
use sftmix::internal::bench::Shape;
use sftmix::internal::data::text::{ChatTemplate, Conversation, RenderOptions};
use sftmix::internal::data::tokens::Tokenizer;
use sftmix::internal::device::Form;
use sftmix::internal::model::Decoder;
use sftmix::internal::ops::{head_loss, Engine, EngineOptions, Layout};
use sftmix::Keep;
use sftmix::{Control, Error, GenerateConfig, Generation, Generator};

use crate::support::{options, shared};

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == \
    'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// The stories model with a chat template.
fn talker() -> Option<tempfile::TempDir> {
    let from = shared("models/stories260K")?;
    let dir = tempfile::tempdir().unwrap();
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    Some(dir)
}

fn generator(form: Form, model: &Path) -> Generator {
    Generator::open_on(Engine::new(options(form)).unwrap(), model, None).unwrap()
}

/// The text, and that its pieces are it.
fn streamed(run: impl FnOnce(&mut dyn FnMut(&str) -> Control) -> Generation) -> (Generation, Vec<String>) {
    let mut pieces = Vec::new();
    let made = run(&mut |piece: &str| {
        pieces.push(piece.to_string());
        Control::Continue
    });
    assert_eq!(pieces.concat(), made.text);
    (made, pieces)
}

fn say(g: &mut Generator, chat: &Conversation, config: &GenerateConfig) -> Generation {
    streamed(|on_text| g.chat(chat, config, on_text).unwrap()).0
}

#[test]
fn a_text_ends_before_its_stop_string_and_no_part_of_it_is_streamed() {
    let Some(dir) = shared("models/stories260K") else { return };
    let mut g = generator(Form::Fused, &dir);
    let config = |stop: &[&str]| GenerateConfig {
        max_new_tokens: 64,
        stop: stop.iter().map(|s| s.to_string()).collect(),
        ..Default::default()
    };
    let mut run = |stop: &[&str]| streamed(|on_text| g.generate("Once upon a time", &config(stop), on_text).unwrap());
    let (whole, pieces) = run(&[]);
    assert!(pieces.iter().filter(|p| !p.is_empty()).count() > 20);
    // Ends that lie within tokens and across them.
    let text = whole.text.clone();
    for (at, len) in [(2, 3), (5, 9), (11, 4), (20, 17), (33, 1), (40, 8)] {
        let stop = &text[at..at + len];
        let (made, pieces) = run(&["never there", stop]);
        let want = &text[..text.find(stop).unwrap()];
        assert_eq!((made.text.as_str(), made.stopped, made.stop.as_deref()), (want, true, Some(stop)), "{stop:?}");
        assert!(made.new_tokens < whole.new_tokens);
        assert!(pieces.iter().all(|p| !p.contains(stop)));
    }
    // What only begins one is given in the end.
    let almost = format!("{}#", &text[text.len() - 6..]);
    let (made, _) = run(&[&almost]);
    assert_eq!((made.text.as_str(), made.stopped, made.stop), (text.as_str(), whole.stopped, None));

    let refused =
        |config: GenerateConfig, field: &str, g: &mut Generator| match g
            .generate_ids(&[1, 2], &config, &mut |_| Control::Continue)
        {
            Err(Error::InvalidConfig { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        };
    refused(config(&["x"]), "stop", &mut g);
    refused(config(&[""]), "stop", &mut g);
    refused(GenerateConfig { top_k: Some(0), ..config(&[]) }, "top_k", &mut g);
    refused(GenerateConfig { min_p: Some(1.5), ..config(&[]) }, "min_p", &mut g);
    refused(GenerateConfig { repetition_penalty: 0.0, ..config(&[]) }, "repetition_penalty", &mut g);
}

#[test]
fn filters_and_penalty_decide_the_text() {
    let Some(dir) = shared("models/stories260K") else { return };
    let mut g = generator(Form::Fused, &dir);
    let mut run = |config: &GenerateConfig| streamed(|on_text| g.generate("Once", config, on_text).unwrap()).0.text;
    let hot = GenerateConfig { max_new_tokens: 48, temperature: 1.5, seed: 3, ..Default::default() };
    let greedy = run(&GenerateConfig { temperature: 0.0, ..hot.clone() });
    assert_ne!(run(&hot), greedy);
    assert_eq!(run(&GenerateConfig { top_k: Some(1), ..hot.clone() }), greedy);
    assert_eq!(run(&GenerateConfig { min_p: Some(1.0), ..hot.clone() }), greedy);
    let five = GenerateConfig { top_k: Some(5), top_p: Some(0.9), min_p: Some(0.02), ..hot };
    assert_eq!(run(&five), run(&five), "a seed repeats its text");
    let penalty = GenerateConfig { temperature: 0.0, repetition_penalty: 1.3, ..five };
    assert_ne!(run(&penalty), greedy);
}

#[test]
fn a_conversation_is_its_rendered_text_and_its_cache_changes_nothing() {
    let Some(dir) = talker() else { return };
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let template = ChatTemplate::from_dir(dir.path()).unwrap().unwrap();
    let config = GenerateConfig { max_new_tokens: 24, ..Default::default() };
    for form in [Form::Fused, Form::Portable] {
        let mut g = generator(form, dir.path());
        let mut chat = Conversation::default().with("system", "Tell a story.");
        let mut longest = 0;
        for (turn, message) in
            ["Once there was a cat.", "And then? ", "Lily saw a big red ball", "The end"].iter().enumerate()
        {
            chat = chat.with("user", message);
            let made = say(&mut g, &chat, &config);
            // A fresh generator, from the rendered text, without any cache.
            let render = RenderOptions { add_generation_prompt: true, ..Default::default() };
            let ids = tokenizer.encode_chat(&template.render(&chat, &render).unwrap().text).unwrap();
            assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1, "one beginning token");
            let fresh = generator(form, dir.path()).generate_ids(&ids, &config, &mut |_| Control::Continue).unwrap();
            assert_eq!((made.prompt_tokens, made.new_tokens), (ids.len(), fresh.len()));
            let again = say(&mut generator(form, dir.path()), &chat, &config);
            assert_eq!((again.text.as_str(), again.cached_tokens), (made.text.as_str(), 0), "{form:?} turn {turn}");
            // All but the words of the last message and what frames them.
            assert!(if turn == 0 { made.cached_tokens == 0 } else { made.cached_tokens >= longest }, "{made:?}");
            longest = made.prompt_tokens;
            chat = chat.with("assistant", &made.text);
        }
        // The same again is in the cache but for its last token; forgotten, it is not.
        chat.messages.pop();
        let made = say(&mut g, &chat, &config);
        assert_eq!(made.cached_tokens, made.prompt_tokens - 1);
        g.forget();
        let forgotten = say(&mut g, &chat, &config);
        assert_eq!((forgotten.cached_tokens, forgotten.text), (0, made.text));
        // Another conversation shares what both begin with.
        let other = Conversation::default().with("system", "Tell a story.").with("user", "Tom ran.");
        let made = say(&mut g, &other, &config);
        assert!(made.cached_tokens > 5 && made.cached_tokens < made.prompt_tokens - 3, "{made:?}");
        assert_eq!(made.text, say(&mut generator(form, dir.path()), &other, &config).text);
    }
}

#[test]
fn a_gguf_file_brings_its_template_along() {
    let Some(dir) = talker() else { return };
    let out = dir.path().join("f32.gguf");
    let kind = "f32".parse().unwrap();
    quantize(&QuantizeConfig { model: dir.path().into(), kind, out: out.clone() }).unwrap();
    let chat = Conversation::default().with("user", "Once upon a time");
    let config = GenerateConfig { max_new_tokens: 24, ..Default::default() };
    let want = say(&mut generator(Form::Fused, dir.path()), &chat, &config);
    let got = say(&mut generator(Form::Fused, &out), &chat, &config);
    assert_eq!((got.text, got.prompt_tokens), (want.text, want.prompt_tokens));
    // A file of a model without one.
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    quantize(&QuantizeConfig { model: dir.path().into(), kind, out: out.clone() }).unwrap();
    let said = generator(Form::Fused, &out).chat(&chat, &config, &mut |_| Control::Continue).unwrap_err().to_string();
    assert!(said.contains("no tokenizer.chat_template is in the file"), "{said}");
}

#[test]
fn a_model_without_a_template_says_what_is_missing_and_a_file_can_stand_in() {
    let Some(dir) = talker() else { return };
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let mut g = generator(Form::Fused, dir.path());
    let chat = Conversation::default().with("user", "Hi");
    let config = GenerateConfig { max_new_tokens: 4, ..Default::default() };
    let said = g.chat(&chat, &config, &mut |_| Control::Continue).unwrap_err();
    assert!(matches!(said, Error::ChatTemplate { .. }));
    let said = said.to_string();
    for part in [dir.path().to_str().unwrap(), "no chat template", "chat_template.jinja", "tokenizer_config.json"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    let file = dir.path().join("other.jinja");
    std::fs::write(&file, TEMPLATE).unwrap();
    g.load_chat_template(&file).unwrap();
    assert_eq!(say(&mut g, &chat, &config).new_tokens, 4);
    std::fs::write(&file, "{% for %}").unwrap();
    assert!(g.load_chat_template(&file).is_err());
    assert_eq!(say(&mut g, &chat, &config).new_tokens, 4, "the former template stays");
}

#[test]
fn a_reply_ends_at_the_templates_own_token() {
    let Some(dir) = talker() else { return };
    // A token that no config names as an end: of the letter that the text soonest holds.
    let config = GenerateConfig { max_new_tokens: 60, ..Default::default() };
    let chat = Conversation::default().with("user", "Once upon a time");
    let mut g = generator(Form::Fused, dir.path());
    let plain = say(&mut g, &chat, &config);
    let text = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = Tokenizer::load(dir.path()).unwrap().encode(".").unwrap().last().copied().unwrap();
    assert!(plain.text.contains('.'), "{plain:?}");
    tokenizer["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
        "id": id, "content": ".", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
    }));
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = TEMPLATE.replace("{{ eos_token }}", ".");
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let made = say(&mut generator(Form::Fused, dir.path()), &chat, &config);
    assert!(made.stopped && made.stop.is_none() && made.new_tokens < plain.new_tokens, "{made:?}");
}

#[test]
fn adapters_share_one_base_and_none_uses_anothers_cache() {
    let Some(dir) = talker() else { return };
    let trained = shared("models/stories260K/golden_lora").unwrap();
    let config = GenerateConfig { max_new_tokens: 32, ..Default::default() };
    let alone = |adapter: Option<&Path>| {
        let engine = Engine::new(options(Form::Fused)).unwrap();
        let mut g = Generator::open_on(engine, dir.path(), adapter).unwrap();
        let chat = Conversation::default().with("user", "Once upon a time there was");
        (say(&mut g, &chat, &config).text, chat)
    };
    let (base, chat) = alone(None);
    let (tuned, _) = alone(Some(&trained));
    assert_ne!(base, tuned);
    let mut g = generator(Form::Fused, dir.path());
    g.add_adapter("a", &trained).unwrap();
    g.add_adapter("b", &trained).unwrap();
    assert_eq!((g.adapters().collect::<Vec<_>>(), g.adapter()), (vec!["a", "b"], None));
    for (name, want, cached) in [
        (None, &base, false),
        (Some("a"), &tuned, false),
        (Some("a"), &tuned, true),
        (None, &base, false),
        (Some("b"), &tuned, false),
    ] {
        g.use_adapter(name).unwrap();
        let made = say(&mut g, &chat, &config);
        assert_eq!((&made.text, made.cached_tokens > 0), (want, cached), "{name:?}");
    }
    match g.use_adapter(Some("c")) {
        Err(Error::InvalidConfig { field, reason }) => {
            assert!(field == "adapter" && reason.contains("a, b") && reason.contains("\"c\""), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(g.adapter(), Some("b"), "the one in use stays");
}

/// A model of random weights for rows of thousands of tokens.
fn tiny(cache: &Path) -> PathBuf {
    Shape::named("tiny").unwrap().folder(cache, 1).unwrap()
}

#[test]
fn long_prompts_run_in_passes_with_the_logits_of_one() {
    let cache = tempfile::tempdir().unwrap();
    let dir = tiny(cache.path());
    let ids: Vec<u32> = (0..1300).map(|i| (i * 37 + 11) % 512).collect();
    for form in [Form::Fused, Form::Portable] {
        let e = Engine::new(options(form)).unwrap();
        let m = Decoder::open(&e, &dir, ids.len()).unwrap();
        let logits = |splits: &[usize]| {
            let mut cache = m.cache(&e, 4).unwrap();
            let mut at = 0;
            let mut last = Vec::new();
            for end in splits {
                m.widen(&e, &mut cache, *end).unwrap();
                last = e
                    .run(|| {
                        let state = m.extend(&e, None, &mut cache, &ids[at..*end])?;
                        head_loss::logits(&e, m.head(), &state)
                    })
                    .unwrap();
                at = *end;
                assert_eq!(cache.tokens(), at);
            }
            last
        };
        let want = e
            .run(|| {
                let layout = Layout::new(vec![0, ids.len() as u32], vec![0]);
                let mut pass = m.forward(&e, None, &ids, layout, Keep::Nothing, None)?;
                let h = m.states(&e, &mut pass, vec![ids.len() as u32 - 1])?;
                head_loss::logits(&e, m.head(), &h)
            })
            .unwrap();
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for splits in [&[1300][..], &[1, 9, 1300], &[3, 500, 503, 512, 1299, 1300], &[700, 712, 1300]] {
            let apart = logits(splits).iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(apart <= 1e-5 * largest, "{form:?} {splits:?}: {apart:e} of {largest}");
        }
    }
}

#[test]
fn a_long_prompt_leaves_no_memory_behind_but_its_cache() {
    let Some(words) = shared("models/stories260K") else { return };
    let cache = tempfile::tempdir().unwrap();
    let dir = tiny(cache.path());
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(words.join(file), dir.join(file)).unwrap();
    }
    let config = GenerateConfig { max_new_tokens: 4, ..Default::default() };
    let mut g = generator(Form::Fused, &dir);
    let mut held = |tokens: u32| {
        let ids: Vec<u32> = (0..tokens).map(|i| 3 + i % 500).collect();
        let account = g.engine().account().clone();
        let mut during = Vec::new();
        g.generate_ids(&ids, &config, &mut |_| {
            during.push(account.held());
            Control::Continue
        })
        .unwrap();
        (during[0], account.held(), account.peak())
    };
    let first = held(20);
    let (during, after, peak) = held(2000);
    let short = held(20);
    // K and V of two blocks, 32 numbers each; the cosines and sines of 16 numbers a position.
    let (kv, table) = (2004 * 2 * 2 * 32 * 4, 2048 * 16 * 4);
    let kib = 1 << 10;
    assert!(peak > first.0 + kv + 1024 * kib, "the prompt's passes took memory: {peak}");
    assert!(during <= first.0 + kv + table + 256 * kib, "{during} with the cache, {} of a short prompt", first.0);
    assert!(after <= first.1 + table + 128 * kib && short.1 <= after, "{after} afterwards, {} before", first.1);
}

#[test]
fn blocks_of_a_gguf_base_generate_exactly_or_rounded() {
    let Some(model) = shared("models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    for kind in ["f32", "bf16", "q8_0", "q4_0"] {
        let out = dir.path().join(format!("{kind}.gguf"));
        quantize(&QuantizeConfig { model: model.clone(), kind: kind.parse().unwrap(), out: out.clone() }).unwrap();
        let ids: Vec<u32> = (0..40).map(|i| 3 + (i * 37 + 11) % 500).collect();
        let logits = |rounded_blocks: bool, together: usize| -> Vec<f32> {
            let e = Engine::new(EngineOptions { rounded_blocks, ..options(Form::Fused) }).unwrap();
            let m = Decoder::open(&e, &out, 64).unwrap();
            let mut cache = m.cache(&e, 64).unwrap();
            let mut run = |ids: &[u32]| {
                let state = m.extend(&e, None, &mut cache, ids)?;
                head_loss::logits(&e, m.head(), &state)
            };
            e.run(|| ids.chunks(together).map(&mut run).last().unwrap()).unwrap()
        };
        let want = logits(false, 40);
        let size = want.iter().map(|v| v * v).sum::<f32>().sqrt();
        let apart = |got: Vec<f32>| got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt() / size;
        for together in [1, 3, 8] {
            let (exact, rounded) = (apart(logits(false, together)), apart(logits(true, together)));
            println!("{kind}, {together} at once: exact off by {exact:.1e}, rounded by {rounded:.1e}");
            assert!(exact < 1e-5, "{kind}: {exact:e}");
            match kind.starts_with('q') {
                true => assert!(rounded > exact && rounded < 0.1, "{kind}: {rounded:e}"),
                false => assert!(rounded < 1e-5, "{kind}: {rounded:e}"),
            }
        }
    }
}

#[cfg(feature = "cli")]
mod program {
    use std::io::Write;
    use std::process::{Command, Output, Stdio};

    use super::*;

    fn chat(dir: &Path, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sftmix"))
            .args(["chat", "--device", "cpu", "--threads", "2", "--max-new-tokens", "12", "--model"])
            .arg(dir)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end before it has read all.
        let _ = child.stdin.take().unwrap().write_all(input.as_ref());
        child.wait_with_output().unwrap()
    }

    fn lines(o: &Output) -> Vec<serde_json::Value> {
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8_lossy(&o.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn lines_are_messages_and_replies() {
        let Some(dir) = talker() else { return };
        let lora = shared("models/stories260K/golden_lora").unwrap();
        let lora = format!("tuned={}", lora.display());
        let input = "Once upon a time\nAnd then?\n\n/reset\nOnce upon a time\n/adapter tuned\n/reset\nOnce upon a time\n/exit\nno\n";
        let replies = lines(&chat(
            dir.path(),
            &["--json", "--system", "Short.", "--adapter", &lora],
            format!("/adapter\n{input}"),
        ));
        assert_eq!(replies.len(), 4);
        let cached: Vec<u64> = replies.iter().map(|r| r["cached_tokens"].as_u64().unwrap()).collect();
        assert!(cached[0] == 0 && cached[1] > 20 && cached[2] == 0 && cached[3] == 0, "{cached:?}");
        assert_eq!(replies[0]["text"], replies[2]["text"], "the conversation was forgotten");
        assert_ne!(replies[0]["text"], replies[3]["text"]);
        assert_eq!((&replies[0]["adapter"], &replies[3]["adapter"]), (&serde_json::Value::Null, &"tuned".into()));
        assert_eq!(replies[0]["new_tokens"], 12);
        // As text: the replies, each with its line's end.
        let o = chat(dir.path(), &["--system", "Short."], "Once upon a time\n");
        assert_eq!(String::from_utf8_lossy(&o.stdout), format!("{}\n", replies[0]["text"].as_str().unwrap()));
        assert!(String::from_utf8_lossy(&o.stderr).contains("after 12 tokens"));
        // And a single message, by the other command.
        let o = Command::new(env!("CARGO_BIN_EXE_sftmix"))
            .args([
                "generate",
                "--chat",
                "--json",
                "--device",
                "cpu",
                "--max-new-tokens",
                "12",
                "--stop",
                "\n",
                "--model",
            ])
            .arg(dir.path())
            .args(["--prompt", "Once upon a time"])
            .output()
            .unwrap();
        assert!(lines(&o)[0]["prompt_tokens"].as_u64() < replies[0]["prompt_tokens"].as_u64());
    }

    #[test]
    fn a_message_without_a_reply_is_taken_back_and_the_next_line_is_read() {
        let Some(dir) = talker() else { return };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let long = "Lily went to the park. ".repeat(200);
        let input = format!("Once upon a time\n{long}\nAnd then?\n/quit\n/adapter x\n\n/reset\nOnce upon a time\n");
        let o = chat(dir.path(), &["--json"], [input.as_bytes(), b"\xff\n/reset\n"].concat());
        let said = text(&o.stderr);
        assert_eq!(o.status.code(), Some(2), "{said}");
        for words in [
            "error: the conversation with this message: ",
            "tokens leave no room in the model's context of 512; the message is taken back\n",
            "hint: /reset begins a new conversation\n",
            "error: /quit: expected /reset",
            "error: invalid setting adapter",
            "error: standard input: the line is not UTF-8, and is left out",
        ] {
            assert!(said.contains(words), "{words:?} in {said}");
        }
        // Each message has its line, and what was meant for one: a program waits for it. Those with a reply are what they are without the others.
        let found: Vec<serde_json::Value> = text(&o.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let errors: Vec<bool> = found.iter().map(|line| line["error"].is_string()).collect();
        assert_eq!(errors, [false, true, false, true, false, true], "{found:?}");
        assert!(found[1]["error"].as_str().unwrap().contains("context of 512") && found[1].get("text").is_none());
        let alone = lines(&chat(dir.path(), &["--json"], "Once upon a time\nAnd then?\n/reset\nOnce upon a time\n"));
        for (i, line) in [0, 2, 4].into_iter().zip(&alone) {
            for key in ["text", "prompt_tokens", "cached_tokens", "new_tokens"] {
                assert_eq!(found[i][key], line[key], "{key} of line {i}");
            }
        }
        // What the template refuses, likewise.
        let refuses =
            "{% if 'dragon' in m['content'] %}{{ raise_exception('no dragons') }}{% endif %}{{ m['role'] }}: ";
        let template = TEMPLATE.replace("{{ m['role'] }}: ", refuses);
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        let o = chat(dir.path(), &[], "A dragon came\nOnce upon a time\n");
        assert_eq!(o.status.code(), Some(1), "{}", text(&o.stderr));
        assert!(text(&o.stderr).contains("no dragons"), "{}", text(&o.stderr));
        assert_eq!(text(&o.stdout), format!("{}\n", alone[0]["text"].as_str().unwrap()));
    }

    #[test]
    fn faults_are_told_with_words_and_the_exit_code_where_no_person_types() {
        let Some(dir) = talker() else { return };
        let fails = |arguments: &[&str], input: &str, code: i32, words: &str| {
            let o = chat(dir.path(), arguments, input);
            let said = String::from_utf8_lossy(&o.stderr).into_owned();
            assert_eq!(o.status.code(), Some(code), "{said}");
            assert!(said.contains(words), "{words:?} in {said}");
        };
        fails(&[], "/quit\n", 2, "expected /reset");
        fails(&[], "/adapter x\n", 2, "invalid setting adapter");
        fails(&["--adapter", "a=x", "--adapter", "a=y"], "", 2, "two are named a");
        fails(&["--top-k", "0"], "Hi\n", 2, "invalid setting top_k");
        let long = "Lily went to the park. ".repeat(200);
        fails(&[], &format!("{long}\n"), 2, "context of 512");
        std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
        fails(&[], "Hi\n", 1, "no chat template");
    }
}
