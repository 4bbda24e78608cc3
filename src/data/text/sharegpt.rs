//! ShareGPT rows, as LLaMA-Factory reads them, made into the list that conversations are read from.
//!
//! | `from` | becomes |
//! |---|---|
//! | `human`, `user` | `user` |
//! | `gpt`, `assistant` | `assistant` |
//! | `system` | `system` |
//! | `function_call` | `assistant` with `tool_calls`: the value is JSON, one `{name, arguments}` or a list of them |
//! | `observation`, `tool` | `tool` |
//!
//! Turns may be written `{role, content}` as well; such a turn keeps its other keys. A column `system` becomes the
//! first turn, a column `tools` (JSON, or JSON in a string) the tools.

use serde_json::{json, Map, Value};

use super::columns::text_of;
use crate::data::rows::raw::kind;

type Outcome<T> = std::result::Result<T, String>;

/// `messages` and, where there are any, `tools` of a row whose turns stand in the column `field`.
pub(crate) fn to_messages(object: &Map<String, Value>, field: &str) -> Outcome<Map<String, Value>> {
    let turns = match object.get(field) {
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(format!("{field}: expected an array, found {}", kind(other))),
        None => return Err(format!("the key {field} is missing")),
    };
    for media in ["images", "videos", "audios"] {
        if object.get(media).is_some_and(|v| !is_nothing(v)) {
            return Err(format!("{media}: only text can be trained on"));
        }
    }
    let mut messages = Vec::with_capacity(turns.len() + 1);
    match object.get("system") {
        Some(value) if !is_nothing(value) => messages.push(message("system", text_of(object, "system")?)),
        _ => {}
    }
    let has_system = !messages.is_empty();
    for (i, turn) in turns.iter().enumerate() {
        let place = |e: String| format!("{field}[{i}]: {e}");
        let turn = turn.as_object().ok_or_else(|| place(format!("expected an object, found {}", kind(turn))))?;
        let message = message_of(turn).map_err(place)?;
        if has_system && message.get("role").is_some_and(|r| r == "system") {
            return Err(place("a system turn, and the row has a column system as well".into()));
        }
        messages.push(Value::Object(message));
    }
    let mut out = Map::new();
    out.insert("messages".into(), messages.into());
    if let Some(tools) = object.get("tools").filter(|v| !is_nothing(v)) {
        out.insert("tools".into(), tools_of(tools).map_err(|e| format!("tools: {e}"))?);
    }
    for other in ["documents", "chat_template_kwargs"] {
        if let Some(value) = object.get(other) {
            out.insert(other.into(), value.clone());
        }
    }
    Ok(out)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn message(role: &str, content: String) -> Value {
    json!({"role": role, "content": content})
}

fn message_of(turn: &Map<String, Value>) -> Outcome<Map<String, Value>> {
    let (tag, content) = match (turn.contains_key("from"), turn.contains_key("role")) {
        (true, false) => ("from", "value"),
        (false, true) => ("role", "content"),
        _ => return Err("expected the keys from and value, or role and content".into()),
    };
    let name = text_of(turn, tag)?;
    let role = match name.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "function_call" => "assistant",
        "system" => "system",
        "observation" | "tool" => "tool",
        other => {
            let known = "human, gpt, system, function_call or observation";
            return Err(format!("{tag}: expected {known}, found {other:?}"));
        }
    };
    let mut out = match tag {
        "role" => turn.clone(),
        _ => Map::new(),
    };
    out.insert("role".into(), role.into());
    if name == "function_call" {
        let value = turn.get(content).ok_or_else(|| format!("the key {content} is missing"))?;
        let calls = parsed(value).and_then(calls).map_err(|e| format!("function_call: {e}"))?;
        out.insert("content".into(), "".into());
        out.insert("tool_calls".into(), calls);
    } else if tag == "from" {
        out.insert("content".into(), text_of(turn, content)?.into());
    }
    Ok(out)
}

/// A value that may be written as JSON in a string.
fn parsed(value: &Value) -> Outcome<Value> {
    match value {
        Value::String(text) => serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}")),
        other => Ok(other.clone()),
    }
}

