use serde_json::json;

use super::*;

/// What a template like this one writes: role and content of every message whose role is not `hidden`.
fn written(chat: &Conversation, also: &[&str]) -> String {
    let mut out = String::new();
    for m in chat.messages.iter().filter(|m| m["role"] != "hidden") {
        out += &format!("<{}>{}", m["role"].as_str().unwrap(), m["content"].as_str().unwrap_or_default().trim());
        also.iter().filter_map(|key| m[*key].as_str()).for_each(|text| out += text);
        if also.contains(&"tool_calls") && !m["tool_calls"].is_null() {
            out += &m["tool_calls"].to_string();
        }
    }
    if also.contains(&"tools") {
        out += &json!(chat.tools).to_string();
    }
    out
}

fn looked(chat: &Conversation, also: &[&str], drops: &[&str]) -> Result<Vec<String>, String> {
    let drops: Vec<String> = drops.iter().map(|d| d.to_string()).collect();
    dropped(chat, &written(chat, also), &drops, &Seen::default(), |chat| Ok(written(chat, also)))
}

fn chat(messages: Value) -> Conversation {
    Conversation::new(messages.as_array().unwrap().clone())
}

#[test]
fn what_is_written_is_found_in_whatever_form() {
    let c = chat(json!([
        {"role": "user", "content": "  two \n words\t"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "a \"b\"\né"}}}]},
        {"role": "user", "content": ""},
    ]));
    assert_eq!(looked(&c, &["tool_calls"], &[]), Ok(vec![]));
    let ascii = |c: &Conversation| written(c, &["tool_calls"]).replace('é', "\\u00e9");
    let found = dropped(&c, &ascii(&c), &[], &Seen::default(), |c| Ok(ascii(c)));
    assert_eq!(found, Ok(vec![]));
    // Written in another form: it changes with what the row says.
    let c = chat(json!([{"role": "user", "content": "a much longer question than all the others"}]));
    let loud = |c: &Conversation| written(c, &[]).to_uppercase();
    assert_eq!(dropped(&c, &loud(&c), &[], &Seen::default(), |c| Ok(loud(c))), Ok(vec![]));
}

#[test]
fn what_is_left_out_is_named_or_was_allowed() {
    let c = chat(json!([
        {"role": "hidden", "content": "Be brief, whatever they ask."},
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
    ]));
    let e = looked(&c, &[], &[]).unwrap_err();
    assert!(
        e.starts_with(
            "messages[0]: the chat template leaves out hidden \"Be brief, whatever they ask.\"; template_drops"
        ),
        "{e}"
    );
    assert_eq!(looked(&c, &[], &["hidden", "tools"]), Ok(vec!["hidden".to_string()]));

    let tools = Some(vec![json!({"type": "function", "function": {"name": "f", "description": "What is not there."}})]);
    let c = Conversation { tools, ..chat(json!([{"role": "user", "content": "q"}])) };
    assert_eq!(looked(&c, &["tools"], &[]), Ok(vec![]));
    assert!(looked(&c, &[], &[]).unwrap_err().contains("leaves out tools"));
    let documents = Some(vec![json!({"title": "T", "text": "A document of several words."})]);
    let c = Conversation { documents, ..chat(json!([{"role": "user", "content": "q"}])) };
    assert!(looked(&c, &[], &[]).unwrap_err().contains("leaves out documents"));
    assert_eq!(looked(&c, &[], &["documents"]), Ok(vec!["documents".to_string()]));
}

#[test]
fn an_answer_that_is_trained_loses_nothing() {
    let row = |trained_from| Conversation {
        trained_from,
        ..chat(
            json!([{"role": "assistant", "content": "a", "reasoning_content": "Because it is so."}, {"role": "user", "content": "q"}]),
        )
    };
    assert_eq!(looked(&row(0), &["reasoning_content"], &[]), Ok(vec![]));
    let e = looked(&row(0), &[], &["reasoning_content"]).unwrap_err();
    assert!(e.ends_with("a part of an answer that is trained"), "{e}");
    // In the context it may be left out.
    assert_eq!(looked(&row(1), &[], &["reasoning_content"]), Ok(vec!["reasoning_content".to_string()]));
    assert!(looked(&row(1), &[], &[]).is_err());
}

/// A short text stands somewhere by chance: the first row of a kind has each of its texts changed.
#[test]
fn short_texts_are_not_found_by_chance() {
    let c = chat(json!([{"role": "hidden", "content": "user"}, {"role": "user", "content": "q"}]));
    assert!(written(&c, &[]).contains("user"));
    assert!(looked(&c, &[], &[]).unwrap_err().contains("leaves out hidden \"user\""));
}

#[test]
fn every_conversation_of_a_kind_that_loses_something_is_found() {
    let seen = Seen::default();
    let look = |hidden: &str| {
        // The text stands in the question by chance.
        let c =
            chat(json!([{"role": "hidden", "content": hidden}, {"role": "user", "content": "is it short, or what?"}]));
        dropped(&c, &written(&c, &[]), &[], &seen, |chat| Ok(written(chat, &[])))
    };
    for _ in 0..3 {
        assert!(look("short").is_err());
    }
    let kept = chat(json!([{"role": "user", "content": "q"}]));
    assert_eq!(dropped(&kept, &written(&kept, &[]), &[], &seen, |chat| Ok(written(chat, &[]))), Ok(vec![]));
    assert!(look("what").is_err());
}
