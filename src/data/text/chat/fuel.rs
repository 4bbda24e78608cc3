//! What a template may take: a stranger's must not hold the machine.
//!
//! The engine counts steps and bytes and refuses a text of known size before it is made. What it counts only when it is there
//! (a list that holds one long text many times, written out or joined) is paid for here beforehand. What remains is a list
//! that `~` turns into text: the engine has no place to ask before.

use std::fmt::Write;

use minijinja::value::Rest;
use minijinja::{Environment, Error, Output, State, Value};

/// What one rendering may take: a step is one, 64 bytes that are written, joined or copied are one. So a stranger's
/// template ends within a second or two, and holds half a gigabyte at most; a row of 40 MiB, or one of thousands of turns, can
/// be written and searched several times.
pub(super) const FUEL: u64 = 8_000_000;
/// What one of it pays for, in bytes.
const BYTES: u64 = 64;

/// What is said of a template that took it all.
pub(super) fn used_up(line: Option<usize>) -> String {
    let line = line.map_or(String::new(), |line| format!(" (line {line})"));
    let (steps, bytes) = (FUEL / 1_000_000, (FUEL * BYTES) >> 20);
    format!("the chat template does not end within {steps} million steps or {bytes} MiB of text{line}")
}

/// Pays for text before it is made.
pub(super) fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes as u64).div_ceil(BYTES))
}

/// Pays for the items of a list before they are joined, which the engine counts in the text that they become.
pub(super) fn pay_items(state: &State, list: &Value) -> Result<(), Error> {
    if list.is_undefined() || list.as_str().is_some() {
        return Ok(());
    }
    for item in list.try_iter()? {
        pay(state, written_bytes(&item))?;
    }
    Ok(())
}

/// How long a value is when it is written, counted without writing it.
fn written_bytes(value: &Value) -> usize {
    struct Counted(usize);
    impl Write for Counted {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 += text.len();
            // Beyond what a rendering may write, no more is counted.
            if self.0 as u64 > FUEL * BYTES {
                Err(std::fmt::Error)
            } else {
                Ok(())
            }
        }
    }
    let mut counted = Counted(0);
    match value.as_str() {
        Some(text) => counted.0 = text.len(),
        None => _ = write!(counted, "{value}"),
    }
    counted.0
}

/// The engine's `join` and `string` under names of their own, behind what pays for them.
pub(super) fn add_filters(env: &mut Environment) {
    env.add_filter("sftmix_join", minijinja::filters::join);
    env.add_filter("join", |state: &mut State, list: &Value, rest: Rest<Value>| {
        pay_items(state, list)?;
        let args: Vec<Value> = std::iter::once(list.clone()).chain(rest.0).collect();
        state.apply_filter("sftmix_join", &args)
    });
    env.add_filter("sftmix_string", minijinja::filters::string);
    env.add_filter("string", |state: &mut State, value: &Value| {
        pay(state, written_bytes(value))?;
        state.apply_filter("sftmix_string", std::slice::from_ref(value))
    });
}

/// Writes a value as a template does where nothing is escaped.
pub(super) fn written(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return Ok(out.write_str(text)?);
    }
    if value.is_undefined() {
        return minijinja::escape_formatter(out, state, value);
    }
    let mut paying = Paying { out, state, fault: None };
    let result = write!(paying, "{value}");
    match paying.fault {
        Some(fault) => Err(fault),
        None => Ok(result?),
    }
}

/// An output that is paid for piece by piece.
struct Paying<'a, 'o, 's, 't> {
    out: &'a mut Output<'o>,
    state: &'a State<'s, 't>,
    fault: Option<Error>,
}

impl Write for Paying<'_, '_, '_, '_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if let Err(fault) = pay(self.state, text.len()) {
            self.fault.get_or_insert(fault);
            return Err(std::fmt::Error);
        }
        self.out.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::{environment, reason};

    fn render(template: &str) -> Result<String, String> {
        environment().unwrap().render_str(template, minijinja::context! {}).map_err(|e| reason(&e))
    }

    #[test]
    fn a_template_has_bounds() {
        let doubled =
            "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}";
        let megabyte = "{% set s = 'a' * 1000000 %}";
        let mut failed = Vec::new();
        for template in [
            doubled.to_string(),
            doubled.replace("ns.s + ns.s", "ns.s ~ ns.s"),
            doubled.replace("'ab'", "[1]").replace("ns.s + ns.s", "(ns.s + ns.s)|list"),
            doubled
                .replace("{% set ns.s = ns.s + ns.s %}", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}\n")
                .replace("{% set ns.s %}", "{% set t %}")
                .replace("{% endset %}", "{% endset %}{% set ns.s = t %}"),
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_string(),
            "{% macro m(s) %}{{ m(s + s) }}{% endmacro %}{{ m('ab') }}".to_string(),
            format!("{megabyte}{{{{ s.replace('a', s) }}}}"),
            format!("{megabyte}{{{{ s|replace('a', s) }}}}"),
            format!("{megabyte}{{{{ ''.join([s] * 1000000) }}}}"),
            format!("{megabyte}{{{{ [s] * 1000000 }}}}"),
            format!("{megabyte}{{{{ ([s] * 1000000)|join }}}}"),
            format!("{megabyte}{{{{ ([s] * 1000000)|tojson }}}}"),
            format!("{megabyte}{{{{ ([s] * 1000000)|string }}}}"),
            format!("{megabyte}{{{{ ([[s]] * 1000000)|join(', ') }}}}"),
            format!("{megabyte}{{{{ ('{{0}}' * 100000).format(s) }}}}"),
            format!("{megabyte}{{{{ s|list|tojson(indent=1000000) }}}}"),
            format!("{megabyte}{{{{ s|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson }}}}")
                .replace("'a'", "'\\\\'"),
        ] {
            let began = std::time::Instant::now();
            let result = render(&template);
            let bounded = matches!(&result, Err(e) if e.contains("million steps") || e.contains("tojson: indent"));
            if !bounded || began.elapsed().as_secs() > 30 {
                failed.push((template, result.map(|text| text.len()), began.elapsed()));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
        let e = render(&format!("\n\n{doubled}")).unwrap_err();
        assert_eq!(e, "the chat template does not end within 8 million steps or 488 MiB of text (line 3)");
    }
}