/// One object or several.
fn several(value: Value) -> Outcome<Vec<Map<String, Value>>> {
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let object = |v: Value| match v {
        Value::Object(map) => Ok(map),
        other => Err(format!("expected an object, found {}", kind(&other))),
    };
    list.into_iter().map(object).collect()
}

fn calls(value: Value) -> Outcome<Value> {
    let call = |mut call: Map<String, Value>| {
        let name = text_of(&call, "name")?;
        let arguments = call.remove("arguments").ok_or("the key arguments is missing")?;
        Ok(json!({"type": "function", "function": {"name": name, "arguments": parsed(&arguments)?}}))
    };
    several(value)?.into_iter().map(call).collect::<Outcome<Vec<_>>>().map(Value::Array)
}

/// Tools in the form that templates know, `{type: function, function: …}`.
fn tools_of(value: &Value) -> Outcome<Value> {
    let tool = |tool: Map<String, Value>| match tool.contains_key("function") || !tool.contains_key("name") {
        true => Value::Object(tool),
        false => json!({"type": "function", "function": tool}),
    };
    Ok(several(parsed(value)?)?.into_iter().map(tool).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(row: Value) -> Outcome<Value> {
        to_messages(row.as_object().unwrap(), "conversations").map(Value::Object)
    }

    #[test]
    fn turns_become_messages() {
        let row = json!({"id": 7, "system": "S", "tools": "", "conversations": [
            {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
            {"role": "user", "content": "c", "name": "N"}, {"from": "observation", "value": "d"},
        ]});
        let want = json!({"messages": [
            {"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c", "name": "N"}, {"role": "tool", "content": "d"},
        ]});
        assert_eq!(made(row).unwrap(), want);
    }

    #[test]
    fn calls_and_tools_are_read_from_their_json() {
        let row = json!({"tools": "[{\"name\": \"f\", \"parameters\": {}}]", "conversations": [
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": [1]}}"},
            {"from": "function_call", "value": [{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]},
        ]});
        let call = |name: &str, arguments: Value| json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        let turn = |calls: Value| json!({"role": "assistant", "content": "", "tool_calls": calls});
        let want = json!({
            "messages": [turn(json!([call("f", json!({"x": [1]}))])), turn(json!([call("f", json!({})), call("g", json!({}))]))],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        });
        assert_eq!(made(row).unwrap(), want);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let e = |turns: Value| made(json!({"conversations": turns})).unwrap_err();
        assert_eq!(made(json!({})).unwrap_err(), "the key conversations is missing");
        assert_eq!(e(json!("x")), "conversations: expected an array, found a string");
        assert_eq!(e(json!([1])), "conversations[0]: expected an object, found a number");
        assert_eq!(
            e(json!([{"value": "x"}])),
            "conversations[0]: expected the keys from and value, or role and content"
        );
        assert_eq!(e(json!([{"from": "human"}])), "conversations[0]: the key value is missing");
        assert_eq!(
            e(json!([{"from": "bot", "value": ""}])),
            "conversations[0]: from: expected human, gpt, system, function_call or observation, found \"bot\""
        );
        let call = |text: &str| e(json!([{"from": "function_call", "value": text}]));
        assert!(call("f(x)").starts_with("conversations[0]: function_call: not valid JSON: expected"));
        assert_eq!(call("{\"name\": \"f\"}"), "conversations[0]: function_call: the key arguments is missing");
        assert_eq!(call("[1]"), "conversations[0]: function_call: expected an object, found a number");
        let both = json!({"system": "S", "conversations": [{"from": "system", "value": "T"}]});
        assert!(made(both).unwrap_err().contains("conversations[0]: a system turn, and the row has a column system"));
        let tools = json!({"tools": "[", "conversations": []});
        assert!(made(tools).unwrap_err().starts_with("tools: not valid JSON: "));
        let images = json!({"images": ["a.png"], "conversations": []});
        assert_eq!(made(images).unwrap_err(), "images: only text can be trained on");
    }
}
