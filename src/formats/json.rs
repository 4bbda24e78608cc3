//! What is wrong with a text that is no JSON.

/// The key before the place where reading stopped, what stands there, and the reader's words: Python writes `NaN` and
/// `Infinity`, which are no JSON, and a line's number says little to who did not write the file.
pub(crate) fn damage(text: &[u8], e: &serde_json::Error) -> String {
    match key_at_fault(text, e) {
        Some((key, value)) => format!("damaged: {key}: {value}: {e}"),
        None => format!("damaged: {e}"),
    }
}

/// The key before the place where reading stopped, and the beginning of what stands there.
pub(crate) fn key_at_fault(text: &[u8], e: &serde_json::Error) -> Option<(String, String)> {
    if !e.is_syntax() {
        return None;
    }
    let text = String::from_utf8_lossy(text);
    let line = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let mut at = (line + e.column()).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (key, from) = last_key(&text[..at])?;
    let value = text[from..].split([',', '}', ']', '\n']).next().unwrap_or_default().trim();
    Some((key.into(), value.chars().take(40).collect()))
}

/// The last key whose value has begun and not ended, and where it begins; in a list, where its last element does.
fn last_key(text: &str) -> Option<(&str, usize)> {
    let (mut key, mut string) = (None, None);
    // For each list and object that is open whether it is a list.
    let mut open = Vec::new();
    let mut characters = text.char_indices();
    while let Some((i, c)) = characters.next() {
        match c {
            '"' => {
                let mut escaped = false;
                let end = characters.by_ref().find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                string = end.map(|(end, _)| &text[i + 1..end]);
            }
            ':' => key = string.take().map(|key| (key, i + 1)),
            '[' => {
                open.push(true);
                key = key.map(|(key, _)| (key, i + 1));
            }
            ',' if open.last() == Some(&true) => key = key.map(|(key, _)| (key, i + 1)),
            ']' => {
                open.pop();
            }
            ',' => key = None,
            '{' => {
                open.push(false);
                key = None;
            }
            '}' => {
                open.pop();
                key = None;
            }
            _ => {}
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_at_fault_is_named() {
        for (text, says) in [
            (r#"{"r": 8, "lora_alpha": NaN, "x": 1}"#, "damaged: lora_alpha: NaN: "),
            ("{\n  \"a:\\\"b\": \"x\",\n  \"lora_alpha\": -Infinity\n}", "damaged: lora_alpha: -Infinity: "),
            (r#"{"alpha_pattern": {"q_proj": Infinity}}"#, "damaged: q_proj: Infinity: "),
            (r#"{"é": 1e999}"#, "damaged: é: 1e999: "),
            (r#"{"short_factor": [1.0, [2], NaN]}"#, "damaged: short_factor: NaN: "),
            (r#"{"a": [1, 2], "b": x}"#, "damaged: b: x: "),
            (r#"{"a": [{"b": 1, x}]}"#, "damaged: key must be a string"),
            ("{", "damaged: EOF"),
            (r#"{"r": 8, x}"#, "damaged: key must be a string"),
            ("nothing", "damaged: expected"),
        ] {
            let e = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            let said = damage(text.as_bytes(), &e);
            assert!(said.starts_with(says), "{text}: {said}");
        }
    }
}
