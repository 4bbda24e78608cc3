//! A prompt with `{column}` in place of values.
//!
//! `{{` and `}}` stand for braces. Because a template is often written in a shell, `\n`, `\t` and
//! `\\` in the template (never in the values) stand for line end, tab and backslash.

use crate::error::{Error, Result};

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl PromptTemplate {
    /// Parses the template.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names `prompt_template`: a brace without its partner, or no column.
    pub fn parse(template: &str) -> Result<PromptTemplate> {
        let bad = |reason: &str| Error::config("prompt_template", format!("{reason} in {template:?}"));
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut chars = template.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('{', Some('{')) | ('}', Some('}')) | ('\\', Some('\\')) => text.extend(chars.next()),
                ('\\', Some('n')) => {
                    chars.next();
                    text.push('\n');
                }
                ('\\', Some('t')) => {
                    chars.next();
                    text.push('\t');
                }
                ('{', _) => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some('{') | None => return Err(bad("a { has no } (write {{ for a brace)")),
                            Some(c) => name.push(c),
                        }
                    }
                    if name.is_empty() {
                        return Err(bad("a column without a name"));
                    }
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(Part::Column(name));
                }
                ('}', _) => return Err(bad("a } has no { (write }} for a brace)")),
                (c, _) => text.push(c),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        if !parts.iter().any(|p| matches!(p, Part::Column(_))) {
            return Err(bad("expected a {column}, found none"));
        }
        Ok(PromptTemplate { parts })
    }

    /// The text with values in place, and whether any value was not empty.
    pub(crate) fn fill(
        &self,
        column: impl Fn(&str) -> std::result::Result<String, String>,
    ) -> std::result::Result<(String, bool), String> {
        let (mut text, mut any) = (String::new(), false);
        for part in &self.parts {
            match part {
                Part::Text(t) => text.push_str(t),
                Part::Column(name) => {
                    let value = column(name).map_err(|e| format!("prompt_template: {e}"))?;
                    any |= !value.is_empty();
                    text.push_str(&value);
                }
            }
        }
        Ok((text, any))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_and_escapes() {
        let fill = |t: &str| PromptTemplate::parse(t).unwrap().fill(|k| Ok(format!("<{k}>"))).unwrap().0;
        assert_eq!(fill(r"{a}\n{b c}"), "<a>\n<b c>");
        assert_eq!(fill(r"{{{a}}}\t\\n\x"), "{<a>}\t\\n\\x");
        assert_eq!(fill("é{a}\nü"), "é<a>\nü");
    }

    #[test]
    fn malformed_templates_are_refused() {
        for bad in ["{a", "{a{b}}", "a}", "{}", "no column", ""] {
            let e = PromptTemplate::parse(bad).unwrap_err().to_string();
            assert!(e.starts_with("invalid setting prompt_template"), "{e}");
        }
    }
}
