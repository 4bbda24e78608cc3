//! The template engine, set up as transformers sets up jinja2.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{from_args, Kwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::clock::strftime;
use super::fuel::{self, pay, pay_items, written, FUEL};
use super::json::tojson;
use super::tags::FILTER;

/// Variables of ours, under names that no template uses.
pub(crate) const MARKS: &str = "sftmix_marks";
pub(crate) const NOW: &str = "sftmix_now";

/// What a template said with `raise_exception`.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// An environment without templates.
pub(crate) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_fuel(Some(FUEL));
    env.set_formatter(written);
    fuel::add_filters(&mut env);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    env.add_filter("sftmix_int", minijinja::filters::int);
    env.add_filter("int", |state: &mut State, value: &Value, default: Option<Value>, kwargs: Kwargs| {
        number(state, "sftmix_int", value, default, kwargs, Value::from(0))
    });
    env.add_filter("sftmix_float", minijinja::filters::float);
    env.add_filter("float", |state: &mut State, value: &Value, default: Option<Value>, kwargs: Kwargs| {
        number(state, "sftmix_float", value, default, kwargs, Value::from(0.0))
    });
    env.add_filter(FILTER, generation);
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let text = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, text.clone()).with_source(Refused(text)))
    });
    env.add_function("strftime_now", strftime_now);
    Ok(env)
}

/// Why rendering failed, for an error that names the row or file.
pub(crate) fn reason(error: &Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Refused(message)) = inner.downcast_ref::<Refused>() {
            return format!("the chat template refuses it: {message}");
        }
        source = inner.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return fuel::used_up(error.line());
    }
    format!("the chat template: {error}")
}

/// A number, or the default where the value is none: in jinja2 that is no error.
fn number(
    state: &mut State,
    filter: &str,
    value: &Value,
    default: Option<Value>,
    kwargs: Kwargs,
    zero: Value,
) -> Result<Value, Error> {
    let default = default.map_or_else(|| kwargs.get::<Option<Value>>("default"), |given| Ok(Some(given)))?;
    let mut args = vec![value.clone()];
    args.extend(kwargs.get::<Option<Value>>("base")?.map(|base| Value::from(Kwargs::from_iter([("base", base)]))));
    kwargs.assert_all_used()?;
    Ok(state.apply_filter(filter, &args).unwrap_or_else(|_| default.unwrap_or(zero)))
}

/// Puts the marks around a generation block, where marks are wanted.
fn generation(state: &State, body: String) -> String {
    match state.lookup(MARKS).as_ref().and_then(Value::as_str) {
        Some(marks) => {
            let mut marks = marks.chars();
            let (open, close) = (marks.next(), marks.next());
            open.into_iter().chain(body.chars()).chain(close).collect()
        }
        None => body,
    }
}

fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    // Given as text: a number would be a float.
    let fixed = state.lookup(NOW).and_then(|v| v.as_str()?.parse::<u64>().ok());
    let now = fixed.map_or_else(SystemTime::now, |s| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(s));
    strftime(now, format).map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
}

/// Python's methods: the library's, and those that it lacks.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            let limit = limit.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<&str> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator")),
                Some(separator) => text.rsplitn(limit, separator).collect(),
                None => rsplit_blanks(text, limit),
            };
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let last = name == "rpartition";
            let parts = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match parts {
                Some((before, behind)) => [before, separator, behind],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        // The library pays for what these make when it is there.
        "join" => {
            if let Ok((list,)) = from_args::<(&Value,)>(args) {
                pay_items(state, list)?;
            }
            unknown_method_callback(state, value, name, args)
        }
        "format" => {
            let given: usize = args.iter().map(|v| v.as_str().map_or(0, str::len)).sum();
            pay(state, text.matches('{').count().saturating_mul(given))?;
            unknown_method_callback(state, value, name, args)
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

fn rsplit_blanks(text: &str, limit: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end());
    while !rest.is_empty() {
        match rest.rfind(char::is_whitespace).filter(|_| parts.len() + 1 < limit) {
            Some(at) => {
                let blank = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[at + blank..]);
                rest = rest[..at].trim_end();
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn render(template: &str) -> Result<String, String> {
        let context = context! { s => " a b  c ", none => (), list => [1, 2], sftmix_now => "1721995200" };
        environment().unwrap().render_str(template, context).map_err(|e| reason(&e))
    }

    // Expected strings are those of jinja2 3.1 with transformers' settings.
    #[test]
    fn it_behaves_as_jinja2_does() {
        for (template, want) in [
            ("{% if true %}\na\n{% endif %}\nb\n", "a\nb"),
            ("x\n  {% if true %}\n  a\n  {% endif %}\n", "x\n  a\n"),
            ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
            ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
            ("{{ none }}|{{ true }}|{{ missing }}|{{ list }}|{{ ['a', \"b'\"] }}", "None|True||[1, 2]|['a', \"b'\"]"),
            ("{{ {'a': 1, 'b': [none]} }}", "{'a': 1, 'b': [None]}"),
            ("{{ '3'|int + 1 }}{{ 'x'|int }}{{ 'x'|int(7) }}{{ 'x'|int(default=8) }}{{ [1]|int }}{{ 'ff'|int(base=16) }}", "40780255"),
            ("{{ '2.5'|float }}|{{ 'x'|float }}|{{ 'x'|float(1.5) }}|{{ '3.9'|int }}", "2.5|0.0|1.5|3"),
            ("{{ 'abc'[::-1] }}{{ [1, 2, 3][::-1] }}", "cba[3, 2, 1]"),
            ("{{ '%s-%d'|format('a', 3) }}{{ '{}'.format(1) }}", "a-31"),
            (
                "{{ s.rsplit() }}{{ s.rsplit(None, 1) }}{{ 'a.b.c'.rsplit('.', 1) }}",
                "['a', 'b', 'c'][' a b', 'c']['a.b', 'c']",
            ),
            ("{{ 'prefix'.removeprefix('pre') }}{{ 'suffix'.removesuffix('fix') }}", "fixsuf"),
            ("{{ 'a=b=c'.partition('=')[2] }}{{ 'a=b=c'.rpartition('=')[0] }}", "b=ca=b"),
            ("{{ '<think>\n\nx'.split('<think>')[-1].lstrip('\n') }}", "x"),
            ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
            ("{{ {'a': '<é>'}|tojson }}", "{\"a\": \"<é>\"}"),
            ("{% set ns = namespace(x=1) %}{% for i in [1] %}{% set ns.x = 2 %}{% endfor %}{{ ns.x }}", "2"),
            ("{% filter sftmix_generation %}a{% endfilter %}", "a"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn a_refusal_keeps_its_words() {
        let e = render("{% macro m() %}{{ raise_exception('No system role') }}{% endmacro %}{{ m() }}").unwrap_err();
        assert_eq!(e, "the chat template refuses it: No system role");
        assert!(render("{{ missing.x }}").unwrap_err().starts_with("the chat template: undefined value"));
        assert!(render("{{ 'a' + none }}").is_err());
        assert!(render("{{ missing() }}").is_err());
    }
}
