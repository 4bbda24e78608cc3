//! Templates that write past turns otherwise than those they are trained on, and what they become for training.
//!
//! Qwen3 writes its think block only in turns behind the last question, so past turns would teach the model to answer
//! without one. In the training form every assistant turn has the block, and trains it. The form is made from the template by
//! edits, each of which must find its place once: line ends, comments and what else a release changes do not count, and what
//! a template loses all the same is seen when its rows are rendered.

/// A template that is known.
struct Known {
    name: &'static str,
    /// What is replaced, and by what; each is there once.
    edits: &'static [(&'static str, &'static str)],
}

const KNOWN: &[Known] = &[Known {
    name: "Qwen3",
    edits: &[
        (
            "{%- if loop.index0 > ns.last_query_index %}",
            "{{- '<|im_start|>' + message.role + '\\n' }}{%- generation %}{%- if true %}",
        ),
        ("{%- if loop.last or (not loop.last and reasoning_content) %}", "{%- if true %}"),
        ("{{- '<|im_start|>' + message.role + '\\n<think>\\n' + ", "{{- '<think>\\n' + "),
        (
            "{{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}",
            "{{- '<|im_end|>\\n' }}{%- endgeneration %}\n    {%- elif message.role == \"tool\" %}",
        ),
    ],
}];

/// Name and training form of a template that is known.
pub(crate) fn of(template: &str) -> Option<(&'static str, String)> {
    let plain = without_comments(&template.replace("\r\n", "\n"));
    let known = KNOWN.iter().find(|known| known.edits.iter().all(|(from, _)| plain.matches(from).count() == 1))?;
    let text = known.edits.iter().fold(plain, |text, (from, to)| text.replacen(from, to, 1));
    Some((known.name, text))
}

/// A template without its comments, whose blanks before and behind jinja trims as they say.
fn without_comments(template: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(start) = rest.find("{#") {
        // What begins inside of a tag is none.
        let inside = ["{%", "{{"].iter().any(|open| {
            let close = if *open == "{%" { "%}" } else { "}}" };
            rest[..start].rfind(open).is_some_and(|at| !rest[at..start].contains(close))
        });
        let Some(end) = rest[start..].find("#}").filter(|_| !inside).map(|n| start + n + 2) else { break };
        let (comment, before) = (&rest[start..end], &rest[..start]);
        out.push_str(if comment.starts_with("{#-") { before.trim_end() } else { before });
        rest = &rest[end..];
        if comment.ends_with("-#}") {
            rest = rest.trim_start();
        } else {
            // As after a block.
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::shared;

    #[test]
    fn every_edit_finds_its_place_once() {
        let Some(path) = shared("tokenizers/qwen3-0.6b/tokenizer_config.json") else { return };
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let template = config["chat_template"].as_str().unwrap();
        for (from, _) in KNOWN[0].edits {
            assert_eq!(template.matches(from).count(), 1, "{from}");
        }
        assert_eq!(of(template).unwrap().0, "Qwen3");
        let form = of(template).unwrap().1;
        // Edits of no effect.
        assert_eq!(of(&template.replace('\n', "\r\n")).unwrap().1, form);
        assert_eq!(of(&format!("{{# Qwen3, as released again #}}\n{template}")).unwrap().1, form);
        assert!(of(&template.replacen("loop.index0 > ns", "loop.index0 >= ns", 1)).is_none());
    }
}
