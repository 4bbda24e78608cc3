//! The content of a message where it is a list of parts, as `[{"type": "text", "text": …}]`.

use serde_json::Value;

use crate::data::rows::raw::kind;

/// The texts of the parts in their order; what is no text is named.
pub(crate) fn texts(parts: &[Value]) -> Result<Vec<&str>, String> {
    parts.iter().enumerate().map(|(i, part)| text(i, part)).collect()
}

fn text(i: usize, part: &Value) -> Result<&str, String> {
    let refuse = |found: &str| Err(format!("content[{i}]: {found}: only text can be trained on"));
    let map = match part {
        Value::String(text) => return Ok(text.as_str()),
        Value::Object(map) => map,
        other => return refuse(kind(other)),
    };
    if let (Some(Value::String(_)), Some(Value::String(refusal))) =
        (map.get("type").filter(|t| *t == "refusal"), map.get("refusal"))
    {
        return Ok(refusal.as_str());
    }
    match (map.get("type").map(|t| t.as_str().unwrap_or_default()), map.get("text")) {
        (None | Some("text" | "input_text" | "output_text"), Some(Value::String(text))) => Ok(text.as_str()),
        (None, _) => refuse("a part without a text"),
        (Some("text" | "input_text" | "output_text"), _) => Err(format!("content[{i}]: the key text is missing")),
        (Some(other), _) => refuse(&format!("a part of type {other:?}")),
    }
}

/// The parts in the form that templates iterate over, or as one text, joined as vLLM and llama.cpp join them.
pub(crate) fn content(parts: &[Value], iterated: bool) -> Result<Value, String> {
    let texts = texts(parts)?;
    Ok(match iterated {
        true => texts.into_iter().map(|text| serde_json::json!({"type": "text", "text": text})).collect(),
        false => texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_joined_and_all_else_is_named() {
        let given = json!(["a", {"type": "text", "text": "b"}, {"text": "c"}, {"type": "input_text", "text": ""},
            {"type": "refusal", "refusal": "d"}]);
        let parts = given.as_array().unwrap();
        assert_eq!(content(parts, false).unwrap(), "a\nb\nc\nd");
        assert_eq!(content(&parts[1..2], true).unwrap(), json!([{"type": "text", "text": "b"}]));
        let e = |part: Value| content(&[json!("a"), part], false).unwrap_err();
        assert_eq!(e(json!({"type": "image"})), "content[1]: a part of type \"image\": only text can be trained on");
        assert_eq!(e(json!(3)), "content[1]: a number: only text can be trained on");
        assert_eq!(e(json!({"type": "text"})), "content[1]: the key text is missing");
        assert_eq!(e(json!({"image_url": "x"})), "content[1]: a part without a text: only text can be trained on");
    }
}
