//! Rows as people and exporters write them, in every shape of conversations and under every template at hand: a row is
//! trained as the same conversation in the plain form is, or refused with what is wrong. That the plain form is rendered and
//! masked as transformers does is what `chat.rs` shows.

use std::path::Path;

use serde_json::{json, Map, Value};
use sftmix::internal::data::text::chat::{ChatFormat, ChatSource, SpecialTokens};
use sftmix::internal::data::text::Template;
use sftmix::internal::data::tokens::Tokenizer;
use sftmix::DataOptions;

use crate::chat::folder;
use crate::support::shared;

type Trained = Result<(String, Vec<String>), String>;

/// The templates of the folders and files beside the checkout, by name, and the plain role format.
fn templates() -> Vec<(String, ChatFormat)> {
    let mut out = vec![("plain".to_string(), ChatFormat::plain(Some("</s>")))];
    let folders = ["qwen2.5-0.5b-instruct", "qwen3-0.6b", "phi-3-mini-4k-instruct", "minimind"];
    for name in folders.into_iter().chain(["mistral-7b-instruct-v0.3", "llama-3.2-1b-instruct"]) {
        let Some(folder) = folder(name) else { return out };
        let tokenizer = Tokenizer::load(&folder.path).unwrap();
        out.push((name.into(), ChatFormat::of(&tokenizer, &DataOptions::default(), None).unwrap()));
    }
    let Some(dir) = shared("tokenizers/chat_templates") else { return out };
    let special = |bos: &str, eos: &str, more: &[&str]| {
        SpecialTokens::new(Some(bos), Some(eos)).with(more.iter().map(|t| t.to_string()))
    };
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let special = match &name[..4] {
            "gemm" => special("<bos>", "<eos>", &["<start_of_turn>", "<end_of_turn>"]),
            "llam" => special("<|begin_of_text|>", "<|end_of_text|>", &["<|eot_id|>", "<|start_header_id|>"]),
            "phi3" => special("<s>", "<|endoftext|>", &["<|user|>", "<|assistant|>", "<|end|>"]),
            _ => special("<s>", "<|im_end|>", &["<|im_start|>", "<|im_end|>"]),
        };
        let source = ChatSource::from_file(&path, special).unwrap();
        out.push((name, ChatFormat { source: Some(source), ..Default::default() }));
    }
    out
}

/// Text and trained spans of a row, or why it is refused.
fn trained(format: &ChatFormat, row: &Value, drops: &[&str]) -> Trained {
    let options = DataOptions { template_drops: drops.iter().map(|d| d.to_string()).collect(), ..Default::default() };
    let row: &Map<String, Value> = row.as_object().unwrap();
    let at = Path::new("rows.jsonl");
    // A date that a template writes is the same for both.
    let rendered = Template::resolve(&options, format, at, 1, row).and_then(|t| t.render(at, 1, row));
    let rendered = rendered.map_err(|e| e.to_string())?;
    let spans = rendered.spans.iter().map(|s| rendered.text[s.clone()].to_string()).collect();
    Ok((rendered.text, spans))
}

/// A conversation of turns in each of the shapes; `more` stands beside them.
fn shapes(turns: &[Value], more: &Value) -> Vec<(&'static str, Value)> {
    let row = |columns: Value| {
        let mut row = columns.as_object().unwrap().clone();
        row.extend(more.as_object().unwrap().clone());
        Value::from(row)
    };
    let from = |turn: &Value| {
        let mut turn = turn.as_object().unwrap().clone();
        if let (Some(role), Some(content)) = (turn.remove("role"), turn.remove("content")) {
            turn.insert("from".into(), role);
            turn.insert("value".into(), content);
        }
        Value::from(turn)
    };
    let sharegpt: Vec<Value> = turns.iter().map(from).collect();
    vec![("messages", row(json!({"messages": turns}))), ("sharegpt", row(json!({"conversations": sharegpt})))]
}

/// An oddity: its turns and what stands beside them, and the plain form.
struct Case {
    name: &'static str,
    odd: Vec<Value>,
    beside: Value,
    plain: Vec<Value>,
    tools: Value,
}

