//! Numbers for people.

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1.25 GiB`.
pub fn bytes(n: u64) -> String {
    let (mib, gib) = (1u64 << 20, 1u64 << 30);
    if n >= gib {
        format!("{:.2} GiB", n as f64 / gib as f64)
    } else {
        format!("{:.0} MiB", n as f64 / mib as f64)
    }
}

/// `1 h 05 min`, `3 min 20 s`, `12 s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, _) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// Four decimals, or an exponent where these say little.
pub fn number(v: f64) -> String {
    if v != 0.0 && v.is_finite() && !(0.001..100_000.0).contains(&v.abs()) {
        format!("{v:.3e}")
    } else {
        format!("{v:.4}")
    }
}

/// A plural where one is due.
pub fn plural(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// One line of at most `width` characters: white space runs together, a cut is marked.
pub fn one_line(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(width) {
        None => line,
        Some(_) => line.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// As [`one_line`], keeping the end of the text.
pub fn one_line_end(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() {
        n if n <= width => line,
        n => std::iter::once('…').chain(line.chars().skip(n + 1 - width)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([count(0), count(999), count(1000), count(1234567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(3 << 20), bytes(5 << 28)], ["3 MiB", "1.25 GiB"]);
        assert_eq!([duration(0.25), duration(59.6), duration(3900.0)], ["0.2 s", "1 min 00 s", "1 h 05 min"]);
        assert_eq!([number(1.0), number(2e-4), number(f64::INFINITY)], ["1.0000", "2.000e-4", "inf"]);
        assert_eq!(
            [one_line("a\n b  c", 5), one_line("äöü12", 4), one_line_end("äöü12", 4)],
            ["a b c", "äöü…", "…ü12"]
        );
    }
}
