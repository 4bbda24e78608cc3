//! What is wrong with a text that is no JSON.

/// The key before the place where reading stopped, what stands there, and the reader's words: Python writes `NaN` and
/// `Infinity`, which are no JSON, and a line's number says little to who did not write the file.
pub(crate) fn damage(text: &[u8], e: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let mut at = (line + e.column()).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    match last_key(&text[..at]).filter(|_| e.is_syntax()) {
        Some((key, from)) => {
            let value = text[from..].split([',', '}', '\n']).next().unwrap_or_default().trim();
            format!("damaged: {key}: {}: {e}", value.chars().take(40).collect::<String>())
        }
        None => format!("damaged: {e}"),
    }
}

/// The last key whose value has begun and not ended, and where it begins.
fn last_key(text: &str) -> Option<(&str, usize)> {
    let (mut key, mut string) = (None, None);
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
            ',' | '{' | '}' => key = None,
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
