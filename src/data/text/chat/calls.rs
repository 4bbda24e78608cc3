//! Calls of functions and the functions themselves, in the one form that templates know.
//!
//! A call is `{type: function, function: {name, arguments}}` with arguments as an object, as transformers' templates
//! expect. OpenAI's format has the arguments as JSON in a string, its older one a single `function_call` beside the text,
//! and tables hold lists as text; all become that form. What is no object of arguments is named.

use serde_json::{json, Map, Value};

use crate::data::rows::raw::kind;
use crate::data::rows::strict;
use crate::data::text::columns::{is_nothing, text_of};

type Outcome<T> = std::result::Result<T, String>;

/// A value that may be written as JSON in a string.
pub(crate) fn parsed(value: &Value) -> Outcome<Value> {
    match value {
        Value::String(text) => strict::value(text).map_err(|e| format!("not valid JSON: {e}")),
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

/// The calls in a value, which may be JSON in a string: one or a list.
pub(crate) fn calls(value: &Value) -> Outcome<Vec<Value>> {
    let all = several(parsed(value)?)?.into_iter().enumerate();
    all.map(|(i, call)| self::call(call).map_err(|e| format!("[{i}]: {e}"))).collect()
}

/// A call in the one form; `id` and whatever else stands beside the function stays.
fn call(mut call: Map<String, Value>) -> Outcome<Value> {
    let mut function = match call.remove("function") {
        Some(Value::Object(function)) => function,
        Some(other) => return Err(format!("function: expected an object, found {}", kind(&other))),
        None => {
            let parts = ["name", "arguments"].map(|key| call.remove(key).map(|value| (key.to_string(), value)));
            parts.into_iter().flatten().collect()
        }
    };
    let name = text_of(&function, "name")?;
    function.insert("name".into(), name.into());
    let arguments = function.get("arguments").ok_or("the key arguments is missing")?;
    let arguments = match arguments {
        nothing if is_nothing(nothing) => Value::Object(Map::new()),
        given => parsed(given).map_err(|e| format!("arguments: {e}"))?,
    };
    if !arguments.is_object() {
        return Err(format!("arguments: expected an object, found {}", kind(&arguments)));
    }
    function.insert("arguments".into(), arguments);
    call.retain(|_, value| !value.is_null());
    call.insert("type".into(), "function".into());
    call.insert("function".into(), function.into());
    Ok(call.into())
}

/// Functions in the form `{type: function, function: …}`; `None` where there are none.
pub(crate) fn tools(value: Option<&Value>) -> Outcome<Option<Vec<Value>>> {
    let Some(value) = value.filter(|v| !is_nothing(v)) else { return Ok(None) };
    let tool = |tool: Map<String, Value>| match tool.contains_key("function") || !tool.contains_key("name") {
        true => Value::Object(tool),
        false => json!({"type": "function", "function": tool}),
    };
    let all = parsed(value).and_then(several).map_err(|e| format!("tools: {e}"))?;
    Ok(Some(all.into_iter().map(tool).collect()).filter(|tools: &Vec<Value>| !tools.is_empty()))
}

/// The calls of a message as they are, but with their arguments as text: for templates that append them to a string.
pub(crate) fn with_arguments_as_text(message: &Value) -> Value {
    let mut message = message.clone();
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments") {
            *arguments = arguments.to_string().into();
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_becomes_one() {
        let want = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}]);
        for given in [
            json!([{"type": "function", "function": {"name": "f", "arguments": "{\"x\": [1]}"}}]),
            json!([{"function": {"name": "f", "arguments": {"x": [1]}}}]),
            json!({"name": "f", "arguments": "{\"x\": [1]}"}),
            json!("[{\"name\": \"f\", \"arguments\": {\"x\": [1]}}]"),
            json!([{"id": null, "name": "f", "arguments": {"x": [1]}}]),
        ] {
            assert_eq!(Value::from(calls(&given).unwrap()), want, "{given}");
        }
        let none = calls(&json!([{"id": "a1", "function": {"name": "f", "arguments": ""}}])).unwrap();
        assert_eq!(none[0], json!({"id": "a1", "type": "function", "function": {"name": "f", "arguments": {}}}));
    }

    #[test]
    fn what_is_no_call_is_named() {
        let e = |given: Value| calls(&given).unwrap_err();
        assert!(e(json!("f(x)")).starts_with("not valid JSON: expected"));
        assert_eq!(e(json!([1])), "expected an object, found a number");
        assert_eq!(e(json!([{"name": "f"}])), "[0]: the key arguments is missing");
        assert_eq!(e(json!([{"name": "f", "arguments": {}}, {"arguments": {}}])), "[1]: the key name is missing");
        assert_eq!(e(json!({"name": "f", "arguments": "[1]"})), "[0]: arguments: expected an object, found an array");
        assert!(e(json!({"name": "f", "arguments": "{x}"})).starts_with("[0]: arguments: not valid JSON"));
        assert!(tools(Some(&json!("["))).unwrap_err().starts_with("tools: not valid JSON: "));
        assert_eq!(tools(Some(&json!([{"name": "f"}]))).unwrap().unwrap()[0]["function"]["name"], "f");
        assert_eq!(tools(Some(&json!(" "))).unwrap(), None);
    }
}
