use super::*;
use serde_json::json;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn special() -> SpecialTokens {
    let more = ["<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"].map(String::from);
    SpecialTokens::new(Some("<s>"), Some("</s>")).with(more)
}

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::from_text("t.jinja", text, special()).unwrap()
}

fn chat(turns: &[(&str, &str)]) -> Conversation {
    turns.iter().fold(Conversation::default(), |chat, (role, text)| chat.with(role, text))
}

fn trained(template: &ChatTemplate, chat: &Conversation) -> Result<Vec<String>, String> {
    let options = RenderOptions::default();
    let rendered = template.training(chat, &options).map_err(|e| e.to_string())?;
    assert_eq!(rendered.text, template_text(template, chat), "the text is what the template writes");
    Ok(rendered.spans.iter().map(|s| rendered.text[s.clone()].to_string()).collect())
}

fn template_text(template: &ChatTemplate, chat: &Conversation) -> String {
    template.render(chat, &RenderOptions::default()).unwrap().text
}

#[test]
fn answers_and_their_end_tokens_are_found() {
    let t = template(CHATML);
    assert_eq!((t.spans(), t.end_token(&RenderOptions::default()).unwrap().as_str()), (Spans::Marks, "<|im_end|>"));
    let two = chat(&[("system", "s"), ("user", "a"), ("assistant", " b\n"), ("user", "c"), ("assistant", "")]);
    assert_eq!(trained(&t, &two).unwrap(), [" b\n<|im_end|>", "<|im_end|>"]);
    let later = Conversation { trained_from: 3, ..two };
    assert_eq!(trained(&t, &later).unwrap(), ["<|im_end|>"]);
    assert_eq!(trained(&t, &chat(&[("user", "a")])).unwrap(), [""; 0]);
    // The words of the prompt in a question are no prompt; marks that the text has already are avoided.
    let odd = chat(&[("user", "<|im_start|>assistant\n\u{F0000}"), ("assistant", "\u{F0001}<|im_start|>assistant\nx")]);
    assert_eq!(trained(&t, &odd).unwrap(), ["\u{F0001}<|im_start|>assistant\nx<|im_end|>"]);
}

#[test]
fn a_template_that_trims_is_asked_again() {
    let t = template(&CHATML.replace("m['content']", "m['content'] | trim"));
    let c = chat(&[("user", " a "), ("assistant", "\n b "), ("user", "c"), ("assistant", "  "), ("assistant", "d")]);
    assert_eq!(trained(&t, &c).unwrap(), ["b<|im_end|>", "<|im_end|>", "d<|im_end|>"]);
    let left = template(&CHATML.replace("m['content']", "m['content'].lstrip('\n')"));
    assert_eq!(trained(&left, &chat(&[("user", "a"), ("assistant", "\n b\n")])).unwrap(), [" b\n<|im_end|>"]);
}

#[test]
fn a_template_that_rewrites_answers_is_refused() {
    let c = chat(&[("user", "a"), ("assistant", "b"), ("assistant", "c")]);
    let t = template(&CHATML.replace("m['content']", "('x' if m['content'] == 'c' else m['content'])"));
    assert!(trained(&t, &c).unwrap_err().contains("messages[2]: the chat template changes the answer"));
    let back = template(&CHATML.replace("m['content']", "m['content'] | reverse"));
    assert!(trained(&back, &c).unwrap_err().starts_with("t.jinja: the chat template does not write an answer out"));
    let twice = template(&CHATML.replace("m['content']", "m['content'] + m['content']"));
    assert!(trained(&twice, &c).unwrap_err().starts_with("t.jinja: the chat template does not write an answer out"));
    let bare = template("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}");
    assert!(trained(&bare, &c).unwrap_err().contains("no end token behind an answer"));
    // Answers that run into one another share an end token.
    let merged = template(
        "{% for m in messages %}{{ m['content'] }}{% if loop.last or messages[loop.index].role != m.role %}\
         {{ eos_token }}{% endif %}{% endfor %}",
    );
    assert!(trained(&merged, &c).unwrap_err().contains("messages[1]: the end token </s> does not follow"));
}