fn case(name: &'static str, odd: Value, plain: Value) -> Case {
    let list = |v: Value| v.as_array().unwrap().clone();
    Case { name, odd: list(odd), beside: json!({}), plain: list(plain), tools: json!({}) }
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn cases() -> Vec<Case> {
    let (q, a) = (turn("user", "Who keeps the keys?"), turn("assistant", "Finch keeps them."));
    let plain = json!([q, a]);
    let system = json!([turn("system", "Be brief."), q, a]);
    let called = |arguments: Value| {
        json!({"role": "assistant", "content": "",
               "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "tide", "arguments": arguments}}]})
    };
    let result = json!({"role": "tool", "content": "2.1 m", "tool_call_id": "abcdefghi", "name": "tide"});
    let answered =
        |call: Value, result: Value| json!([turn("user", "Tide?"), call, result, turn("assistant", "2.1 metres.")]);
    let arguments = json!({"port": "Gunday", "day": 3});
    let tools = json!({"tools": [{"type": "function", "function": {"name": "tide", "description": "The tide at a port.",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}, "day": {"type": "integer"}}}}}]});
    let with_tools = |case: Case| Case { tools: tools.clone(), beside: tools.clone(), ..case };
    let calls = answered(called(arguments.clone()), result.clone());
    let text = r#"{"port": "Gunday", "day": 3}"#;
    vec![
        case(
            "human and gpt",
            json!([turn("human", "Who keeps the keys?"), turn("gpt", "Finch keeps them.")]),
            plain.clone(),
        ),
        case(
            "capitals and blanks",
            json!([turn(" User ", "Who keeps the keys?"), turn("Assistant", "Finch keeps them.")]),
            plain.clone(),
        ),
        case(
            "prompter and bot",
            json!([turn("prompter", "Who keeps the keys?"), turn("bot", "Finch keeps them.")]),
            plain.clone(),
        ),
        case("a developer", json!([turn("developer", "Be brief."), q, a]), system.clone()),
        Case { beside: json!({"system": "Be brief."}), ..case("a system column", json!([q, a]), system.clone()) },
        Case {
            beside: json!({"system": [{"type": "text", "text": "Be brief."}]}),
            ..case("a system column of parts", json!([q, a]), system)
        },
        case(
            "a question of parts",
            json!([{"role": "user", "content": [{"type": "text", "text": "Who keeps the keys?"}]}, a]),
            plain.clone(),
        ),
        case("an answer of parts", json!([q, {"role": "assistant", "content": ["Finch keeps them."]}]), plain.clone()),
        case(
            "parts of the newer API",
            json!([{"role": "user", "content": [{"type": "input_text", "text": "Who keeps the keys?"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Finch keeps them."}]}]),
            plain.clone(),
        ),
        case(
            "nulls and empty lists",
            json!([{"role": "user", "content": "Who keeps the keys?", "tool_calls": [], "name": null},
            {"role": "assistant", "content": "Finch keeps them.", "tool_calls": null, "function_call": {}, "reasoning_content": ""}]),
            plain.clone(),
        ),
        case(
            "keys of an export",
            json!([{"role": "user", "content": "Who keeps the keys?", "id": "m1", "created_at": 17},
            {"role": "assistant", "content": "Finch keeps them.", "id": "m2", "model": "x-1"}]),
            plain,
        ),
        with_tools(case("arguments as text", answered(called(json!(text)), result.clone()), calls.clone())),
        with_tools(case(
            "a result of a function",
            answered(called(arguments), {
                let mut r = result;
                r["role"] = "function".into();
                r
            }),
            calls,
        )),
    ]
}

#[test]
fn rows_are_trained_as_their_plain_form_is() {
    let (mut rows, mut rendered, mut wrong) = (0, 0, Vec::new());
    for (name, format) in templates() {
        for Case { name: oddity, odd, beside, plain, tools } in cases() {
            let mut plain_row = tools.as_object().unwrap().clone();
            plain_row.insert("messages".into(), plain.into());
            let want = trained(&format, &plain_row.into(), &[]);
            for (shape, row) in shapes(&odd, &beside) {
                let found = trained(&format, &row, &[]);
                rows += 1;
                rendered += usize::from(found.is_ok());
                // What the template has no place for is refused in whichever form.
                let words = |e: &str| e.split(": ").last().unwrap().to_string();
                let same = match (&found, &want) {
                    (Ok(found), Ok(want)) => found == want && !found.1.is_empty(),
                    (Err(found), Err(want)) => words(found) == words(want),
                    _ => false,
                };
                if !same {
                    wrong.push(format!("{name}, {shape}, {oddity}: {found:?}, and the plain form: {want:?}"));
                }
            }
        }
    }
    println!("{rows} rows, {rendered} of them trained");
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows >= 26);
}

/// What a template leaves out is named, and may be left out where that is said and no trained answer loses it.
#[test]
fn what_a_template_leaves_out_is_named() {
    let (q, a) = (turn("user", "Who keeps the keys?"), turn("assistant", "Finch keeps them."));
    let reasoned =
        json!({"role": "assistant", "content": "Finch keeps them.", "reasoning_content": "The porter was Finch."});
    let documents = json!([{"title": "Keys", "text": "The keys are kept by Finch."}]);
    let tools = json!([{"type": "function", "function": {"name": "tide", "description": "The tide at a port."}}]);
    let mut wrong = Vec::new();
    for (template, row, want) in [
        (
            "phi-3-mini-4k-instruct",
            json!({"messages": [turn("critic", "A role of nobody's."), q, a]}),
            "messages[0]: the chat template leaves out critic",
        ),
        (
            "phi-3-mini-4k-instruct",
            json!({"messages": [q, a], "tools": tools}),
            "the chat template leaves out tools \"tide\"",
        ),
        (
            "phi-3-mini-4k-instruct",
            json!({"messages": [q, reasoned]}),
            "messages[1]: the chat template leaves out reasoning_content",
        ),
        (
            "qwen2.5-0.5b-instruct",
            json!({"messages": [q, a], "documents": documents}),
            "the chat template leaves out documents \"Keys\"",
        ),
        ("qwen2.5-0.5b-instruct", json!({"messages": [q, reasoned]}), "a part of an answer that is trained"),
        ("smollm2", json!({"messages": [q, reasoned]}), "a part of an answer that is trained"),
        ("plain", json!({"messages": [q, reasoned]}), "a part of an answer that is trained"),
        (
            "plain",
            json!({"messages": [q, a], "documents": documents}),
            "the chat template leaves out documents \"Keys\"",
        ),
    ] {
        let Some((_, format)) = templates().into_iter().find(|(name, _)| name == template) else { continue };
        let e = trained(&format, &row, &[]);
        if !e.as_ref().is_err_and(|e| e.contains(want)) {
            wrong.push(format!("{template}: {row}: {e:?}"));
        }
        let said = trained(&format, &row, &["critic", "tools", "documents", "reasoning_content"]);
        let of_an_answer = row["messages"].as_array().unwrap().iter().any(|m| m.get("reasoning_content").is_some());
        if said.is_err() != of_an_answer {
            wrong.push(format!("{template}, where it is said: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let format = ChatFormat::plain(Some("</s>"));
    let text = json!({"text": "a"});
    assert!(trained(&format, &text, &["tools"]).unwrap_err().contains("template_drops"));
}

/// Qwen 3 writes the reasoning of past turns in training, whatever a release changes that has no effect.
#[test]
fn reasoning_of_past_turns_is_trained() {
    let Some((_, format)) = templates().into_iter().find(|(name, _)| name == "qwen3-0.6b") else { return };
    let answer = |r: &str, a: &str| json!({"role": "assistant", "content": a, "reasoning_content": r});
    let row =
        json!({"messages": [turn("user", "q"), answer("so it is", "a"), turn("user", "r"), answer("and so", "b")]});
    let want = trained(&format, &row, &[]).unwrap();
    assert_eq!(want.1.len(), 2);
    assert!(want.1[0].contains("so it is") && want.1[1].contains("and so"), "{want:?}");
    let source = format.source.clone().unwrap();
    for changed in [source.template.replace('\n', "\r\n"), format!("{{# released again #}}\n{}", source.template)] {
        let source = ChatSource { template: changed, ..source.clone() };
        let format = ChatFormat { source: Some(source), ..format.clone() };
        assert_eq!(trained(&format, &row, &[]).unwrap(), want);
    }
    // One that is no longer known loses them, and says so.
    let other = source.template.replacen("loop.index0 > ns.last_query_index", "loop.index0 >= ns.last_query_index", 1);
    assert_ne!(other, source.template);
    let format = ChatFormat { source: Some(ChatSource { template: other, ..source }), ..format };
    assert!(trained(&format, &row, &[]).unwrap_err().contains("reasoning_content"));
}

/// The answers that a row marks as wrong are not learnt, in every shape and under every template.
#[test]
fn weights_are_honoured() {
    let turns = [
        turn("user", "two plus two?"),
        json!({"role": "assistant", "content": "five", "weight": 0}),
        turn("user", "sure?"),
        json!({"role": "assistant", "content": "four", "weight": 1}),
    ];
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, format) in templates() {
        for (shape, row) in shapes(&turns, &json!({})) {
            let found = trained(&format, &row, &[]);
            let honoured = |(text, spans): &(String, Vec<String>)| {
                text.contains("five") && spans.len() == 1 && spans[0].contains("four")
            };
            if !found.as_ref().is_ok_and(honoured) {
                wrong.push(format!("{name}, {shape}: {found:?}"));
            }
            seen += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 2);
}
