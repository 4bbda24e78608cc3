//! JSON as Python's `json.dumps` writes it: what templates' `tojson` means, to the byte.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// How deep lists and objects may lie in each other, and how many blanks one level may have.
const MAX_DEPTH: usize = 128;

/// How `json.dumps` was asked to write.
struct Style {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn tojson(state: &State, value: &Value, rest: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    // The order of the arguments is transformers'.
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(rest.get(place).cloned().or(named).filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let indent = argument(1, "indent")?.map(indent_of).transpose()?;
    let (item, key) = match argument(2, "separators")? {
        Some(pair) => (text_of(pair.get_item(&Value::from(0))?)?, text_of(pair.get_item(&Value::from(1))?)?),
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };
    let style = Style {
        ascii: argument(0, "ensure_ascii")?.is_some_and(|v| v.is_true()),
        indent,
        item,
        key,
        sort: argument(3, "sort_keys")?.is_some_and(|v| v.is_true()),
    };
    kwargs.assert_all_used()?;
    let mut out = Writer { text: String::new(), paid: 0, state };
    write_value(&mut out, value, &style, 0)?;
    Ok(Value::from(out.text))
}

fn fault(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", what.into()))
}

fn text_of(value: Value) -> Result<String, Error> {
    value.as_str().map(String::from).ok_or_else(|| fault("separators: expected two strings"))
}

fn indent_of(value: Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.into()),
        None => match usize::try_from(value).map_err(|_| fault("indent: expected a number or a string"))? {
            blanks if blanks <= MAX_DEPTH => Ok(" ".repeat(blanks)),
            blanks => Err(fault(format!("indent: {blanks} blanks are more than {MAX_DEPTH}"))),
        },
    }
}

/// What is written, and how much of it is paid for.
struct Writer<'a, 'b, 'c> {
    text: String,
    paid: usize,
    state: &'a State<'b, 'c>,
}

impl Writer<'_, '_, '_> {
    /// Pays for what was written since, as a list may hold one long text many times.
    fn pay(&mut self) -> Result<(), Error> {
        let written = self.text.len() - self.paid;
        self.paid = self.text.len();
        super::fuel::pay(self.state, written)
    }
}

fn write_value(writer: &mut Writer, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(fault(format!("nested more than {MAX_DEPTH} deep")));
    }
    let out = &mut writer.text;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value)?,
        ValueKind::String => {
            write_text(out, value.as_str().unwrap_or_default(), style.ascii);
            writer.pay()?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            bracket(writer, style, depth, ['[', ']'], items, |out, item| write_value(out, &item, style, depth + 1))?;
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                items.push((key_text(&key)?, value.get_item(&key)?));
            }
            if style.sort {
                items.sort_by(|a, b| a.0.cmp(&b.0));
            }
            bracket(writer, style, depth, ['{', '}'], items, |out, (key, item)| {
                write_text(&mut out.text, &key, style.ascii);
                out.text.push_str(&style.key);
                write_value(out, &item, style, depth + 1)
            })?;
        }
        other => return Err(fault(format!("a value of type {other} is not JSON"))),
    }
    Ok(())
}

fn bracket<T>(
    out: &mut Writer,
    style: &Style,
    depth: usize,
    [open, close]: [char; 2],
    items: Vec<T>,
    mut each: impl FnMut(&mut Writer, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    out.text.push(open);
    let any = !items.is_empty();
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.text.push_str(&style.item);
        }
        line(&mut out.text, depth + 1);
        each(out, item)?;
        out.pay()?;
    }
    if any {
        line(&mut out.text, depth);
    }
    out.text.push(close);
    Ok(())
}

fn key_text(key: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match key.kind() {
        ValueKind::String => return Ok(key.as_str().unwrap_or_default().into()),
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if key.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(&mut out, key)?,
        other => return Err(fault(format!("a key of type {other} is not JSON"))),
    }
    Ok(out)
}

fn write_number(out: &mut String, value: &Value) -> Result<(), Error> {
    if value.is_integer() {
        let _ = write!(out, "{value}");
        return Ok(());
    }
    let x = f64::try_from(value.clone())?;
    out.push_str(&python_float(x));
    Ok(())
}

/// `repr` of a Python float: the fewest digits that read back, with an exponent outside 1e-4 to 1e16.
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "NaN".into() } else { format!("{}Infinity", if x < 0.0 { "-" } else { "" }) };
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x == 0.0 || (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// A string as JSON writes it, in its quotes.
pub(super) fn write_text(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dumps(value: serde_json::Value, arguments: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        env.render_str(
            &format!("{{{{ x|tojson{arguments} }}}}"),
            minijinja::context! { x => minijinja::value::Serde(value) },
        )
        .unwrap()
    }

    // Expected strings are those of CPython 3.12's json.dumps.
    #[test]
    fn it_writes_what_python_writes() {
        let value =
            json!({"b": [1, -2.5, 1.0, true, null], "a": {"k": "é\"\\\n\u{1}😀</x>'&\u{7f}"}, "e": [], "o": {}});
        assert_eq!(
            dumps(value.clone(), ""),
            "{\"b\": [1, -2.5, 1.0, true, null], \"a\": {\"k\": \"é\\\"\\\\\\n\\u0001😀</x>'&\u{7f}\"}, \"e\": [], \"o\": {}}"
        );
        assert_eq!(
            dumps(value.clone(), "(indent=2)"),
            "{\n  \"b\": [\n    1,\n    -2.5,\n    1.0,\n    true,\n    null\n  ],\n  \"a\": {\n    \"k\": \
             \"é\\\"\\\\\\n\\u0001😀</x>'&\u{7f}\"\n  },\n  \"e\": [],\n  \"o\": {}\n}"
        );
        assert_eq!(
            dumps(json!([1, {"z": 1, "a": "é😀"}]), "(ensure_ascii=True, sort_keys=True)"),
            "[1, {\"a\": \"\\u00e9\\ud83d\\ude00\", \"z\": 1}]"
        );
        assert_eq!(dumps(json!([1, {"z": 2}]), "(separators=(',', ':'))"), "[1,{\"z\":2}]");
        assert_eq!(dumps(json!([1]), "(indent='\t')"), "[\n\t1\n]");
        assert_eq!(dumps(json!([1]), "(indent=0)"), "[\n1\n]");
        assert_eq!(dumps(json!([1]), "(false, 1)"), "[\n 1\n]");
    }

    #[test]
    fn floats_are_pythons() {
        for (x, want) in [
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (9007199254740992.0, "9007199254740992.0"),
            (1e15, "1000000000000000.0"),
            (1.0 / 3.0, "0.3333333333333333"),
        ] {
            assert_eq!(python_float(x), want);
        }
    }
}
