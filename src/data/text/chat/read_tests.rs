use super::*;

fn made(row: Value) -> Outcome<Conversation> {
    conversation(
        row.as_object().unwrap(),
        if row.get("messages").is_some() { "messages" } else { "conversations" },
        &Dialect::default(),
    )
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "arguments": arguments}})
}

#[test]
fn turns_become_messages_in_both_shapes() {
    let turns = [
        json!([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "reasoning_content": "r", "id": null},
               {"role": "user", "content": 3, "name": "N"}, {"from": "observation", "value": "d"}]),
        json!([{"role": " User ", "content": "a"}, {"role": "Assistant", "content": ["b"], "reasoning_content": "r"},
               {"role": "human", "content": "3", "name": "N"}, {"role": "function", "content": "d"}]),
    ];
    let want = [
        json!({"role": "system", "content": "S"}),
        json!({"role": "user", "content": "a"}),
        json!({"role": "assistant", "content": "b", "reasoning_content": "r"}),
        json!({"role": "user", "content": "3", "name": "N"}),
        json!({"role": "tool", "content": "d"}),
    ];
    for column in ["conversations", "messages"] {
        for turns in &turns {
            let c = made(json!({column: turns, "id": 7, "system": "S", "tools": "", "documents": []})).unwrap();
            assert_eq!(c.messages, want);
            assert_eq!((c.tools, c.documents, c.trained_from), (None, None, 0));
        }
    }
    // A system turn of parts, as Claude's format has it, moves what is trained.
    let row = json!({"system": [{"type": "text", "text": "S"}],
        "p": [{"role": "user", "content": "a"}], "c": [{"role": "assistant", "content": "b", "weight": 0}]});
    let c = pair(row.as_object().unwrap(), "p", "c", &Dialect::default()).unwrap();
    assert_eq!((c.messages.len(), c.trained_from, c.untrained.clone()), (3, 2, vec![2]));
    assert!(!c.trains(2));
    // Without a value a key is left out, but content.
    let c = made(
        json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [], "function_call": {}, "name": null}]}),
    );
    assert_eq!(c.unwrap().messages, [json!({"role": "assistant", "content": null})]);
}

#[test]
fn calls_and_tools_are_read_from_their_json() {
    let called = |calls: Value| json!({"role": "assistant", "content": "", "tool_calls": calls});
    let c = made(json!({"tools": "[{\"name\": \"f\", \"parameters\": {}}]", "conversations": [
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": [1]}}"},
        {"from": "tool_call", "value": [{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]},
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{\"x\": [1]}"}},
        {"role": "assistant", "content": "", "tool_calls": "[{\"name\": \"f\", \"arguments\": {\"x\": [1]}}]"},
    ]}))
    .unwrap();
    let one = called(json!([call("f", json!({"x": [1]}))]));
    let two = called(json!([call("f", json!({})), call("g", json!({}))]));
    assert_eq!(c.messages, [one.clone(), two, one.clone(), one]);
    assert_eq!(c.tools.unwrap(), [json!({"type": "function", "function": {"name": "f", "parameters": {}}})]);
}

#[test]
fn answers_that_are_marked_so_are_not_trained() {
    let answer = |key: &str, value: Value| json!({"role": "assistant", "content": "a", key: value});
    let turns = [
        ("weight", json!(0)),
        ("weight", json!(1)),
        ("train", json!(false)),
        ("loss", json!(0.0)),
        ("train", json!(true)),
    ];
    let list: Vec<Value> = turns.iter().map(|(key, value)| answer(key, value.clone())).collect();
    let c = made(json!({"messages": list})).unwrap();
    assert_eq!(c.untrained, [0, 2, 3]);
    // They are no business of the template's.
    assert!(c.messages.iter().all(|m| *m == json!({"role": "assistant", "content": "a"})));
    let e = |turn: Value| made(json!({"messages": [turn]})).unwrap_err();
    assert_eq!(e(answer("weight", json!(0.5))), "messages[0]: weight: expected 0 or 1, found 0.5");
    assert_eq!(e(answer("train", json!("no"))), "messages[0]: train: expected 0 or 1, found \"no\"");
    let asked = json!({"role": "user", "content": "q", "train": true});
    assert_eq!(e(asked), "messages[0]: train: only answers are trained, and this is a turn of \"user\"");
}