#[test]
fn what_the_model_writes_before_its_text_is_trained() {
    // As Qwen3: a think block in the last turn only.
    let t = template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last and m.role == 'assistant' %}\
         {{ '<think>\n' + m.reasoning_content|default('') + '\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
         {% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    );
    let c = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    assert_eq!(trained(&t, &c).unwrap(), ["b<|im_end|>", "<think>\n\n</think>\n\nd<|im_end|>"]);
    let mut thought = c.clone();
    thought.messages[3]["reasoning_content"] = "hm".into();
    thought.messages[1]["reasoning_content"] = "lost".into();
    assert_eq!(trained(&t, &thought).unwrap(), ["b<|im_end|>", "<think>\nhm\n</think>\n\nd<|im_end|>"]);
    // Generated behind the empty block, so not trained with it.
    let extras = json!({"enable_thinking": false}).as_object().unwrap().clone();
    let off = Conversation { extras: extras.clone(), ..c.clone() };
    assert_eq!(trained(&t, &off).unwrap(), ["b<|im_end|>", "d<|im_end|>"]);
    assert_eq!(trained(&t, &c).unwrap()[1], "<think>\n\n</think>\n\nd<|im_end|>");
    let options = RenderOptions { extras, ..Default::default() };
    assert_eq!(t.training(&c, &options).unwrap().spans.len(), 2);
}

#[test]
fn calls_are_trained_with_their_turn() {
    let t = template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.content %}{{ '\n' + m.content }}{% endif %}\
         {% for c in m.tool_calls %}{{ '\n<call>' + (c.function|tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    );
    let call = |name: &str| json!({"type": "function", "function": {"name": name, "arguments": {"a": "<|é|>"}}});
    let mut c = chat(&[("user", "a")]);
    c.messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call("f")]}));
    c.messages.push(json!({"role": "tool", "content": "r"}));
    c.messages.push(json!({"role": "assistant", "content": "see", "tool_calls": [call("g"), call("h")]}));
    assert_eq!(
        trained(&t, &c).unwrap(),
        [
            "<call>{\"name\": \"f\", \"arguments\": {\"a\": \"<|é|>\"}}</call><|im_end|>",
            "see\n<call>{\"name\": \"g\", \"arguments\": {\"a\": \"<|é|>\"}}</call>\n\
             <call>{\"name\": \"h\", \"arguments\": {\"a\": \"<|é|>\"}}</call><|im_end|>",
        ]
    );
}

#[test]
fn generation_tags_are_taken_at_their_word() {
    let t = template(
        "{% for m in messages %}\n    {%- if m.role == 'assistant' %}\n        {{- '[/INST]' }}\n        {%- generation %}\n        \
         {{- m.content + eos_token }}\n        {%- endgeneration %}\n    {%- else %}\n        {{- '[INST]' + m.content }}\n    \
         {%- endif %}\n{%- endfor %}",
    );
    let c = chat(&[("user", "a"), ("assistant", "b"), ("user", "é"), ("assistant", " ü")]);
    let rendered = t.training(&c, &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text, "[INST]a[/INST]b</s>[INST]é[/INST] ü</s>");
    assert_eq!((t.spans(), trained(&t, &c).unwrap()), (Spans::Tags, vec!["b</s>".to_string(), " ü</s>".into()]));
    let later = Conversation { trained_from: 2, ..c.clone() };
    assert_eq!(trained(&t, &later).unwrap(), [" ü</s>"]);
    let open = template("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endfor %}");
    assert!(trained(&open, &c).unwrap_err().contains("\"a\" does not end in an end token"), "{:?}", trained(&open, &c));
}

#[test]
fn a_template_may_refuse_or_fail() {
    let t =
        template("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}");
    let e = t.render(&chat(&[("system", "s")]), &RenderOptions::default()).unwrap_err();
    assert_eq!(e.to_string(), "t.jinja: the chat template refuses it: System role not supported");
    let e = ChatTemplate::from_text("t.jinja", "a\n{% if %}", special()).unwrap_err().to_string();
    assert!(e.starts_with("t.jinja: the chat template: syntax error") && e.contains("chat_template:2"), "{e}");
}

#[test]
fn variables_are_transformers() {
    let t = template("{{ bos_token }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ unk_token }}{{ x }}");
    let with = |add_generation_prompt| RenderOptions { add_generation_prompt, ..Default::default() };
    assert_eq!(t.render(&Conversation::default(), &with(true)).unwrap().text, "<s>NoneNoneTrue");
    let c = Conversation {
        tools: Some(vec![json!({"b": 1, "a": null})]),
        documents: Some(vec!["d".into()]),
        extras: json!({"x": [1.0, "y"]}).as_object().unwrap().clone(),
        ..Default::default()
    };
    assert_eq!(t.render(&c, &with(false)).unwrap().text, "<s>[{'b': 1, 'a': None}]['d']False[1.0, 'y']");
}

#[test]
fn templates_come_from_either_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    let text = |chat: &Conversation| {
        ChatTemplate::from_dir(dir.path()).unwrap().map(|t| t.render(chat, &RenderOptions::default()).unwrap().text)
    };
    let plain = Conversation::default();
    let tools = Conversation { tools: Some(vec![json!({})]), ..Default::default() };
    assert_eq!(text(&plain), None);
    let bos = json!({"content": "<b>", "lstrip": false});
    write("tokenizer_config.json", json!({"bos_token": bos, "chat_template": "one {{ bos_token }}"}).to_string());
    assert_eq!(text(&tools).as_deref(), Some("one <b>"));
    let list =
        json!([{"name": "default", "template": "two"}, {"name": "tool_use", "template": "three{{ eos_token }}"}]);
    write("tokenizer_config.json", json!({"chat_template": list}).to_string());
    write("special_tokens_map.json", json!({"eos_token": "</e>"}).to_string());
    assert_eq!((text(&plain).as_deref(), text(&tools).as_deref()), (Some("two"), Some("three</e>")));
    write("tokenizer_config.json", json!({"chat_template": [{"name": "rag", "template": "x"}]}).to_string());
    assert!(ChatTemplate::from_dir(dir.path()).unwrap_err().to_string().contains("none of the list is named default"));
    write("chat_template.jinja", "four\n".into());
    assert_eq!(text(&tools).as_deref(), Some("four"));
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "five".into());
    assert_eq!((text(&plain).as_deref(), text(&tools).as_deref()), (Some("four"), Some("five")));
}
