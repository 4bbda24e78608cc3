use super::*;
use crate::config::DataFormat;
use serde_json::json;

fn render_as(options: &DataOptions, first: Value, row: Value) -> Result<Rendered, String> {
    let path = Path::new("d");
    let text = |e: Error| e.to_string();
    let template = Template::resolve(options, &ChatFormat::plain(Some("</s>")), path, 1, first.as_object().unwrap())
        .map_err(text)?;
    template.render(path, 7, row.as_object().unwrap()).map_err(text)
}

fn render(row: Value) -> Rendered {
    render_as(&DataOptions::default(), row.clone(), row).unwrap()
}

fn trained(r: &Rendered) -> Vec<&str> {
    r.spans.iter().map(|s| &r.text[s.clone()]).collect()
}

#[test]
fn text_is_trained_whole() {
    let r = render(json!({"text": "né", "other": null}));
    assert_eq!((r.text.as_str(), r.whole, trained(&r)), ("né", true, vec!["né"]));
    let options = DataOptions { text_field: Some("body".into()), ..Default::default() };
    assert_eq!(render_as(&options, json!({}), json!({"body": 1.50})).unwrap().text, "1.5");
}

#[test]
fn prompt_and_completion_are_joined_as_they_are() {
    let r = render(json!({"text": "x", "prompt": "Où? ", "completion": " là"}));
    assert_eq!((r.text.as_str(), r.whole, trained(&r)), ("Où?  là", false, vec![" là"]));
    let r = render(json!({"prompt": "p", "completion": ""}));
    assert_eq!(r.spans.as_slice(), std::slice::from_ref(&(1..1)));
    assert_eq!(render(json!({"prompt": "", "completion": ""})).text, "");
}

#[test]
fn alpaca_has_stanfords_templates() {
    let r = render(json!({"instruction": "Add.", "input": "1 2", "output": "3"}));
    assert_eq!(
        r.text,
        "Below is an instruction that describes a task, paired with an input that provides further context. \
         Write a response that appropriately completes the request.\n\n\
         ### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:3"
    );
    assert_eq!(trained(&r), ["3"]);
    let plain = "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\nAdd.\n\n### Response:3";
    for row in [
        json!({"instruction": "Add.", "input": "", "output": "3"}),
        json!({"instruction": "Add.", "input": null, "output": 3}),
        json!({"instruction": "Add.", "output": "3", "text": "as in Stanford's file"}),
    ] {
        assert_eq!(render(row).text, plain);
    }
    assert_eq!(render(json!({"instruction": "", "input": "", "output": ""})), Rendered::default());
}

#[test]
fn messages_train_every_assistant_turn_and_its_end() {
    let r = render(json!({"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "ü"},
        {"role": "assistant", "content": "é"}, {"role": "user", "content": "b"},
        {"role": "assistant", "content": ""}, {"role": "user", "content": "thanks"},
    ]}));
    assert_eq!(r.text, "System:\nS\n\nUser:\nü\n\nAssistant:\né</s>\n\nUser:\nb\n\nAssistant:\n</s>");
    assert_eq!(trained(&r), ["é</s>", "</s>"]);
    let r = render(json!({"messages": [{"role": "user", "content": "b"}]}));
    assert!(r.spans.is_empty() && !r.text.is_empty());
    assert_eq!(render(json!({"messages": []})), Rendered::default());
}

#[test]
fn columns_and_templates() {
    let columns = DataOptions {
        prompt_field: Some("q".into()),
        response_field: Some("a".into()),
        data_format: Some(DataFormat::Columns),
        ..Default::default()
    };
    assert_eq!(trained(&render_as(&columns, json!({}), json!({"q": "x", "a": true})).unwrap()), ["true"]);
    let mut options = DataOptions {
        prompt_template: Some(r"{{Q}}: {q}\nA: ".into()),
        response_field: Some("a".into()),
        ..Default::default()
    };
    let r = render_as(&options, json!({}), json!({"q": r"a\n{a}", "a": "é"})).unwrap();
    assert_eq!((r.text.as_str(), trained(&r)), ("{Q}: a\\n{a}\nA: é", vec!["é"]));
    assert_eq!(render_as(&options, json!({}), json!({"q": "", "a": ""})).unwrap(), Rendered::default());
    let e = render_as(&options, json!({}), json!({"a": "é"})).unwrap_err();
    assert_eq!(e, "d: row 7: prompt_template: the key q is missing");
    options.response_field = None;
    options.data_format = Some(DataFormat::PromptCompletion);
    assert_eq!(trained(&render_as(&options, json!({}), json!({"q": "x", "completion": "y"})).unwrap()), ["y"]);
}

#[test]
fn a_row_of_another_shape_is_named() {
    let e = |first: Value, row: Value| render_as(&DataOptions::default(), first, row).unwrap_err();
    let pair = json!({"prompt": "p", "completion": "c"});
    assert_eq!(e(pair.clone(), json!({"text": "t"})), "d: row 7: the key prompt is missing");
    let null = json!({"prompt": "p", "completion": null});
    assert_eq!(e(pair.clone(), null), "d: row 7: completion: expected a string, found null");
    let list = json!({"prompt": [1], "completion": "c"});
    assert_eq!(e(pair, list), "d: row 7: prompt: expected a string, found an array");
    assert!(e(json!({"q": 1, "a": 2}), json!({})).starts_with("d: row 1: expected the key messages"));
    assert!(e(json!({"q": 1, "a": 2}), json!({})).ends_with("found q, a"));
    let chat = json!({"messages": []});
    let tool = json!({"messages": [{"role": "tool", "content": "x"}]});
    assert!(e(chat.clone(), tool).ends_with("messages[0]: role: expected system, user or assistant, found \"tool\""));
    let call = json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]});
    assert!(e(chat, call).ends_with("messages[1]: content: expected a string, found null"));
}

#[test]
fn contradicting_options_are_refused() {
    let shape = |o: DataOptions| RowShape::from_options(&o).unwrap_err().to_string();
    let field = Some("x".to_string());
    let pair = DataOptions { prompt_field: field.clone(), response_field: field.clone(), ..Default::default() };
    assert!(shape(DataOptions { data_format: Some(DataFormat::Alpaca), ..pair.clone() }).contains("data_format"));
    assert!(shape(DataOptions { text_field: field, ..pair }).contains("text_field"));
    let columns = DataOptions { data_format: Some(DataFormat::Columns), ..Default::default() };
    assert!(shape(columns).contains("prompt_field"));
}

#[test]
fn names_tell_text_span_and_window_apart() {
    let name = |p: &str, c: &str, w| Rendered::pair(p, c).hash(w);
    assert_eq!(name("a", "b", 0), name("a", "b", 0));
    let others = [name("ab", "", 0), name("", "ab", 0), name("a", "c", 0), name("a", "b", 1)];
    assert!(others.iter().all(|o| *o != name("a", "b", 0)));
}
