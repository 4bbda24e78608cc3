//! Settings that would do for rows of no known shape, in the file's own names.

use serde_json::{Map, Value};

const CONTEXTS: [&str; 8] =
    ["context", "passage", "document", "background", "input", "system_prompt", "system", "history"];
const QUESTIONS: [&str; 9] =
    ["question", "query", "prompt", "instruction", "problem", "input", "user", "source", "title"];
const ANSWERS: [&str; 10] =
    ["answer", "response", "completion", "output", "solution", "target", "assistant", "answers", "chosen", "label"];

const ANSWERING: [&str; 5] = ["assistant", "gpt", "bot", "model", "ai"];

/// The settings by which this row could be read, by the names that people give to turns, questions and answers.
pub(crate) fn suggestion(row: &Map<String, Value>) -> Option<String> {
    let columns = columns(row);
    let turns = |answers: bool| {
        let mut found = columns.iter().filter(|(path, _)| !["rejected", "non_preferred_output"].contains(&last(path)));
        found.find(|(_, value)| begins_with_an_answer(value) == Some(answers)).map(|(path, _)| path)
    };
    match (turns(false), turns(true)) {
        // Turns that begin with an answer are the second half of a pair.
        (Some(prompt), Some(answer)) => {
            return Some(format!("prompt_field {prompt} with response_field {answer} would do"));
        }
        (Some(path), None) => return Some(format!("messages_field {path} would do")),
        _ => {}
    }
    let named = |names: &[&str]| {
        names.iter().find_map(|name| {
            columns
                .iter()
                .filter(|c| last(&c.0).eq_ignore_ascii_case(name))
                .find_map(|(path, value)| readable(path, value))
        })
    };
    let (question, answer) = (named(&QUESTIONS)?, named(&ANSWERS)?);
    Some(match named(&CONTEXTS).filter(|c| *c != question && !c.ends_with(']')) {
        Some(context) => {
            format!("prompt_template \"{{{context}}}\\n\\n{{{question}}}\\n\" with response_field {answer} would take all of them")
        }
        None => format!("prompt_field {question} with response_field {answer} would do"),
    })
}

/// The columns, and the keys of those that are objects: exporters put a row in a row.
fn columns(row: &Map<String, Value>) -> Vec<(String, &Value)> {
    let nested = row.iter().filter_map(|(outer, value)| Some((outer, value.as_object()?)));
    let deeper = nested.flat_map(|(outer, map)| map.iter().map(move |(key, value)| (format!("{outer}.{key}"), value)));
    row.iter().map(|(key, value)| (key.clone(), value)).chain(deeper).collect()
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether turns begin with an answer; `None` for what holds no turns.
fn begins_with_an_answer(value: &Value) -> Option<bool> {
    let first = value.as_array()?.first()?.as_object()?;
    let role = first.get("role").or_else(|| first.get("from"))?.as_str()?;
    Some(ANSWERING.contains(&role.trim().to_ascii_lowercase().as_str()))
}

/// Where the text of a column is: itself, the first of a list, or below `text`, as SQuAD has its answers.
fn readable(path: &str, value: &Value) -> Option<String> {
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => Some(path.to_string()),
        Value::Array(list) => list.first()?.is_string().then(|| format!("{path}[0]")),
        Value::Object(map) => readable(&format!("{path}.text"), map.get("text")?),
        Value::Null => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_suggested_by_the_files_own_names() {
        let turns = json!([{"role": "user", "content": "q"}]);
        let mut failed = Vec::new();
        for (row, want) in [
            (json!({"Question": "", "id": 1, "Answer": ""}), "prompt_field Question with response_field Answer would do"),
            (
                json!({"context": "", "question": "", "answer": ""}),
                "prompt_template \"{context}\\n\\n{question}\\n\" with response_field answer would take all of them",
            ),
            (json!({"input": "", "output": ""}), "prompt_field input with response_field output would do"),
            (json!({"a": "", "b": ""}), ""),
            (
                json!({"instruction": "", "context": "", "response": "", "category": ""}),
                "prompt_template \"{context}\\n\\n{instruction}\\n\" with response_field response would take all of them",
            ),
            // Pairs of preferences, turns under other names, a row in a row, answers in a list.
            (json!({"prompt": "", "chosen": "", "rejected": ""}), "prompt_field prompt with response_field chosen would do"),
            (json!({"rejected": turns, "chosen": turns}), "messages_field chosen would do"),
            (json!({"id": 1, "dialogue": [{"from": "human", "value": "q"}]}), "messages_field dialogue would do"),
            (json!({"row_idx": 0, "row": {"question": "", "answer": ""}}),
             "prompt_field row.question with response_field row.answer would do"),
            (json!({"conversation": {"messages": turns}}), "messages_field conversation.messages would do"),
            (json!({"prompt": turns, "chosen": [{"role": "assistant", "content": "a"}]}), "prompt_field prompt with response_field chosen would do"),
            (json!({"prompt": "Q", "chosen": [{"role": "assistant", "content": "a"}], "rejected": []}), ""),
            (json!({"question": "", "answers": {"text": ["a"], "answer_start": [1]}}),
             "prompt_field question with response_field answers.text[0] would do"),
            (json!({"history": [["a", "b"]], "prompt": "", "response": ""}), "prompt_field prompt with response_field response would do"),
            (json!({"prompt": "", "answer": null, "response": "R"}), "prompt_field prompt with response_field response would do"),
            (json!({"question": "", "answers": ["a"]}), "prompt_field question with response_field answers[0] would do"),
        ] {
            let said = suggestion(row.as_object().unwrap()).unwrap_or_default();
            if said != want {
                failed.push(format!("{row}: {said}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
