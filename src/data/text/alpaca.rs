//! Stanford Alpaca rows: `instruction`, `input`?, `output`, and LLaMA-Factory's `system`? and `history`?.
//!
//! `system` takes the place of the template's first sentences. Each pair of `history` stands before the
//! instruction as an instruction and a response of its own, trained with its end token as in a conversation.

use serde_json::{Map, Value};

use super::columns::{system_column, text_of};
use super::rendered::Rendered;
use crate::data::rows::raw::kind;

const INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                     context. Write a response that appropriately completes the request.\n\n";
const NO_INPUT: &str = "Below is an instruction that describes a task. Write a response that appropriately \
                        completes the request.\n\n";

/// The text of a row and what is trained of it. `end` is the end-of-sequence token's text, for `history`.
pub(crate) fn render(object: &Map<String, Value>, end: Option<&str>) -> Result<Rendered, String> {
    let optional = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(_) => text_of(object, key),
    };
    let (instruction, output) = (text_of(object, "instruction")?, text_of(object, "output")?);
    let system = system_column(object)?.map_or(Ok(String::new()), |key| text_of(object, key))?;
    let (input, history) = (optional("input")?, history(object.get("history"))?);
    if history.is_empty() && [&instruction, &input, &output, &system].iter().all(|s| s.is_empty()) {
        return Ok(Rendered::default());
    }
    let mut text = match (system.as_str(), input.as_str()) {
        ("", "") => NO_INPUT.to_string(),
        ("", _) => INPUT.to_string(),
        _ => format!("{system}\n\n"),
    };
    let mut spans = Vec::new();
    for (question, answer) in history {
        let end = end.ok_or("history: the tokenizer has no text for its end-of-sequence token")?;
        text += &format!("### Instruction:\n{question}\n\n### Response:");
        let start = text.len();
        text = text + &answer + end;
        spans.push(start..text.len());
        text += "\n\n";
    }
    text += &format!("### Instruction:\n{instruction}\n\n");
    if !input.is_empty() {
        text += &format!("### Input:\n{input}\n\n");
    }
    text += "### Response:";
    let start = text.len();
    text += &output;
    spans.push(start..text.len());
    Ok(Rendered { text, spans, ..Default::default() })
}

fn history(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("history: expected an array, found {}", kind(other))),
    };
    let pair = |(i, turn): (usize, &Value)| match turn.as_array().map(Vec::as_slice) {
        Some([Value::String(question), Value::String(answer)]) => Ok((question.clone(), answer.clone())),
        _ => Err(format!("history[{i}]: expected an instruction and a response, two strings")),
    };
    list.iter().enumerate().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(row: Value) -> Result<Rendered, String> {
        render(row.as_object().unwrap(), Some("</s>"))
    }

    #[test]
    fn system_and_history_stand_before_the_instruction() {
        let row = json!({"system": "Be brief.", "history": [["q1", "a1"], ["q2", ""]],
                         "instruction": "q3", "input": "i", "output": "a3"});
        let r = made(row).unwrap();
        assert_eq!(
            r.text,
            "Be brief.\n\n### Instruction:\nq1\n\n### Response:a1</s>\n\n### Instruction:\nq2\n\n### Response:</s>\n\n\
             ### Instruction:\nq3\n\n### Input:\ni\n\n### Response:a3"
        );
        assert_eq!(r.spans.iter().map(|s| &r.text[s.clone()]).collect::<Vec<_>>(), ["a1</s>", "</s>", "a3"]);
        // Empty ones change nothing.
        let plain = json!({"instruction": "q", "output": "a"});
        let empty = json!({"instruction": "q", "output": "a", "system": "", "history": [], "input": null});
        assert_eq!(made(empty).unwrap(), made(plain).unwrap());
    }

    #[test]
    fn a_malformed_history_is_named() {
        let e = |h: Value| made(json!({"instruction": "q", "output": "a", "history": h})).unwrap_err();
        assert_eq!(e(json!("x")), "history: expected an array, found a string");
        assert_eq!(e(json!([["a", "b"], ["a"]])), "history[1]: expected an instruction and a response, two strings");
        let row = json!({"instruction": "q", "output": "a", "history": [["a", "b"]]});
        assert!(render(row.as_object().unwrap(), None).unwrap_err().starts_with("history: the tokenizer has no text"));
        let row = json!({"instruction": "q", "output": "a", "system": 1.5});
        assert!(made(row).unwrap().text.starts_with("1.5\n\n### "));
    }
}
