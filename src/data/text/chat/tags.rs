//! `{% generation %}` … `{% endgeneration %}`: what the model is trained to write.
//!
//! The engine does not know the tag. It becomes a filter block, which has the tag's place, white space and scope, and whose
//! filter puts a mark on either side; once rendered, the marks are noted and removed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;

/// Name of the filter.
pub(crate) const FILTER: &str = "sftmix_generation";

/// The template with its generation tags rewritten, and whether there were any.
pub(crate) fn rewrite(template: &str) -> (Cow<'_, str>, bool) {
    let mut out = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(found) = template[at..].find('{') {
        at += found;
        let rest = &template[at..];
        if rest.starts_with("{#") {
            at = after(template, at + 2, "#}");
        } else if rest.starts_with("{{") {
            at = after_code(template, at + 2, "}}");
        } else if rest.starts_with("{%") {
            let end = after_code(template, at + 2, "%}");
            // A tag that is never closed goes to the end, and the compiler says so.
            let tag = &template[at + 2..end];
            let inside = tag.strip_suffix("%}").unwrap_or(tag);
            let name = inside.trim_start_matches(['-', '+']).trim();
            let name = name.trim_end_matches(['-', '+']).trim_end();
            let new = match name {
                "generation" => Some(format!("filter {FILTER}")),
                "endgeneration" => Some("endfilter".into()),
                _ => None,
            };
            if let Some(new) = new {
                // A slice of the template, so its place in it is known.
                let start = at + 2 + inside.find(name).unwrap_or(0);
                out.push_str(&template[kept..start]);
                out.push_str(&new);
                kept = start + name.len();
            }
            at = end;
            if name == "raw" {
                at = template[at..].find("endraw").map_or(template.len(), |n| at + n);
            }
        } else {
            at += 1;
        }
    }
    if kept == 0 {
        return (Cow::Borrowed(template), false);
    }
    out.push_str(&template[kept..]);
    (Cow::Owned(out), true)
}

fn after(template: &str, from: usize, end: &str) -> usize {
    template[from..].find(end).map_or(template.len(), |n| from + n + end.len())
}

/// Behind `end`, which in a string literal is part of it.
fn after_code(template: &str, from: usize, end: &str) -> usize {
    let mut quote = None;
    let mut chars = template[from..].char_indices();
    while let Some((i, c)) = chars.next() {
        match quote {
            Some(_) if c == '\\' => drop(chars.next()),
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if template[from + i..].starts_with(end) => return from + i + end.len(),
            None if c == '"' || c == '\'' => quote = Some(c),
            None => {}
        }
    }
    template.len()
}

/// `n` characters for private use that neither the template nor any of the values has.
pub(crate) fn free_marks<'a>(
    n: usize,
    template: &str,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<Vec<char>, String> {
    let mut used = BTreeSet::new();
    note(template, &mut used);
    values.into_iter().for_each(|v| walk(v, &mut used));
    let free: Vec<char> = ('\u{F0000}'..='\u{FFFFD}').filter(|c| !used.contains(c)).take(n).collect();
    if free.len() < n {
        return Err(format!("{n} characters for private use are needed as marks, {} are free", free.len()));
    }
    Ok(free)
}

fn note(text: &str, used: &mut BTreeSet<char>) {
    // No such character without the byte its plane begins with.
    if text.as_bytes().contains(&0xF3) {
        used.extend(text.chars().filter(|c| *c >= '\u{F0000}'));
    }
}

fn walk(value: &Value, used: &mut BTreeSet<char>) {
    match value {
        Value::String(text) => note(text, used),
        Value::Array(list) => list.iter().for_each(|v| walk(v, used)),
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            note(key, used);
            walk(v, used);
        }),
        _ => {}
    }
}

/// A text without the marks, and where each stood in it.
pub(crate) fn strip(text: &str, marks: &[char]) -> (String, Vec<(char, usize)>) {
    let (Some(&low), Some(&high)) = (marks.iter().min(), marks.iter().max()) else { return (text.into(), Vec::new()) };
    let (mut out, mut found) = (String::with_capacity(text.len()), Vec::new());
    for c in text.chars() {
        if (low..=high).contains(&c) && marks.contains(&c) {
            found.push((c, out.len()));
        } else {
            out.push(c);
        }
    }
    (out, found)
}

/// The ranges between the first mark and the second; those that touch become one.
pub(crate) fn spans(found: &[(char, usize)], open: char) -> Result<Vec<Range<usize>>, String> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut begun: Option<usize> = None;
    for &(mark, at) in found {
        match (mark == open, begun.take()) {
            (true, None) => begun = Some(at),
            (false, Some(start)) => match spans.last_mut().filter(|s| s.end == start) {
                Some(last) => last.end = at,
                None => spans.push(start..at),
            },
            _ => return Err("its generation blocks lie in one another, or in text that is written twice".into()),
        }
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tag_that_is_never_closed_is_left_to_the_compiler() {
        for t in ["{{ a }}{% x €", "{%€", "{% if '€\n", "{%"] {
            assert_eq!(rewrite(t), (t.into(), false));
        }
    }

    #[test]
    fn tags_are_found_where_they_are_tags() {
        let t = "{#- {% generation %} #}{{ '{% generation %}' }}{%- generation -%}a{%+endgeneration%}\
                 {% raw %}{% generation %}{% endraw %}{% if x == '%}{%generation%}' %}{% generations %}{ {%";
        let (out, any) = rewrite(t);
        assert!(any);
        assert_eq!(
            out,
            "{#- {% generation %} #}{{ '{% generation %}' }}{%- filter sftmix_generation -%}a{%+endfilter%}\
             {% raw %}{% generation %}{% endraw %}{% if x == '%}{%generation%}' %}{% generations %}{ {%"
        );
        assert!(matches!(rewrite("{% if a %}{{ b }"), (Cow::Borrowed(_), false)));
    }

    #[test]
    fn marks_avoid_what_is_there() {
        let values = [json!({"a": ["\u{F0001}"], "\u{F0003}": 1})];
        let marks = free_marks(3, "\u{F0000}", &values).unwrap();
        assert_eq!(marks, ['\u{F0002}', '\u{F0004}', '\u{F0005}']);
        assert!(free_marks(70_000, "", &values).is_err());
        let (text, found) = strip("a\u{F0002}b\u{F0003}é\u{F0004}c\u{F0002}\u{F0004}", &marks[..2]);
        assert_eq!(text, "ab\u{F0003}éc");
        assert_eq!(spans(&found, marks[0]).unwrap(), [1..8, 9..9]);
        assert!(spans(&found[1..], marks[0]).is_err());
        assert_eq!(spans(&[('a', 1), ('b', 3), ('a', 3), ('b', 4), ('a', 5), ('b', 6)], 'a').unwrap(), [1..4, 5..6]);
    }
}