#[test]
fn what_cannot_be_read_is_named() {
    let e = |row: Value| made(row).unwrap_err();
    let turns = |turns: Value| e(json!({"conversations": turns}));
    assert_eq!(e(json!({})), "the key conversations is missing");
    assert_eq!(turns(json!("x")), "conversations: expected an array, found a string");
    assert_eq!(turns(json!([1])), "conversations[0]: expected an object, found a number");
    assert_eq!(turns(json!([{"value": "x"}])), "conversations[0]: the key role is missing (or from, with value)");
    assert_eq!(
        turns(json!([{"from": "human", "role": "user"}])),
        "conversations[0]: the keys from and role: expected one of them"
    );
    assert_eq!(turns(json!([{"from": "human"}])), "conversations[0]: the key value is missing");
    assert_eq!(turns(json!([{"role": 3, "content": ""}])), "conversations[0]: role: expected a string, found a number");
    assert_eq!(
        e(json!({"messages": [{"role": "user", "content": {}}]})),
        "messages[0]: content: expected a string, found an object"
    );
    let call = |text: &str| turns(json!([{"from": "function_call", "value": text}]));
    assert!(call("f(x)").starts_with("conversations[0]: function_call: not valid JSON: expected"));
    assert_eq!(call("{\"name\": \"f\"}"), "conversations[0]: function_call: [0]: the key arguments is missing");
    assert_eq!(call("[1]"), "conversations[0]: function_call: expected an object, found a number");
    let both = json!([{"role": "assistant", "tool_calls": [call_of("f")], "function_call": call_of("g")}]);
    assert_eq!(turns(both), "conversations[0]: function_call: the turn has calls already");
    let system = json!({"system": "S", "conversations": [{"from": "system", "value": "T"}]});
    assert_eq!(e(system), "conversations[0]: a system turn, and the row has a column system as well");
    assert!(e(json!({"tools": "[", "conversations": []})).starts_with("tools: not valid JSON: "));
    assert!(e(json!({"messages": [], "documents": "x"})).starts_with("documents: not valid JSON: "));
    assert_eq!(e(json!({"messages": [], "documents": {"a": 1}})), "documents: expected an array, found an object");
    assert_eq!(
        e(json!({"messages": [], "chat_template_kwargs": 1})),
        "chat_template_kwargs: expected an object, found a number"
    );
    assert_eq!(e(json!({"images": ["a.png"], "conversations": []})), "images: only text can be trained on");
}

fn call_of(name: &str) -> Value {
    json!({"name": name, "arguments": {}})
}

#[test]
fn reasoning_goes_by_the_name_that_the_template_knows() {
    let dialect = Dialect::find("{{ message.reasoning_content }}", |_| Ok(String::new()));
    for key in ["thinking", "reasoning", "reasoning_content"] {
        let row = json!({"messages": [{"role": "assistant", "content": "a", key: "r"}]});
        let c = conversation(row.as_object().unwrap(), "messages", &dialect).unwrap();
        assert_eq!(c.messages, [json!({"role": "assistant", "content": "a", "reasoning_content": "r"})]);
    }
}

#[test]
fn rows_as_other_services_export_them() {
    let of = |row: Value| conversation(row.as_object().unwrap(), "contents", &Dialect::default());
    let said = |messages: Value, row: Value| {
        let c = of(row).unwrap();
        assert_eq!(Value::from(c.messages), messages);
        c.mapped_roles
    };
    let pair = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    // Gemini: parts, the role model, the system turn as an object beside them.
    let gemini = json!({"systemInstruction": {"parts": [{"text": "S"}]},
        "contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]});
    let system = json!([{"role": "system", "content": "S"}, pair[0], pair[1]]);
    assert!(said(system.clone(), gemini));
    // Orca: the system turn in a column of another name.
    assert!(!said(system, json!({"system_prompt": "S", "contents": pair})));
    // The same text as a turn and in a column is one system turn.
    let system = json!([{"role": "system", "content": "S"}, pair[0]]);
    assert_eq!(of(json!({"system": "S", "contents": system})).unwrap().messages, *system.as_array().unwrap());
    // OpenAI: an answer that refuses, and empty keys that its dumps have.
    let refusal =
        json!({"contents": [pair[0], {"role": "assistant", "content": null, "refusal": "a", "tool_calls": null}]});
    assert!(!said(pair.clone(), refusal));
    let empty =
        json!({"contents": [pair[0], {"role": "assistant", "content": "a", "refusal": null, "annotations": []}]});
    assert_eq!(of(empty).unwrap().messages[1]["content"], "a");

    let e = |row: Value| of(row).unwrap_err();
    assert_eq!(
        e(json!({"contents": [{"role": "user", "text": "q"}]})),
        "contents[0]: the key content is missing; found role, text"
    );
    assert_eq!(
        e(json!({"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f"}}]}]})),
        "contents[0]: content[0]: a part without a text: only text can be trained on"
    );
    assert_eq!(
        e(json!({"system": "S", "system_prompt": "T", "contents": pair})),
        "the columns system and system_prompt: expected one of them"
    );
    // A table that pandas wrote.
    let both = json!({"contents": [pair[0], {"role": "assistant", "content": "a", "refusal": "no"}]});
    assert_eq!(e(both), "contents[1]: the keys content and refusal: expected one of them");
    let twice = json!({"tools": "[{\"name\": \"f\", \"name\": \"g\"}]", "contents": pair});
    assert!(e(twice).starts_with("tools: not valid JSON: the key name stands twice"));
    let python = e(json!({"contents": "[{'role': 'user', 'content': 'q'}]"}));
    assert_eq!(python, "contents: expected an array, found Python's own form of one: write it by json.dumps");
}

#[test]
fn turns_may_lie_deeper() {
    let pair = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let row = json!({"item": {"messages": pair}});
    let c = conversation(row.as_object().unwrap(), "item.messages", &Dialect::default()).unwrap();
    assert_eq!(c.messages, *pair.as_array().unwrap());
    let row = json!({"input": {"messages": [pair[0]]}, "preferred_output": [pair[1]]});
    let c = super::pair(row.as_object().unwrap(), "input.messages", "preferred_output", &Dialect::default()).unwrap();
    assert_eq!((c.messages.as_slice(), c.trained_from), (pair.as_array().unwrap().as_slice(), 1));
}
