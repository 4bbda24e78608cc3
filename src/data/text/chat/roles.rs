//! The roles of messages by the names that people and exporters give them.
//!
//! | written | becomes |
//! |---|---|
//! | `user`, `human`, `prompter` | `user` |
//! | `assistant`, `gpt`, `bot`, `model`, `ai`, `chatgpt`, `chatbot` | `assistant` |
//! | `system` | `system` |
//! | `developer` | `system`, unless the template knows it |
//! | `tool`, `observation`, `function`, `ipython`, `tool_response`, `tool_result` | `tool`, or what the template knows of these |
//! | `function_call`, `tool_call` | `assistant` with `tool_calls`: the text is JSON, one `{name, arguments}` or a list of them |
//!
//! Blanks around a name and capitals do not count. A role that is none of these stays as it is: whether the template writes
//! it is seen when the row is rendered.

/// What a role is, by whatever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Assistant,
    System,
    Developer,
    /// What a function answered.
    Result,
    /// An answer that calls functions and stands as JSON in its text.
    Call,
}

impl Role {
    /// The role of a name; `None` for one that is not known.
    pub fn of(name: &str) -> Option<Role> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "user" | "human" | "prompter" => Role::User,
            "assistant" | "gpt" | "bot" | "model" | "ai" | "chatgpt" | "chatbot" => Role::Assistant,
            "system" => Role::System,
            "developer" => Role::Developer,
            "tool" | "observation" | "function" | "ipython" | "tool_response" | "tool_result" => Role::Result,
            "function_call" | "tool_call" => Role::Call,
            _ => return None,
        })
    }

    /// Its name for a template, which `knows` some words.
    pub fn name(self, given: &str, knows: impl Fn(&str) -> bool) -> &str {
        match self {
            Role::User => "user",
            Role::Assistant | Role::Call => "assistant",
            Role::System => "system",
            Role::Developer if knows("developer") => "developer",
            Role::Developer => "system",
            Role::Result if !knows("tool") && knows(given) => given,
            Role::Result => "tool",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_the_template_knows() {
        let named = |given: &str, template: &[&str]| {
            Role::of(given).map(|role| role.name(given, |word| template.contains(&word)).to_string())
        };
        for (given, template, want) in [
            (" User ", &[][..], Some("user")),
            ("human", &["human"], Some("user")),
            ("Assistant", &[], Some("assistant")),
            ("model", &["model"], Some("assistant")),
            ("developer", &["system"], Some("system")),
            ("developer", &["developer", "system"], Some("developer")),
            ("observation", &["observation"], Some("observation")),
            ("observation", &["observation", "tool"], Some("tool")),
            ("function", &[], Some("tool")),
            ("critic", &["critic"], None),
        ] {
            assert_eq!(named(given, template).as_deref(), want, "{given}");
        }
    }
}
